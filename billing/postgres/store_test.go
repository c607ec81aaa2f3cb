//go:build unix

package postgres_test

import (
	"database/sql"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/billingtest"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

func open(t *testing.T) billing.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) { billingtest.Run(t, open) }

func TestProofs(t *testing.T) {
	billingtest.RunProofs(t, open, raw,
		"DROP TRIGGER entries_no_update ON entries", "DROP TRIGGER entries_no_delete ON entries",
		"DROP TRIGGER requests_no_update ON requests", "DROP TRIGGER requests_no_delete ON requests")
}

// raw opens the test's database past the store.
func raw(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestTheLedgerCannotBeTruncated(t *testing.T) {
	t.Parallel()
	open(t).Close()
	for _, table := range []string{"entries", "requests"} {
		if _, err := raw(t).ExecContext(t.Context(), "TRUNCATE "+table); err == nil {
			t.Errorf("%s was truncated", table)
		}
	}
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	open(t).Close()
	_, err := raw(t).ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (700, true)")
	if err != nil {
		t.Fatal(err)
	}
	_, err = postgres.Open(t.Context(), pgtest.DSN(t))
	want := "database schema is version 700, this binary knows "
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
}

func TestNodesMayOpenAnEmptyDatabaseAtOnce(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
}

func TestOpenExplainsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://gateway:secret@127.0.0.1:1/books": "connection refused",
		"postgres://gateway:secret@127.0.0.1:x/books": "cannot parse",
		"host=/nonexistent password=secret":           "no such file or directory",
	} {
		_, err := postgres.Open(t.Context(), dsn)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error for %s is %v, want one line with %q", dsn, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("error shows the password: %v", err)
		}
	}
}

// The two stores have the same migrations, number by number.
func TestMigrationsAreTheOtherStores(t *testing.T) {
	t.Parallel()
	var names [2][]string
	for i, dir := range []string{"migrations", "../sqlite/migrations"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names[i] = append(names[i], f.Name())
		}
	}
	if diff := cmp.Diff(names[0], names[1]); diff != "" {
		t.Errorf("migrations (-postgres +sqlite):\n%s", diff)
	}
}

func BenchmarkPost(b *testing.B) {
	s, err := postgres.Open(b.Context(), pgtest.DSN(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	billingtest.Benchmark(b, s)
}
