//go:build unix

package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

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

func TestADatabaseIsVerifiedWithoutAStore(t *testing.T) {
	t.Parallel()
	s, db, full := open(t), raw(t), billing.VerifyOptions{Mode: billing.Full}
	defer s.Close()
	_, err := s.Post(t.Context(), "node_1", []billing.Settlement{{
		RequestID: billing.NewID(billing.RequestIDPrefix, time.Now()), OrganizationID: "org", At: time.Now(), Cost: 5,
	}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := postgres.Verify(t.Context(), pgtest.DSN(t), full)
	if err != nil || v.Imbalance() != 0 || v.Entries != 1 || v.Requests != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	var remembered int
	err = db.QueryRowContext(t.Context(), "SELECT count(*) FROM verified_ledgers").Scan(&remembered)
	if err != nil || remembered != 0 {
		t.Errorf("%d ledgers are remembered, %v: the database was changed", remembered, err)
	}
	for _, step := range []struct{ change, want string }{
		{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (700, true)", "database schema is version 700, this binary knows "},
		{"DELETE FROM goose_db_version WHERE version_id > 2", "database schema is version 2, this binary knows "},
		{"DROP TABLE goose_db_version", "does not exist"},
	} {
		if _, err := db.ExecContext(t.Context(), step.change); err != nil {
			t.Fatal(err)
		}
		if _, err := postgres.Verify(t.Context(), pgtest.DSN(t), full); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("error is %v, want %q", err, step.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx, full); !errors.Is(err, context.Canceled) {
		t.Errorf("error after its context ended is %v", err)
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

func BenchmarkVerify(b *testing.B) {
	s, err := postgres.Open(b.Context(), pgtest.DSN(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	billingtest.BenchmarkVerify(b, s)
}

func TestBooksOfBeforeDaysAreConverted(t *testing.T) {
	t.Parallel()
	db := raw(t)
	p, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), billingtest.BeforeDays); err != nil {
		t.Fatal(err)
	}
	billingtest.RunMigration(t, open, db, func(at time.Time) string { return "'" + at.Format(time.RFC3339Nano) + "'" }, "decode(repeat('00', 32), 'hex')")
}
