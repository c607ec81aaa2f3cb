package billing_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// books is a node with its real journal and store.
type books struct {
	dir        string
	store      billing.Store
	journal    *journal.Journal
	poster     *billing.Poster
	authorizer *billing.Authorizer
	ledger     *flakyLedger
}

// flakyLedger is the store's ledger, with outages on demand.
type flakyLedger struct {
	billing.Ledger
	down   atomic.Bool
	failed atomic.Int64
}

var errDown = errors.New("database is away")

func (l *flakyLedger) Post(ctx context.Context, node string, batch []billing.Settlement) ([]string, error) {
	if l.down.Load() {
		l.failed.Add(1)
		return nil, errDown
	}
	return l.Ledger.Post(ctx, node, batch)
}

type silent struct{}

func (silent) Posted([]billing.Settlement) {}
func (silent) PostFailed(error)            {}
func (silent) PostConflict([]string)       {}

func (silent) PostRejected(*billing.Settlement, error, string) {
}

// openBooks opens the node in dir, as a start of the gateway does.
func openBooks(t *testing.T, dir string) *books {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	err = store.EnsureOrganization(t.Context(), billing.Organization{ID: org, Name: org, CreatedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	j, recovered, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	if _, err := store.Post(t.Context(), j.Node(), recovered.Settlements); err != nil {
		t.Fatal(err)
	}
	j.Forget(recovered)
	if err := store.ReturnAll(t.Context(), j.Node()); err != nil {
		t.Fatal(err)
	}
	b := &books{dir: dir, store: store, journal: j, ledger: &flakyLedger{Ledger: store}}
	b.poster = billing.NewPoster(b.ledger, j, j.Node(), silent{})
	b.lease(t, store, sole)
	return b
}

// sole are the options of the only node, which does not wait for long.
var sole = billing.Options{Sole: true, Patience: 100 * time.Millisecond}

// lease gives the node an authorizer.
func (b *books) lease(t *testing.T, store billing.SpendStore, options billing.Options) {
	t.Helper()
	if b.authorizer != nil {
		b.authorizer.Close()
	}
	b.authorizer = billing.NewAuthorizer(store, b.journal, b.poster, options)
	t.Cleanup(b.authorizer.Close)
}

// crash ends the node as kill -9 does: what is not on disk is lost.
func (b *books) crash(t *testing.T) {
	t.Helper()
	b.ledger.down.Store(true)
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	b.poster.Close(stopped)
	b.journal.Close()
	b.store.Close()
}

func (b *books) buy(t *testing.T, amount billing.Money) {
	t.Helper()
	_, err := b.store.Append(t.Context(), billing.Entry{
		OrganizationID: org, Type: billing.Purchase, Amount: amount,
		CreatedAt: time.Now(), IdempotencyKey: billing.NewID("buy", time.Now()),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *books) key(t *testing.T, limit billing.Money) billing.Key {
	t.Helper()
	secret := billing.NewSecret()
	key := billing.Key{
		ID: billing.NewID("key", time.Now()), OrganizationID: org, Name: "test",
		Hash: billing.HashSecret(secret), Prefix: billing.DisplayPrefix(secret),
		UsageLimit: &limit, UsageLimitReset: billing.Monthly, CreatedAt: time.Now(),
	}
	if err := b.store.CreateKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	return key
}

func settlement(cost billing.Money) billing.Settlement {
	now := time.Now()
	return billing.Settlement{
		RequestID: billing.NewID("req", now), OrganizationID: org, KeyID: "key_1", At: now.UTC(),
		Provider: "openai", Model: "gpt-4o", UsageSource: metering.SourceProvider, Status: 200,
		Cost: cost, MarketCost: cost,
	}
}

// check flushes the node and proves its books.
func (b *books) check(t *testing.T, balance billing.Money) {
	t.Helper()
	if err := b.poster.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	account, err := b.store.Account(t.Context(), org)
	if err != nil {
		t.Fatal(err)
	}
	if account.Balance != balance {
		t.Errorf("balance is %s, want %s", account.Balance, balance)
	}
	v, err := b.store.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks are %+v (%v), want none", v.Failed(), err)
	}
}
