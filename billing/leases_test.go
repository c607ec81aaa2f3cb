package billing_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// spend sends one request through the authorizer.
func (b *books) spend(ctx context.Context, hold, cost billing.Money, keyID string, allowances ...billing.Allowance) error {
	s := settlement(cost)
	s.KeyID = keyID
	h, err := b.authorizer.Hold(ctx, billing.Claim{Allowances: allowances, Amount: hold}, &s)
	if err == nil {
		err = h.Settle(&s)
	}
	return err
}

func monthly(key billing.Key) billing.Allowance {
	return billing.Allowance{
		OrganizationID: org, Kind: billing.KeySpend, Subject: key.ID,
		Period: billing.Monthly, Start: billing.Monthly.Start(time.Now(), billing.Sunday),
	}
}

// checkLeases proves that the node believes to have what the store says.
func (b *books) checkLeases(t *testing.T) {
	t.Helper()
	if err := b.poster.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	leases, err := b.store.LeasesOf(t.Context(), b.journal.Node())
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[billing.Allowance]billing.Money)
	for _, l := range leases {
		stored[l.Allowance] = l.Amount
	}
	if diff := cmp.Diff(stored, b.authorizer.Leased()); diff != "" {
		t.Errorf("leases (-store +node):\n%s", diff)
	}
}

func TestCreditsBoughtAfterAnOverspendCanBeUsed(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	credits := billing.CreditsOf(org)
	b.buy(t, metering.USD)
	if err := b.spend(t.Context(), cent, 3*metering.USD, "key_1", credits); err != nil {
		t.Fatal(err)
	}
	b.check(t, -2*metering.USD)
	if err := b.spend(t.Context(), cent, cent, "key_1", credits); !errors.Is(err, billing.ErrInsufficientCredits) {
		t.Errorf("spending on debt: %v", err)
	}
	b.buy(t, 5*metering.USD)
	if err := b.spend(t.Context(), 3*metering.USD, 3*metering.USD, "key_1", credits); err != nil {
		t.Errorf("all that is left after the debt cannot be spent: %v", err)
	}
	b.check(t, 0)
	b.checkLeases(t)
}

