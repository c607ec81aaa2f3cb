package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

var full = billing.VerifyOptions{Mode: billing.Full}

func TestAFileIsVerifiedWithoutAStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fillBooks(t, s)
	sound := func(when string) {
		t.Helper()
		v, err := Verify(t.Context(), path, full)
		if err != nil || v.Imbalance() != 0 || v.Entries != 2 || v.Requests != 1 {
			t.Errorf("%s: %+v, %v", when, v, err)
		}
	}
	sound("while the store is open")
	var remembered int
	err = s.reader.QueryRowContext(t.Context(), "SELECT count(*) FROM verified_ledgers").Scan(&remembered)
	if err != nil || remembered != 0 {
		t.Errorf("%d ledgers are remembered, %v: the file was changed", remembered, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sound("after it was closed")
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file was changed (%v)", err)
	}
}

func TestOnlyBooksOfThisSchemaAreVerified(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, step := range []struct{ change, want string }{
		{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (700, true)", "database schema is version 700, this binary knows "},
		{"DELETE FROM goose_db_version WHERE version_id > 2", "database schema is version 2, this binary knows "},
		{"DROP TABLE goose_db_version", "no such table"},
	} {
		if _, err := s.writer.ExecContext(t.Context(), step.change); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), path, full); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("error is %v, want %q", err, step.want)
		}
	}
	if _, err := Verify(t.Context(), path+".missing", full); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: error is %v", err)
	}
	if _, err := os.Stat(path + ".missing"); err == nil {
		t.Error("a missing file was created")
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx, full); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
