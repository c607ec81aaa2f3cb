package sqlite_test

import (
	"database/sql"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/billingtest"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
)

// paths are the files of running tests.
var paths sync.Map

// pathOf returns the file that belongs to a test.
func pathOf(t testing.TB) string {
	path, known := paths.Load(t)
	if !known {
		path, _ = paths.LoadOrStore(t, filepath.Join(t.TempDir(), "data", "gateway.db"))
		t.Cleanup(func() { paths.Delete(t) })
	}
	return path.(string)
}

func open(t *testing.T) billing.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), pathOf(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) { billingtest.Run(t, open) }

func TestProofs(t *testing.T) {
	billingtest.RunProofs(t, open, raw,
		"DROP TRIGGER entries_no_update", "DROP TRIGGER entries_no_delete",
		"DROP TRIGGER requests_no_update", "DROP TRIGGER requests_no_delete")
}

func TestRetention(t *testing.T) {
	aged := func(*testing.T, billing.Store) {} // a file is the same at any age
	billingtest.RunRetention(t, open, raw, aged,
		"DROP TRIGGER entries_no_update", "DROP TRIGGER entries_no_delete",
		"DROP TRIGGER requests_no_update", "DROP TRIGGER requests_no_delete")
}

// raw opens the test's file past the store.
func raw(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", pathOf(t)+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	open(t).Close()
	_, err := raw(t).ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (700, true)")
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), pathOf(t))
	want := "database schema is version 700, this binary knows "
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
}

func TestProcessesMayOpenAnEmptyFileAtOnce(t *testing.T) {
	t.Parallel()
	path := pathOf(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := sqlite.Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
}

func TestOpenCreatesPrivateFiles(t *testing.T) {
	t.Parallel()
	// Characters that mean something in a URL are plain ones in a path.
	path := filepath.Join(t.TempDir(), "a ?b", "100%.db#x")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for file, want := range map[string]fs.FileMode{
		filepath.Dir(path): fs.ModeDir | 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(file)
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s has mode %s, want %s", file, info.Mode(), want)
		}
	}
}

func TestOpenExplainsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("this is not a database, and long enough for one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(file, "gateway.db"): "not a directory",
		dir:                               "is a directory",
		file:                              "file is not a database",
	} {
		_, err := sqlite.Open(t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error for %s is %v, want one line with %q", path, err, want)
		}
	}
}

func BenchmarkPost(b *testing.B) {
	s, err := sqlite.Open(b.Context(), pathOf(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	billingtest.Benchmark(b, s)
}

func BenchmarkVerify(b *testing.B) {
	s, err := sqlite.Open(b.Context(), pathOf(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	billingtest.BenchmarkVerify(b, s)
}

func TestBooksOfBeforeDaysAreConverted(t *testing.T) {
	t.Parallel()
	if err := os.MkdirAll(filepath.Dir(pathOf(t)), 0o700); err != nil {
		t.Fatal(err)
	}
	db := raw(t)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), billingtest.BeforeDays); err != nil {
		t.Fatal(err)
	}
	billingtest.RunMigration(t, open, db, func(at time.Time) string { return strconv.FormatInt(at.UnixMicro(), 10) }, "zeroblob(32)")
}