func TestChangedBudgetAppliesToTheNextHold(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	set := func(limit billing.Money) {
		t.Helper()
		_, err := b.store.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
			o.Budget, o.BudgetPeriod = &limit, billing.Weekly
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	budget := billing.BudgetOf(org, billing.Weekly, time.Now(), billing.Sunday)
	spend := func(cost billing.Money) error { return b.spend(t.Context(), cost, cost, "key_1", budget) }
	set(50 * cent)
	if err := spend(10 * cent); err != nil {
		t.Fatal(err)
	}
	if err := spend(41 * cent); !errors.Is(err, billing.ErrBudgetExceeded) {
		t.Errorf("more than the budget: %v", err)
	}
	for _, step := range []struct {
		giveBack     func() error
		limit, spend billing.Money
		want         error
	}{
		{func() error { return b.authorizer.GiveBackBudget(t.Context(), org) }, 15 * cent, 6 * cent, billing.ErrBudgetExceeded},
		{func() error { return b.authorizer.GiveBackKeys(t.Context()) }, 15 * cent, 5 * cent, nil},
		{func() error { return b.authorizer.GiveBackBudget(t.Context(), org) }, 5 * cent, 1, billing.ErrBudgetExceeded},
		{func() error { return b.authorizer.GiveBackKeys(t.Context()) }, 20 * cent, 5 * cent, nil},
	} {
		set(step.limit)
		if err := step.giveBack(); err != nil {
			t.Fatal(err)
		}
		if err := spend(step.spend); !errors.Is(err, step.want) {
			t.Errorf("budget %s: spending %s: %v, want %v", step.limit, step.spend, err, step.want)
		}
	}
	b.checkLeases(t)
}

func TestChangingOneKeyDoesNotRefuseAnother(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	key := b.key(t, 500*metering.USD)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := b.spend(t.Context(), cent, cent/1000, key.ID, monthly(key)); err != nil {
					t.Errorf("a key with 500 USD left: %v", err)
					return
				}
			}
		})
	}
	for range 100 {
		if err := b.authorizer.GiveBackKeys(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	b.checkLeases(t)
}

func TestOneOfSeveralNodesGivesBackWhatItDoesNotUse(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.lease(t, b.store, billing.Options{})
	credits := billing.CreditsOf(org)
	b.buy(t, 100*metering.USD)
	if err := b.spend(t.Context(), metering.USD, cent, "key_1", credits); err != nil {
		t.Fatal(err)
	}
	if leased := b.authorizer.Leased()[credits]; leased <= 2*metering.USD || leased >= 20*metering.USD {
		t.Errorf("leased %s for a hold of 1.00", leased)
	}
	if err := b.authorizer.GiveBackIdle(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	b.checkLeases(t)
	if leased := b.authorizer.Leased()[credits]; leased > 5*metering.USD {
		t.Errorf("still leased %s for a demand of 0.01 and a hold of 1.00", leased)
	}
	if err := b.spend(t.Context(), metering.USD, cent, "key_1", credits); err != nil {
		t.Errorf("after giving all back: %v", err)
	}
	b.check(t, 100*metering.USD-2*cent)
}

func TestRequestsAboveTheirHoldsDoNotRefuseOthers(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.lease(t, slowLeases{b.store}, billing.Options{})
	b.buy(t, 1_000_000*metering.USD)
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range 20 { // each costs a hundred times its hold
				if err := b.spend(t.Context(), cent, metering.USD, "key_1", billing.CreditsOf(org)); err != nil {
					t.Errorf("with credits for all of it: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	b.check(t, (1_000_000-64*20)*metering.USD)
	b.checkLeases(t)
}

// slowLeases gives others time to spend while a lease is under way.
type slowLeases struct{ billing.SpendStore }

func (l slowLeases) Lease(ctx context.Context, node string, want []billing.Want) ([]billing.Grant, error) {
	time.Sleep(2 * time.Millisecond)
	return l.SpendStore.Lease(ctx, node, want)
}

func TestLeasesOfEndedPeriodsAreGivenBack(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	key := b.key(t, 10*cent)
	if err := b.spend(t.Context(), cent, cent, key.ID, monthly(key)); err != nil {
		t.Fatal(err)
	}
	if err := b.authorizer.GiveBackIdle(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if len(b.authorizer.Leased()) == 0 {
		t.Error("a sole node gave back what nobody else can need")
	}
	if err := b.poster.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.authorizer.GiveBackIdle(t.Context(), time.Now().AddDate(0, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if leased := b.authorizer.Leased(); len(leased) != 0 {
		t.Errorf("leases of last month: %v", leased)
	}
	b.checkLeases(t)
}

// flakyLeases fails on demand, before or after the store has done its work.
type flakyLeases struct {
	billing.SpendStore
	failBefore, failAfter atomic.Bool
	lost                  atomic.Int64 // answers
}

func (l *flakyLeases) around(work func() error) error {
	if l.failBefore.Load() {
		return errDown
	}
	err := work()
	if err == nil && l.failAfter.Load() {
		l.lost.Add(1)
		err = errDown
	}
	return err
}

func (l *flakyLeases) Lease(ctx context.Context, node string, want []billing.Want) (granted []billing.Grant, err error) {
	err = l.around(func() error { granted, err = l.SpendStore.Lease(ctx, node, want); return err })
	return granted, err
}

func (l *flakyLeases) Return(ctx context.Context, node string, leases []billing.Lease) error {
	return l.around(func() error { return l.SpendStore.Return(ctx, node, leases) })
}

func TestLeasesAreKnownAgainAfterAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fails func(*flakyLeases) *atomic.Bool
	}{
		{"not done", func(l *flakyLeases) *atomic.Bool { return &l.failBefore }},
		{"done, and the answer lost", func(l *flakyLeases) *atomic.Bool { return &l.failAfter }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := openBooks(t, t.TempDir())
			flaky := &flakyLeases{SpendStore: b.store}
			b.lease(t, flaky, sole)
			key := b.key(t, 10*cent)
			spend := func() error { return b.spend(t.Context(), cent, cent, key.ID, monthly(key)) }
			failing := test.fails(flaky)

			failing.Store(true)
			if err := spend(); !errors.Is(err, billing.ErrUnavailable) {
				t.Fatalf("first lease: %v", err)
			}
			failing.Store(false)
			if err := spend(); err != nil {
				t.Fatalf("after a failed lease: %v", err)
			}
			failing.Store(true)
			if err := b.authorizer.GiveBackKeys(t.Context()); !errors.Is(err, errDown) {
				t.Fatalf("give back: %v", err)
			}
			failing.Store(false)
			for i := range 9 {
				if err := spend(); err != nil {
					t.Fatalf("request %d after a failed return: %v", i, err)
				}
			}
			if err := spend(); !errors.Is(err, billing.ErrSpendExceeded) {
				t.Errorf("beyond the limit: %v", err)
			}
			b.checkLeases(t)
		})
	}
}

// forgetful posts, and then says that it failed.
type forgetful struct {
	billing.Ledger
	forget atomic.Int64
}

func (l *forgetful) Post(ctx context.Context, node string, batch []billing.Settlement) ([]string, error) {
	conflicts, err := l.Ledger.Post(ctx, node, batch)
	if err == nil && l.forget.Add(-1) >= 0 {
		err = errDown
	}
	return conflicts, err
}

func TestPostsOfUnknownOutcomeSpendALeaseOnce(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	ledger := &forgetful{Ledger: b.store}
	b.poster = billing.NewPoster(ledger, b.journal, b.journal.Node(), silent{})
	b.lease(t, b.store, sole)
	for i := range 10 {
		ledger.forget.Store(int64(i % 3))
		if err := b.spend(t.Context(), 10*cent, 10*cent, "key_1", billing.CreditsOf(org)); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		b.checkLeases(t)
	}
	b.check(t, 0)
}

func TestNodeAndStoreAgreeAfterAnything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		b := openBooks(t, t.TempDir())
		random := rand.New(rand.NewPCG(seed, 0))
		b.buy(t, metering.USD)
		keys := []billing.Key{b.key(t, 30*cent), b.key(t, 300*cent)}
		for range 200 {
			key := keys[random.IntN(len(keys))]
			switch random.IntN(10) {
			case 0:
				b.buy(t, billing.Money(1+random.IntN(20))*cent)
			case 1:
				if err := b.authorizer.GiveBackKey(t.Context(), key.ID); err != nil {
					t.Fatal(err)
				}
			case 2:
				if err := b.poster.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			default: // may cost more than its hold
				hold, cost := billing.Money(random.IntN(5)+1)*cent, billing.Money(random.IntN(8))*cent
				_ = b.spend(t.Context(), hold, cost, key.ID, billing.CreditsOf(org), monthly(key))
			}
		}
		b.checkLeases(t)
		v, err := b.store.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
		if err != nil || v.Imbalance() != 0 {
			t.Errorf("seed %d: failed checks %+v (%v)", seed, v.Failed(), err)
		}
	}
}
