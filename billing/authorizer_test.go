package billing_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	org  = billing.DefaultOrganization
	cent = metering.USD / 100
)

func TestSettledCostLeavesTheBalance(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	s := settlement(3 * cent)
	h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: 10 * cent}, &s)
	if err != nil {
		t.Fatal(err)
	}
	if held := b.authorizer.Held(org); held != 10*cent {
		t.Errorf("held %s while open, want 0.10", held)
	}
	if err := h.Settle(&s); err != nil {
		t.Fatal(err)
	}
	if err := h.Settle(&s); err == nil {
		t.Error("a hold could be settled twice")
	}
	if held := b.authorizer.Held(org); held != 0 {
		t.Errorf("held %s after settling, want 0", held)
	}
	b.check(t, 97*cent)
}

func TestHoldsAreRefusedByTheAllowanceThatIsShort(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	key := b.key(t, 5*cent)
	credits := billing.CreditsOf(org)
	spend := billing.Allowance{
		OrganizationID: org, Kind: billing.KeySpend, Subject: key.ID,
		Period: billing.Monthly, Start: billing.Monthly.Start(time.Now(), billing.Sunday),
	}
	for _, test := range []struct {
		name       string
		allowances []billing.Allowance
		amount     billing.Money
		want       error
	}{
		{"within both", []billing.Allowance{credits, spend}, 5 * cent, nil},
		{"above the key's limit", []billing.Allowance{credits, spend}, 6 * cent, billing.ErrSpendExceeded},
		{"above the credits", []billing.Allowance{credits}, 101 * cent, billing.ErrInsufficientCredits},
		{"above both", []billing.Allowance{credits, spend}, 101 * cent, billing.ErrInsufficientCredits},
		{"free", nil, 0, nil},
	} {
		s := settlement(0)
		s.KeyID = key.ID
		h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: test.allowances, Amount: test.amount}, &s)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: error %v, want %v", test.name, err, test.want)
		}
		if h != nil {
			h.Settle(&s)
		}
	}
	if held := b.authorizer.Held(org); held != 0 {
		t.Errorf("refused holds left %s held", held)
	}
	b.check(t, metering.USD)
}

func TestManyClientsSpendAllOfALimitAndNoMore(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	key := b.key(t, 60*cent)
	allowances := []billing.Allowance{billing.CreditsOf(org), {
		OrganizationID: org, Kind: billing.KeySpend, Subject: key.ID,
		Period: billing.Monthly, Start: billing.Monthly.Start(time.Now(), billing.Sunday),
	}}
	var served atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for {
				s := settlement(cent / 4)
				s.KeyID = key.ID
				h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: allowances, Amount: cent / 2}, &s)
				if errors.Is(err, billing.ErrSpendExceeded) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				served.Add(1)
				if err := h.Settle(&s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	spent := billing.Money(served.Load()) * cent / 4
	if spent > 60*cent || spent < 60*cent-cent/2 {
		t.Errorf("spent %s of a limit of 0.60 with holds of 0.005", spent)
	}
	b.check(t, metering.USD-spent)
}

func TestExtendedHoldsStayWithinTheLimit(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, 10*cent)
	s := settlement(10 * cent)
	h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: 4 * cent}, &s)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Extend(t.Context(), 6*cent, 0); err != nil {
		t.Errorf("extending to all of the credits: %v", err)
	}
	if err := h.Extend(t.Context(), 1, 0); !errors.Is(err, billing.ErrInsufficientCredits) {
		t.Errorf("extending beyond the credits: %v", err)
	}
	h.Settle(&s)
	b.check(t, 0)
}

func TestNothingIsAuthorizedThatTheJournalDoesNotTake(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	b.journal.Close()
	s := settlement(cent)
	_, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: cent}, &s)
	if !errors.Is(err, billing.ErrUnavailable) {
		t.Errorf("hold without a journal: %v, want %v", err, billing.ErrUnavailable)
	}
	if held := b.authorizer.Held(org); held != 0 {
		t.Errorf("the refused hold left %s held", held)
	}
}

