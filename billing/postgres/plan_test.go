//go:build unix

package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

const (
	// A year of days of a thousand keys.
	insertManyRollups = `
INSERT INTO rollups (series, organization_id, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT 'key_1d', 'org_a', timestamptz '2026-01-01Z' + make_interval(days => d), 'key_' || k, '', 'p', 'm', 1, 1, 1, 1, 1, 1, 1
FROM generate_series(0, 364, 7) AS d, generate_series(1, 1000) AS k`
)

// Filters by keys read ranges of an index, for several keys as for one.
func TestKeysAreFoundByAnIndex(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	_, err := s.pool.Exec(t.Context(), insertManyRollups)
	must(t, err)
	_, err = s.pool.Exec(t.Context(), `ANALYZE rollups`)
	must(t, err)
	for _, keys := range [][]string{{"key_1"}, {"key_1", "key_20", "key_300"}} {
		f := billing.Filter{KeyIDs: keys}
		q, err := books.NewUsageQuery(f, billing.Grouping{}, books.Span{}, books.Always.From)
		must(t, err)
		rows, err := s.pool.Query(t.Context(), "EXPLAIN "+selectUsageOfKeys, usageArgs(q, "org_a", f)...)
		must(t, err)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		if text := strings.Join(plan, "\n"); !strings.Contains(text, "using rollups_by_key") && !strings.Contains(text, "on rollups_by_key") {
			t.Errorf("usage of %d keys:\n%s", len(keys), text)
		}
	}
}
