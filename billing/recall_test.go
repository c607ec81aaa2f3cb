package billing_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// returnsLater does not take leases back at the first try.
type returnsLater struct {
	billing.SpendStore
	tries atomic.Int32
}

func (l *returnsLater) Return(ctx context.Context, node string, leases []billing.Lease) error {
	if l.tries.Add(1) == 1 {
		return errors.New("not now")
	}
	return l.SpendStore.Return(ctx, node, leases)
}

func TestLeasesOfWhatHasChangedAreRecalled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		changed func(first, second billing.Key) billing.Changes
		left    []string
	}{
		"a key": {
			func(first, _ billing.Key) billing.Changes {
				return billing.Changes{Keys: []billing.KeyRef{{OrganizationID: org, ID: first.ID}}}
			},
			[]string{"budget", "credits", "second"},
		},
		"the organization": {
			func(billing.Key, billing.Key) billing.Changes {
				return billing.Changes{Organizations: []string{org}}
			},
			[]string{"credits"},
		},
		"another organization": {
			func(first, _ billing.Key) billing.Changes {
				return billing.Changes{Organizations: []string{"another"}, Keys: []billing.KeyRef{{OrganizationID: org, ID: first.ID}}}
			},
			[]string{"budget", "credits", "second"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBooks(t, t.TempDir())
			b.lease(t, &returnsLater{SpendStore: b.store}, sole)
			b.buy(t, 100*cent)
			budget := 50 * cent
			_, err := b.store.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
				o.Budget, o.BudgetPeriod = &budget, billing.Weekly
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			names := map[string]string{"": ""}
			first, second := b.key(t, 10*cent), b.key(t, 10*cent)
			for name, k := range map[string]billing.Key{"first": first, "second": second} {
				names[k.ID] = name
				err := b.spend(t.Context(), cent, cent, k.ID,
					monthly(k), billing.CreditsOf(org), billing.BudgetOf(org, billing.Weekly, time.Now(), billing.Sunday))
				if err != nil {
					t.Fatal(err)
				}
			}
			left := func() []string {
				leases, err := b.store.LeasesOf(t.Context(), b.journal.Node())
				if err != nil {
					t.Fatal(err)
				}
				var left []string
				for _, l := range leases {
					left = append(left, strings.TrimPrefix(string(l.Allowance.Kind), string(billing.KeySpend))+names[l.Allowance.Subject])
				}
				slices.Sort(left)
				return left
			}
			if diff := cmp.Diff([]string{"budget", "credits", "first", "second"}, left()); diff != "" {
				t.Fatalf("leases before (-want +got):\n%s", diff)
			}
			b.authorizer.Recall(test.changed(first, second))
			deadline := time.Now().Add(10 * time.Second)
			for !slices.Equal(left(), test.left) && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			if diff := cmp.Diff(test.left, left()); diff != "" {
				t.Errorf("leases that are left (-want +got):\n%s", diff)
			}
		})
	}
}

// What open requests leave of their holds was granted under the limit of before:
// the next requests do not get it.
func TestHoldsOfBeforeAChangeLeaveNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		apply func(b *books, key billing.Key) error
		// more requests may pass until it has been applied.
		more int
	}{
		"where it is changed": {func(b *books, key billing.Key) error {
			return b.authorizer.GiveBackKey(t.Context(), key.ID)
		}, 0},
		"on another node": {func(b *books, key billing.Key) error {
			b.authorizer.Recall(billing.Changes{Keys: []billing.KeyRef{{OrganizationID: org, ID: key.ID}}})
			return nil
		}, 5_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBooks(t, t.TempDir())
			b.lease(t, b.store, billing.Options{Patience: 100 * time.Millisecond})
			b.buy(t, 100*cent)
			key := b.key(t, 10*cent)
			const cost = cent / 10_000
			begin := func() (*billing.Hold, *billing.Settlement, error) {
				s := settlement(cost)
				s.KeyID = key.ID
				h, err := b.authorizer.Hold(t.Context(), billing.Claim{
					Allowances: []billing.Allowance{monthly(key), billing.CreditsOf(org)},
					Amount:     cent, Least: cost,
				}, &s)
				return h, &s, err
			}
			open, s, err := begin()
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.store.UpdateKey(t.Context(), org, key.ID, func(k *billing.Key) error {
				*k.UsageLimit = 0
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := test.apply(b, key); err != nil {
				t.Fatal(err)
			}
			for passed := 0; err == nil; passed++ {
				if passed > test.more {
					t.Fatalf("%d requests pass after the change", passed)
				}
				if err := open.Settle(s); err != nil {
					t.Fatal(err)
				}
				open, s, err = begin()
				time.Sleep(time.Millisecond)
			}
			if !errors.Is(err, billing.ErrSpendExceeded) {
				t.Errorf("the next request got %v", err)
			}
			b.checkLeases(t)
		})
	}
}

// countsReturns counts how often leases are given back.
type countsReturns struct {
	billing.SpendStore
	returns atomic.Int32
}

func (c *countsReturns) Return(ctx context.Context, node string, leases []billing.Lease) error {
	c.returns.Add(1)
	return c.SpendStore.Return(ctx, node, leases)
}

// A change recalls what is open then, and not what begins after it.
func TestARecallEndsUnderLoad(t *testing.T) {
	t.Parallel()
	const clients = 4
	b := openBooks(t, t.TempDir())
	store := &countsReturns{SpendStore: b.store}
	b.lease(t, store, billing.Options{Sole: true})
	key := b.key(t, 500*cent)
	var passed atomic.Int32
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for passed.Add(1) < 5_000 {
				s := settlement(cent / 1000)
				s.KeyID = key.ID
				h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{monthly(key)}, Amount: cent}, &s)
				if err != nil {
					t.Errorf("a key with 5 USD: %v", err)
					return
				}
				time.Sleep(time.Millisecond)
				if err := h.Settle(&s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for passed.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	if err := b.authorizer.GiveBackKey(t.Context(), key.ID); err != nil {
		t.Error(err)
	}
	group.Wait()
	if n := store.returns.Load(); n > 1+clients {
		t.Errorf("given back %d times for %d requests that were open", n, clients)
	}
	b.checkLeases(t)
}
