//go:build unix

package admin

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // opens the database past the store

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// lockingStore has the second page of each export wait in the database.
type lockingStore struct {
	billing.Store

	lock func()
}

func (s *lockingStore) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	if page.After != "" {
		s.lock()
	}
	return s.Store.Requests(ctx, org, f, page)
}

const (
	// countWaiting are the exports that wait, countBusy all that other
	// connections have not ended.
	countWaiting = `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'exporting' AND wait_event_type = 'Lock'`

	countBusy = `SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'exporting' AND (state <> 'idle' OR xact_start IS NOT NULL)`
)

// What an export does in the database ends with its client, also in the middle
// of a query.
func TestAbortedExportsLeaveNothingInTheDatabase(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	store, err := postgres.Open(t.Context(), dsn+fmt.Sprintf("&application_name=exporting&pool_max_conns=%d", 4*maxExports))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	now := time.Now()
	if err := store.EnsureOrganization(t.Context(), billing.Organization{ID: billing.DefaultOrganization, Name: "Default", CreatedAt: now}); err != nil {
		t.Fatal(err)
	}
	var rows []billing.Settlement
	for n := range exportPage + 1 {
		rows = append(rows, request(fmt.Sprintf("r%05d", n), "key_a", day(1, 12), 1))
	}
	if _, err := store.Post(t.Context(), "node_1", rows); err != nil {
		t.Fatal(err)
	}

	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var once sync.Once
	locking := &lockingStore{Store: store, lock: func() {
		once.Do(func() {
			if _, err := tx.ExecContext(t.Context(), "LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"); err != nil {
				t.Error(err)
			}
		})
	}}
	target := serve(t, &testGateway{store: locking, token: testToken})
	until := func(query string, want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			var got int
			if err := db.QueryRowContext(t.Context(), query).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d connections, want %d: %s", got, want, query)
			}
		}
	}
	var clients []net.Conn
	for range maxExports {
		conn, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/audit/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testToken)
		clients = append(clients, conn)
		until(countWaiting, len(clients))
	}
	for _, conn := range clients {
		conn.Close()
	}
	until(countBusy, 0) // while the table is locked, nothing has ended by itself
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		f := download(t, target+"/v1/audit/export", "")
		if f.status == http.StatusOK && f.rows == fmt.Sprint(len(rows)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("status %d, %s rows after all clients have left", f.status, f.rows)
		}
	}
}