func TestLeasesLastThroughAnOutageOfTheStore(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	spend := func() error {
		s := settlement(cent)
		h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: cent}, &s)
		if err == nil {
			err = h.Settle(&s)
		}
		return err
	}
	if err := spend(); err != nil { // takes the lease
		t.Fatal(err)
	}
	b.ledger.down.Store(true)
	for i := range 49 {
		if err := spend(); err != nil {
			t.Fatalf("request %d of the outage: %v", i, err)
		}
	}
	for b.ledger.failed.Load() < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	b.ledger.down.Store(false)
	b.check(t, 50*cent)
}

func TestACrashLosesNothingAndDebitsNothingTwice(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	hold := func(cost billing.Money) (*billing.Hold, billing.Settlement) {
		s := settlement(cost)
		estimate := s
		estimate.Recovered, estimate.UsageSource, estimate.Error = true, metering.SourceEstimated, "interrupted"
		h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: 5 * cent}, &estimate)
		if err != nil {
			t.Fatal(err)
		}
		return h, s
	}
	posted, s1 := hold(cent)
	posted.Settle(&s1)
	b.poster.Flush(t.Context())
	b.ledger.down.Store(true)
	settled, s2 := hold(2 * cent)
	settled.Settle(&s2)
	_, s3 := hold(3 * cent) // still open

	b.crash(t)
	b = openBooks(t, b.dir)
	b.check(t, 94*cent)
	b.crash(t)
	b = openBooks(t, b.dir) // a second replay changes nothing
	b.check(t, 94*cent)
	row, err := b.store.Request(t.Context(), org, s3.RequestID)
	if err != nil || row.UsageSource != metering.SourceEstimated || row.Error != "interrupted" {
		t.Errorf("open request after the crash: %+v (%v), want an estimate", row, err)
	}
	s := settlement(0)
	if _, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: 94 * cent}, &s); err != nil {
		t.Errorf("all that is left cannot be held: %v", err)
	}
}

func TestFlushReturnsUnderConstantLoad(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				b.poster.Post(settlement(0))
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i := range 5 {
		if err := b.poster.Flush(ctx); err != nil {
			t.Errorf("flush %d: %v", i, err)
		}
	}
	close(stop)
	group.Wait()
}

func TestChangedKeyLimitAppliesToTheNextHold(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	key := b.key(t, 50*cent)
	allowance := billing.Allowance{
		OrganizationID: org, Kind: billing.KeySpend, Subject: key.ID,
		Period: billing.Monthly, Start: billing.Monthly.Start(time.Now(), billing.Sunday),
	}
	spend := func(cost billing.Money) error {
		s := settlement(cost)
		s.KeyID = key.ID
		h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{allowance}, Amount: cost}, &s)
		if err == nil {
			err = h.Settle(&s)
		}
		return err
	}
	if err := spend(10 * cent); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		limit, spend billing.Money
		want         error
	}{
		{15 * cent, 6 * cent, billing.ErrSpendExceeded},
		{15 * cent, 5 * cent, nil},
		{5 * cent, 1, billing.ErrSpendExceeded},
		{20 * cent, 5 * cent, nil},
	} {
		_, err := b.store.UpdateKey(t.Context(), org, key.ID, func(k *billing.Key) error {
			k.UsageLimit = &step.limit
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.authorizer.GiveBackKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := spend(step.spend); !errors.Is(err, step.want) {
			t.Errorf("limit %s: spending %s: %v, want %v", step.limit, step.spend, err, step.want)
		}
	}
}

func BenchmarkHoldAndSettle(b *testing.B) {
	dir := b.TempDir()
	store, err := sqlite.Open(b.Context(), filepath.Join(dir, "gateway.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	store.EnsureOrganization(b.Context(), billing.Organization{ID: org, Name: org, CreatedAt: time.Now()})
	store.Append(b.Context(), billing.Entry{
		OrganizationID: org, Type: billing.Purchase, Amount: 1_000_000 * metering.USD, CreatedAt: time.Now(), IdempotencyKey: "1",
	})
	j, _, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	poster := billing.NewPoster(store, j, j.Node(), silent{})
	defer poster.Close(context.Background())
	a := billing.NewAuthorizer(store, j, poster, sole)
	defer a.Close()
	allowances := []billing.Allowance{billing.CreditsOf(org)}
	b.ReportAllocs()
	for b.Loop() {
		s := settlement(cent / 1000)
		h, err := a.Hold(b.Context(), billing.Claim{Allowances: allowances, Amount: cent}, &s)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Settle(&s); err != nil {
			b.Fatal(err)
		}
	}
}
