package billing_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// contested is a store where others have all there is. Once, when all that two
// requests need is asked for, it has that. Then it is slow to say that there is
// nothing left.
type contested struct {
	billing.Store
	enough  billing.Money
	slow    time.Duration
	granted atomic.Bool
}

func (c *contested) Lease(ctx context.Context, node string, want []billing.Want) ([]billing.Grant, error) {
	w := want[0]
	grant := billing.Grant{Lease: billing.Lease{Allowance: w.Allowance}, Elsewhere: c.enough}
	switch {
	case c.granted.Load():
		time.Sleep(c.slow)
		grant.Elsewhere = 0
	case w.Ahead == 0 && w.Need == c.enough:
		c.granted.Store(true)
		grant.Amount = w.Need
	}
	return []billing.Grant{grant}, nil
}

// Of two requests one takes what was granted for both. The other one is told
// that the limit is reached: the store is there, and has said so.
func TestWhoCameTooLateIsRefusedByTheLimit(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	const patience = 300 * time.Millisecond
	store := &contested{Store: b.store, enough: 6 * metering.USD, slow: 2 * patience}
	b.lease(t, store, billing.Options{Patience: patience})
	answers := make(chan error)
	for _, claim := range []billing.Claim{
		{Amount: 6 * metering.USD, Least: metering.USD}, {Amount: 5 * metering.USD},
	} {
		claim.Allowances = []billing.Allowance{billing.CreditsOf(org)}
		go func() {
			s := settlement(0)
			_, err := b.authorizer.Hold(t.Context(), claim, &s)
			answers <- err
		}()
		time.Sleep(patience / 6) // in this order
	}
	if first, second := <-answers, <-answers; first != nil || !errors.Is(second, billing.ErrInsufficientCredits) {
		t.Errorf("first %v, second %v", first, second)
	}
}

// stuck is a store that lends an amount once, and nothing from then on. When it
// is stuck it does not answer until it is released.
type stuck struct {
	billing.Store
	amount   atomic.Int64
	stuck    atomic.Bool
	asked    func() // may be called again
	released chan struct{}
}

func (s *stuck) Lease(_ context.Context, _ string, want []billing.Want) ([]billing.Grant, error) {
	if s.stuck.Load() {
		s.asked()
		<-s.released
		return nil, errDown
	}
	amount := billing.Money(s.amount.Swap(0))
	return []billing.Grant{{Lease: billing.Lease{Allowance: want[0].Allowance, Amount: amount}}}, nil
}

// Who waits for an answer that another request has asked for is refused when
// time is up: by the limit, if the store has said before that it is reached.
func TestWhoWaitsForAnotherIsRefusedByTheLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		dry  bool
		want error
	}{
		"said before": {true, billing.ErrInsufficientCredits},
		"never said":  {false, billing.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBooks(t, t.TempDir())
			asked := make(chan struct{})
			store := &stuck{Store: b.store, asked: sync.OnceFunc(func() { close(asked) }), released: make(chan struct{})}
			store.amount.Store(int64(metering.USD))
			b.lease(t, store, billing.Options{Sole: true, Patience: 100*time.Millisecond - billing.StoreTimeout})
			hold := func() error {
				s := settlement(0)
				claim := billing.Claim{Amount: metering.USD, Allowances: []billing.Allowance{billing.CreditsOf(org)}}
				_, err := b.authorizer.Hold(t.Context(), claim, &s)
				return err
			}
			if test.dry {
				if err := hold(); err != nil {
					t.Fatal(err)
				}
				if err := hold(); !errors.Is(err, test.want) {
					t.Fatalf("with nothing left: %v", err)
				}
			}
			store.stuck.Store(true)
			asking := make(chan error, 1)
			go func() { asking <- hold() }()
			<-asked
			if err := hold(); !errors.Is(err, test.want) {
				t.Errorf("refused with %v, want %v", err, test.want)
			}
			close(store.released)
			if err := <-asking; err == nil {
				t.Error("who has asked got what is not there")
			}
		})
	}
}
