package billing_test

import (
	"context"
	"errors"
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
