package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func owed(id string) billing.Settlement {
	return billing.Settlement{RequestID: id, OrganizationID: "org", At: time.Now(), Model: "m", Cost: 5}
}

// What keeps the file from taking anything is no fault of a settlement: when it
// has passed, the same settlement is booked.
func TestErrorsOfTheFileMayPass(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begin, end, want string }{
		"a full disk":            {"PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "full"},
		"a file that only reads": {"PRAGMA query_only = 1", "PRAGMA query_only = 0", "readonly"},
		"a table that is gone": {
			"ALTER TABLE rollups RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO rollups", "no such table",
		},
		"a rule of another version": {
			"CREATE TRIGGER later BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'not without a region'); END",
			"DROP TRIGGER later", "not without a region",
		},
		"a check of another version": {
			"CREATE TRIGGER later AFTER INSERT ON requests BEGIN INSERT INTO keys_version (id, version) VALUES (2, 0); END",
			"DROP TRIGGER later", "CHECK constraint failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			run := func(query string) {
				if _, err := s.writer.ExecContext(t.Context(), query); err != nil {
					t.Fatal(err)
				}
			}
			large := owed("req_1")
			large.UserAgent = strings.Repeat("x", 1<<20) // more than what is free in the file
			run(test.begin)
			_, err = s.Post(t.Context(), "node", []billing.Settlement{large})
			if err == nil || errors.Is(err, billing.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q, and none of the settlement's", err, test.want)
			}
			run(test.end)
			if _, err := s.Post(t.Context(), "node", []billing.Settlement{large}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestLockedFileMayPass(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.writer.ExecContext(t.Context(), "PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	another, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	another.SetMaxOpenConns(1)
	if _, err := another.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.Post(ctx, "node", []billing.Settlement{owed("req_1")})
	if err == nil || errors.Is(err, billing.ErrInvalid) || !strings.Contains(err.Error(), "locked") {
		t.Errorf("error of a locked file is %v", err)
	}
	if _, err := another.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Post(t.Context(), "node", []billing.Settlement{owed("req_1")}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
