package sqlite

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
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

// Any other program may open the file without recursive triggers. What it
// replaces is found.
func TestVerifyFindsWhatWasReplaced(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]string{
		"the payment of a purchase": "REPLACE INTO entries SELECT organization_id, seq, type, amount, balance_after, created_at," +
			" request_id, 'other', reason, actor, idempotency_key, hash FROM entries WHERE seq = 1",
		"the time of a purchase": "REPLACE INTO entries SELECT organization_id, seq, type, amount, balance_after, created_at + 1," +
			" request_id, payment_id, reason, actor, idempotency_key, hash FROM entries WHERE seq = 1",
		"the number of a debit": "REPLACE INTO entries SELECT organization_id, seq + 1, type, amount, balance_after, created_at," +
			" request_id, payment_id, reason, actor, idempotency_key, hash FROM entries WHERE seq = 2",
		"a flag, by no flag": "REPLACE INTO requests (" + columns.Request + ") SELECT " +
			strings.Replace(columns.Request, "streaming", "2", 1) + " FROM requests",
		"a row": "REPLACE INTO requests (" + columns.Request + ") SELECT " +
			strings.Replace(columns.Request, "client_ip", "'192.0.2.1'", 1) + " FROM requests",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "gateway.db")
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			fillBooks(t, s)
			if v, err := s.Verify(t.Context(), billing.VerifyOptions{}); err != nil || v.Imbalance() != 0 {
				t.Fatalf("sound books: failed checks %+v, %v", v.Failed(), err)
			}
			foreign, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer foreign.Close()
			if _, err := foreign.ExecContext(t.Context(), replace); err != nil {
				t.Fatal(err)
			}
			v, err := s.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
			if err != nil || v.Imbalance() == 0 {
				t.Errorf("imbalance is %d, %v", v.Imbalance(), err)
			}
		})
	}
}

// fillBooks makes an organization with a purchase and a request.
func fillBooks(t *testing.T, s *Store) {
	t.Helper()
	err := s.EnsureOrganization(t.Context(), billing.Organization{ID: "org", CreatedAt: time.Now()})
	if err == nil {
		_, err = s.Append(t.Context(), billing.Entry{
			OrganizationID: "org", Type: billing.Purchase, Amount: 500, IdempotencyKey: "a",
		})
	}
	if err == nil {
		_, err = s.Post(t.Context(), "node_1", []billing.Settlement{{
			RequestID: billing.NewID(billing.RequestIDPrefix, time.Now()), OrganizationID: "org",
			KeyID: "key_1", At: time.Now(), Cost: 5,
		}})
	}
	if err != nil {
		t.Fatal(err)
	}
}
