//go:build unix

package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// Whoever may read the audit trail must not hold up everybody's requests, which
// need a connection for their keys and their leases.
func TestReportsLeaveConnectionsToMoney(t *testing.T) {
	t.Parallel()
	store, err := postgres.Open(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	slow, err := pgx.Connect(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close(context.WithoutCancel(t.Context()))
	if _, err := slow.Exec(t.Context(), `BEGIN; LOCK TABLE requests, entries, changes IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	reading, stop := context.WithCancel(t.Context())
	ended := make(chan struct{}, 100)
	for range cap(ended) / 4 {
		for _, report := range []func(org string){
			func(org string) { _, _ = store.Requests(reading, org, billing.Filter{}, billing.Page{Limit: 1}) },
			func(org string) { _, _ = store.Usage(reading, org, billing.Filter{}, billing.Grouping{}) },
			func(org string) {
				_, _ = store.Transactions(reading, org, billing.EntryFilter{}, billing.Page{Limit: 1})
			},
			func(org string) {
				_, _ = store.ListChanges(reading, org, billing.ChangeFilter{}, billing.Page{Limit: 1})
			},
		} {
			go func() {
				report(billing.NewID("org", time.Now()))
				ended <- struct{}{}
			}()
		}
	}
	time.Sleep(100 * time.Millisecond) // let them begin
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := store.KeysByHash(ctx, []billing.KeyHash{{1}}); err != nil {
		t.Errorf("beside reports that hang: %v", err)
	}
	stop()
	for range cap(ended) {
		<-ended
	}
}
