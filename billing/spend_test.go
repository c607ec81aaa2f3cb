package billing_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// softLimits are those of a key's, a project's and the organization's spend,
// from one amount on.
func softLimits(at time.Time, from billing.Money) []billing.SoftLimit {
	k := billing.Key{ID: "key_1", OrganizationID: org, UsageLimitReset: billing.Daily}
	project := billing.Project{OrganizationID: org, Name: "search", BudgetPeriod: billing.Weekly}
	return []billing.SoftLimit{
		{Allowance: billing.BudgetOf(org, billing.Monthly, at, billing.Sunday), Spend: from},
		{Allowance: billing.ProjectBudgetOf(&project, at, billing.Monday), Spend: from},
		{Allowance: billing.SpendOf(&k, at, billing.Sunday), Spend: from},
	}
}

var allSoft = []billing.AllowanceKind{billing.Budget, billing.ProjectBudget, billing.KeySpend}

// warned spends cost in a request, which has held more, and returns which of the
// soft limits it was warned of.
func (b *books) warned(t *testing.T, cost billing.Money, limits []billing.SoftLimit) []billing.AllowanceKind {
	t.Helper()
	s := settlement(cost)
	s.Project = "search"
	h, err := b.authorizer.Hold(t.Context(), billing.Claim{
		Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: cost + cent, Soft: limits,
	}, &s)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Settle(&s); err != nil {
		t.Fatal(err)
	}
	var kinds []billing.AllowanceKind
	for _, r := range h.SoftReached() {
		if r.Spent < r.Spend {
			t.Errorf("%s is reached with %d of %d", r.Allowance.Kind, r.Spent, r.Spend)
		}
		kinds = append(kinds, r.Allowance.Kind)
	}
	return kinds
}

func TestSoftLimitsAreExactOnOneNode(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		c := startCluster(t, 1, open, sole)
		b := c.nodes[0]
		b.buy(t, metering.USD)
		now := time.Now()
		const limit = 10 * cent
		limits := softLimits(now, limit)
		for i, step := range []struct {
			cost  billing.Money
			flush bool
			want  []billing.AllowanceKind
		}{
			{cost: 4 * cent},
			{cost: 3 * cent},
			{cost: 3*cent - 2, flush: true},
			{cost: 1},
			{cost: 0}, // a nano-dollar below
			{cost: 1, flush: true},
			{cost: 0, want: allSoft},
			{cost: 0, flush: true, want: allSoft},
			{cost: cent, want: allSoft},
		} {
			if got := b.warned(t, step.cost, limits); !cmp.Equal(got, step.want) {
				t.Errorf("step %d: warned of %v, want %v", i, got, step.want)
			}
			if step.flush {
				c.flush(t)
			}
		}
		// What was spent before somebody looked counts as well: posted or not.
		for i, p := range []billing.Period{billing.Daily, billing.Weekly, billing.Never} {
			b.warned(t, cent, nil)
			spent := limit + billing.Money(2+i)*cent
			a := billing.BudgetOf(org, p, now, billing.Saturday)
			at, above := billing.SoftLimit{Allowance: a, Spend: spent}, billing.SoftLimit{Allowance: a, Spend: spent + 1}
			if got := b.warned(t, 0, []billing.SoftLimit{at, above}); !cmp.Equal(got, allSoft[:1]) {
				t.Errorf("first look at %s: warned of %v, want of one budget", p, got)
			}
		}
		tomorrow := softLimits(now.AddDate(0, 0, 40), 1)
		if got := b.warned(t, 0, tomorrow); got != nil {
			t.Errorf("warned of %v in periods that have not begun", got)
		}
		c.checkBooks(t)
	})
}

// Requests in flight, batches on their way and outages of the store: each
// settlement counts once.
func TestSoftLimitsCountEachSettlementOnce(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		const clients, each = 8, 40
		c := startCluster(t, 1, open, sole)
		b := c.nodes[0]
		b.buy(t, 100*metering.USD)
		now := time.Now()
		exact := func(sum billing.Money) (at, above []billing.AllowanceKind) {
			return b.warned(t, 0, softLimits(now, sum)), b.warned(t, 0, softLimits(now, sum+1))
		}
		var sum atomic.Int64
		spend := func() {
			var group sync.WaitGroup
			for client := range clients {
				group.Go(func() {
					for i := range each {
						cost := billing.Money(1 + client*each + i)
						b.warned(t, cost, softLimits(now, 1))
						sum.Add(int64(cost))
					}
				})
			}
			group.Wait()
		}
		spend()
		if at, above := exact(billing.Money(sum.Load())); !cmp.Equal(at, allSoft) || above != nil {
			t.Errorf("after %d: warned of %v at it and %v above it", sum.Load(), at, above)
		}
		c.flush(t)
		if at, above := exact(billing.Money(sum.Load())); !cmp.Equal(at, allSoft) || above != nil {
			t.Errorf("after %d and a flush: warned of %v at it and %v above it", sum.Load(), at, above)
		}
		b.ledger.down.Store(true)
		spend()
		if at, above := exact(billing.Money(sum.Load())); !cmp.Equal(at, allSoft) || above != nil {
			t.Errorf("after %d in an outage: warned of %v at it and %v above it", sum.Load(), at, above)
		}
		b.ledger.down.Store(false)
		c.flush(t)
		if at, above := exact(billing.Money(sum.Load())); !cmp.Equal(at, allSoft) || above != nil {
			t.Errorf("after %d and an outage: warned of %v at it and %v above it", sum.Load(), at, above)
		}
		c.checkBooks(t)
	})
}

func TestSoftLimitsSeeOtherNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, openPostgres(t), billing.Options{})
	c.nodes[0].buy(t, metering.USD)
	limits := softLimits(time.Now(), 10*cent)
	if got := c.nodes[1].warned(t, 4*cent, limits); got != nil {
		t.Fatalf("at first: warned of %v", got)
	}
	c.nodes[0].warned(t, 6*cent, nil)
	c.flush(t)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got := c.nodes[1].warned(t, 0, limits); cmp.Equal(got, allSoft) {
			return
		}
	}
	t.Error("a node has not heard what another one has spent")
}

// muteStore does not say what is spent, at first.
type muteStore struct {
	billing.SpendStore
	speaks atomic.Bool
}

func (s *muteStore) Spend(ctx context.Context, ids []billing.Allowance) ([]billing.Money, error) {
	if !s.speaks.Load() {
		return nil, errors.New("not now")
	}
	return s.SpendStore.Spend(ctx, ids)
}

func TestSoftLimitsRefuseNothing(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	mute := &muteStore{SpendStore: b.store}
	b.lease(t, mute, sole)
	limits := softLimits(time.Now(), cent)
	for range 3 {
		if got := b.warned(t, cent, limits); got != nil {
			t.Errorf("warned of %v, of which nothing is known", got)
		}
	}
	mute.speaks.Store(true)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got := b.warned(t, 0, limits); cmp.Equal(got, allSoft) {
			return
		}
	}
	t.Error("nobody is warned although the store answers")
}
