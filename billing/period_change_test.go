package billing_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// A limit gets another period, or weeks another start, while a request is under
// way that holds most of it in the period of before. What that spends counts in
// the new period, too: it is not handed out twice. What it leaves can be spent.
func TestALimitHoldsWhenItsPeriodChanges(t *testing.T) {
	t.Parallel()
	type setting struct {
		period billing.Period
		week   billing.WeekStart
	}
	for name, test := range map[string]struct{ before, after setting }{
		"week start":       {setting{billing.Weekly, billing.Sunday}, setting{billing.Weekly, billing.Monday}},
		"longer period":    {setting{billing.Daily, ""}, setting{billing.Monthly, ""}},
		"shorter period":   {setting{billing.Never, ""}, setting{billing.Daily, ""}},
		"week after month": {setting{billing.Monthly, ""}, setting{billing.Weekly, billing.Saturday}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBothStores(t, func(t *testing.T, open func() billing.Store) {
				c := startForLoad(t, open, billing.DefaultPatience)
				n := c.nodes[0]
				n.buy(t, 100*metering.USD)
				key := n.key(t, metering.USD)
				set := func(s setting) {
					t.Helper()
					changed, err := n.store.UpdateKey(t.Context(), org, key.ID, func(k *billing.Key) error {
						k.UsageLimitReset = s.period
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					key = changed
					if err := n.authorizer.GiveBackKey(t.Context(), key.ID); err != nil {
						t.Fatal(err)
					}
				}
				at := time.Now()
				claim := func(week billing.WeekStart, amount billing.Money) billing.Claim {
					return billing.Claim{
						Allowances: []billing.Allowance{billing.SpendOf(&key, at, week), billing.CreditsOf(org)}, Amount: amount,
					}
				}
				hold := func(b *books, c billing.Claim) (*billing.Hold, *billing.Settlement, error) {
					s := settlement(0)
					s.KeyID, s.At = key.ID, at
					h, err := b.authorizer.Hold(t.Context(), c, &s)
					return h, &s, err
				}
				set(test.before)
				first, spent, err := hold(n, claim(test.before.week, 90*cent))
				if err != nil {
					t.Fatal(err)
				}
				set(test.after)
				last := c.nodes[len(c.nodes)-1]
				if _, _, err := hold(last, claim(test.after.week, 20*cent)); !errors.Is(err, billing.ErrSpendExceeded) {
					t.Errorf("20 of 10 cents that are left: %v", err)
				}
				second, more, err := hold(last, claim(test.after.week, 10*cent))
				if err != nil {
					t.Fatalf("what is left: %v", err)
				}
				spent.Cost, more.Cost = 40*cent, 10*cent
				if err := errors.Join(first.Settle(spent), second.Settle(more)); err != nil {
					t.Fatal(err)
				}
				c.flush(t)
				third, rest, err := hold(last, claim(test.after.week, 50*cent))
				for began := time.Now(); err != nil; { // it goes back in the background
					if time.Since(began) > 20*time.Second {
						t.Fatalf("what the first has left: %v", err)
					}
					third, rest, err = hold(last, claim(test.after.week, 50*cent))
				}
				rest.Cost = 50 * cent
				if err := third.Settle(rest); err != nil {
					t.Fatal(err)
				}
				c.flush(t)
				booked, err := n.store.Spend(t.Context(), []billing.Allowance{billing.SpendOf(&key, at, test.after.week)})
				if err != nil || booked[0] != metering.USD {
					t.Errorf("spent %v of 1.00 (%v)", booked, err)
				}
				c.checkBooks(t)
			})
		})
	}
}
