package schema_test

import (
	"database/sql"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

// migrations are files of these names, each of which makes a table.
func migrations(names ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, name := range names {
		files["migrations/"+name+".sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE t" + name[:4] + " (id INTEGER);\n")}
	}
	return files
}

func open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", t.TempDir()+"/books.db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// up applies migrations, and returns the version that the tables had.
func up(t *testing.T, db *sql.DB, files fstest.MapFS) (int64, error) {
	t.Helper()
	p, err := schema.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	return schema.Up(t.Context(), p)
}

func TestTablesAreBroughtUpToDate(t *testing.T) {
	t.Parallel()
	db := open(t)
	older, newer := migrations("0001_first", "0002_second"), migrations("0001_first", "0002_second", "0010_third")
	for _, step := range []struct {
		files fstest.MapFS
		from  int64
		want  billing.Schema
	}{
		{older, 0, billing.Schema{Version: 2, Known: 2}},
		{older, 2, billing.Schema{Version: 2, Known: 2}},
		{newer, 2, billing.Schema{Version: 10, Known: 10}},
	} {
		from, err := up(t, db, step.files)
		if err != nil || from != step.from {
			t.Fatalf("began at version %d (%v), want %d", from, err, step.from)
		}
		got, err := schema.Of(t.Context(), db, step.files)
		if err != nil || got != step.want {
			t.Errorf("%+v (%v), want %+v", got, err, step.want)
		}
		if err := schema.Check(t.Context(), db, step.files); err != nil {
			t.Error(err)
		}
	}
	if _, err := up(t, db, older); err == nil || !strings.Contains(err.Error(), "version 10, this binary knows 2: run a newer gateway") {
		t.Errorf("an older program: %v", err)
	}
	if err := schema.Check(t.Context(), db, older); err == nil || !strings.Contains(err.Error(), "use the gateway's own binary") {
		t.Errorf("a check by an older program: %v", err)
	}
}

func TestMigrationsThatAreNone(t *testing.T) {
	t.Parallel()
	for want, files := range map[string]fstest.MapFS{
		"there are none":  {},
		"read migrations": {"migrations/first.sql": &fstest.MapFile{}},
	} {
		if _, err := schema.Known(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
