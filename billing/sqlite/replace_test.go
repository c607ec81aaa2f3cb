package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// A REPLACE deletes rows, without firing triggers unless they are recursive.
func TestReplaceCannotRewriteTheLedger(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.EnsureOrganization(t.Context(), billing.Organization{ID: "org", CreatedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Append(t.Context(), billing.Entry{
		OrganizationID: "org", Type: billing.Purchase, Amount: 5, IdempotencyKey: "a",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.ExecContext(t.Context(), "REPLACE INTO entries SELECT * FROM entries"); err == nil {
		t.Error("an entry was replaced")
	}
}
