package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

// Whoever leaves in the middle of a list leaves no reader behind, nor a snapshot
// that would keep the log from being truncated.
func TestAbortedListsGiveTheirReaderBack(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 * readers {
		ctx, leave := context.WithCancel(t.Context())
		rows := 0
		scan := func(row columns.Row) (n int, err error) {
			if rows++; rows == 3 {
				leave()
			}
			return n, row.Scan(&n)
		}
		const endless = `WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT n FROM numbers`
		if _, err := list(ctx, s.reader, scan, endless); !errors.Is(err, context.Canceled) {
			t.Fatalf("error is %v", err)
		}
	}
	if stats := s.reader.Stats(); stats.InUse != 0 {
		t.Errorf("%d readers are in use", stats.InUse)
	}
	var busy, log, done int
	if err := s.writer.QueryRowContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &done); err != nil {
		t.Fatal(err)
	}
	if busy != 0 {
		t.Error("somebody still reads")
	}
}
