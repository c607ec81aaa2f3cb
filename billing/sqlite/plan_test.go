package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// planOf is what the database does for a query, a step a line.
func planOf(t *testing.T, s *Store, query string, args ...any) string {
	t.Helper()
	rows, err := s.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&plan, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

// Filters by keys read ranges of an index, for several keys as for one.
func TestKeysAreFoundByAnIndex(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, keys := range [][]string{{"key_1"}, {"key_1", "key_2", "key_3"}} {
		f := billing.Filter{KeyIDs: keys}
		q, err := books.NewUsageQuery(f, billing.Grouping{}, books.Span{}, books.Always.From)
		if err != nil {
			t.Fatal(err)
		}
		args, err := usageArgs(q, "org", f)
		if err != nil {
			t.Fatal(err)
		}
		const want = "USING INDEX rollups_by_key (organization_id=? AND key_id=? AND series=? AND start>? AND start<?)"
		if plan := planOf(t, s, selectUsageOfKeys, args...); !strings.Contains(plan, want) {
			t.Errorf("usage of %d keys:\n%s", len(keys), plan)
		}
	}
	f := billing.Filter{KeyIDs: []string{"key_1"}}
	args, err := filterArgs("org", f, billing.Page{})
	if err != nil {
		t.Fatal(err)
	}
	plan := planOf(t, s, selectRequestsOfKeyNewestFirst, args...)
	if !strings.Contains(plan, "USING INDEX requests_by_key (key_id=? AND request_id>? AND request_id<?)") || strings.Contains(plan, "TEMP B-TREE") {
		t.Errorf("requests of a key:\n%s", plan)
	}
	f.KeyIDs = append(f.KeyIDs, "key_2")
	if args, err = filterArgs("org", f, billing.Page{}); err != nil {
		t.Fatal(err)
	}
	if plan := planOf(t, s, selectRequestsNewestFirst, args...); strings.Contains(plan, "TEMP B-TREE") {
		t.Errorf("requests of two keys are sorted:\n%s", plan)
	}
}
