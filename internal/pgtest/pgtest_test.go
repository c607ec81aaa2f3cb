//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestDSNIsOnePerTest(t *testing.T) {
	t.Parallel()
	first := DSN(t)
	if again := DSN(t); again != first {
		t.Errorf("second call returned %s, first %s", again, first)
	}
	execute(t, first, "CREATE TABLE mine (id integer)")
	t.Run("another", func(t *testing.T) {
		t.Parallel()
		dsn := DSN(t)
		execute(t, dsn, "CREATE TABLE mine (id integer)") // fails in a shared database
	})
}

func TestStopEndsTheClusterAndItsFiles(t *testing.T) {
	if os.Getenv(Variable) != "" {
		t.Setenv(Variable, "")
	}
	dsn, stop, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(config.Host); err != nil {
		t.Fatalf("folder of the running cluster: %v", err)
	}
	stop()
	if _, err := os.Stat(config.Host); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder is still there: %v", err)
	}
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		conn.Close(t.Context())
		t.Error("server still answers")
	}
}

func TestClusterStartsAgainWithWhatWasCommitted(t *testing.T) {
	t.Parallel()
	c, err := StartCluster()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	execute(t, c.DSN(), "CREATE TABLE kept (n integer)")
	for n, how := range []Stop{Fast, Immediate, Kill} {
		execute(t, c.DSN(), fmt.Sprintf("INSERT INTO kept VALUES (%d)", n))
		if err := c.Halt(how); err != nil {
			t.Fatal(err)
		}
		if conn, err := pgx.Connect(t.Context(), c.DSN()); err == nil {
			conn.Close(t.Context())
			t.Fatalf("server answers after stop %d", how)
		}
		if err := c.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, c.DSN(), "DO $$ BEGIN ASSERT (SELECT count(*) FROM kept) = 3; END $$")
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://u:p@h:1/old?sslmode=disable": "postgres://u:p@h:1/new?sslmode=disable",
		"postgres:///old?host=%2Ftmp":            "postgres:///new?host=%2Ftmp",
		"host=/tmp dbname=old":                   "host=/tmp dbname=old dbname=new",
	} {
		got, err := withDatabase(dsn, "new")
		if err != nil || got != want {
			t.Errorf("withDatabase(%q) = %q, %v; want %q", dsn, got, err, want)
		}
	}
}
