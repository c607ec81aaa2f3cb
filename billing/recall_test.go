package billing_test

import (
	"context"
	"errors"
	"slices"
	"strings"
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
