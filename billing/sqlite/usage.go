package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	selectRecorded = `SELECT min(start), max(start) FROM rollups WHERE series = 'all_15m' AND organization_id = ?1`

	// One statement, so that rollups and rows are of one moment. The parts come
	// first in each join: a range of an index is read for each of them. What dates
	// share is read and summed up once, in pieces.
	selectUsage = usageOfParts + `
	WHERE r.series = p.series AND r.organization_id = ?1 AND r.start >= p.since AND r.start < p.until` + sumUsage

	// Left alone, the planner reads all keys' rollups where there are several
	// keys to look for.
	selectUsageOfKeys = usageOfParts + ` INDEXED BY rollups_by_key
	WHERE r.series = p.series AND r.organization_id = ?1 AND r.key_id IN (SELECT value FROM json_each(?8)) AND r.start >= p.since AND r.start < p.until` + sumUsage

	usageOfParts = `
WITH
of_rollups (series, since, until, piece, sign) AS MATERIALIZED (
	SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?2)
),
of_rows (first, beyond, since, until, piece, sign) AS MATERIALIZED (
	SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?3)
),
shares (piece, date, sign) AS MATERIALIZED (
	SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?14)
),
parts AS (
	SELECT p.piece, p.sign, key_id, project, provider, model, requests, prompt_tokens, completion_tokens,
		cached_tokens, reasoning_tokens, cost, market_cost
	FROM of_rollups AS p CROSS JOIN rollups r`

	sumUsage = `
	UNION ALL
	SELECT p.piece, p.sign, key_id, project, provider, model, 1, prompt_tokens, completion_tokens,
		cached_tokens, reasoning_tokens, cost, market_cost
	FROM of_rows AS p CROSS JOIN requests r
	WHERE r.organization_id = ?1 AND r.request_id >= p.first AND r.request_id < p.beyond
		AND r.arrived_at >= p.since AND r.arrived_at < p.until
),
pieces AS (
	SELECT piece, CASE WHEN ?4 THEN key_id ELSE '' END AS key_id, CASE WHEN ?5 THEN project ELSE '' END AS project,
		CASE WHEN ?6 THEN provider ELSE '' END AS provider, CASE WHEN ?7 THEN model ELSE '' END AS model,
		sum(sign * requests) AS requests, sum(sign * prompt_tokens) AS prompt_tokens, sum(sign * completion_tokens) AS completion_tokens,
		sum(sign * cached_tokens) AS cached_tokens, sum(sign * reasoning_tokens) AS reasoning_tokens,
		sum(sign * cost) AS cost, sum(sign * market_cost) AS market_cost
	FROM parts
	WHERE (?8 = '[]' OR key_id IN (SELECT value FROM json_each(?8))) AND (?9 = '[]' OR project IN (SELECT value FROM json_each(?9)))
		AND (?10 = '[]' OR provider IN (SELECT value FROM json_each(?10))) AND (?11 = '[]' OR model IN (SELECT value FROM json_each(?11)))
		AND (?13 = '' OR key_id IN (SELECT id FROM keys WHERE organization_id = ?1 AND owner = ?13))
	GROUP BY 1, 2, 3, 4, 5
),
sums AS (
	SELECT date, key_id, project, provider, model,
		sum(sign * requests) AS requests, sum(sign * prompt_tokens) AS prompt_tokens, sum(sign * completion_tokens) AS completion_tokens,
		sum(sign * cached_tokens) AS cached_tokens, sum(sign * reasoning_tokens) AS reasoning_tokens,
		sum(sign * cost) AS cost, sum(sign * market_cost) AS market_cost
	FROM pieces CROSS JOIN shares USING (piece)
	GROUP BY 1, 2, 3, 4, 5 HAVING sum(sign * requests) > 0 LIMIT ?12
)
SELECT s.date, s.key_id, coalesce(k.name, ''), s.project, s.provider, s.model, s.requests, s.prompt_tokens,
	s.completion_tokens, s.cached_tokens, s.reasoning_tokens, s.cost, s.market_cost
FROM sums s LEFT JOIN keys k ON k.organization_id = ?1 AND k.id = s.key_id`
)

// Usage implements billing.Reports.
func (s *Store) Usage(ctx context.Context, org string, f billing.Filter, g billing.Grouping) (billing.Usage, error) {
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return billing.Usage{}, fmt.Errorf("sum usage: %w", err)
	}
	defer done()
	tx, err := s.reader.BeginTx(ctx, nil)
	if err != nil {
		return billing.Usage{}, fmt.Errorf("sum usage: %w", err)
	}
	defer tx.Rollback() // it has nothing to commit
	u, err := usage(ctx, tx, org, f, g)
	if err != nil {
		return billing.Usage{}, fmt.Errorf("sum usage: %w", causeOf(ctx, err))
	}
	return u, nil
}

func usage(ctx context.Context, tx *sql.Tx, org string, f billing.Filter, g billing.Grouping) (billing.Usage, error) {
	// The file's, not the memory's, which may be of another moment.
	k, err := scanKept(tx.QueryRowContext(ctx, selectKept))
	if err != nil {
		return billing.Usage{}, fmt.Errorf("read what requests are kept: %w", err)
	}
	var span books.Span
	if books.NeedsRecorded(f, g) {
		if span, err = recorded(ctx, tx, org); err != nil {
			return billing.Usage{}, err
		}
	}
	q, err := books.NewUsageQuery(f, g, span, k.from)
	if err != nil {
		return billing.Usage{}, err
	}
	args, err := usageArgs(q, org, f)
	if err != nil {
		return billing.Usage{}, err
	}
	query := selectUsage
	if len(f.KeyIDs) > 0 {
		query = selectUsageOfKeys
	}
	sums, err := list(ctx, tx, scanUsage, query, args...)
	if err != nil {
		return billing.Usage{}, err
	}
	return q.Usage(sums)
}

// recorded returns the time that has requests, to the quarter of an hour.
func recorded(ctx context.Context, tx *sql.Tx, org string) (books.Span, error) {
	var first, last *int64
	if err := tx.QueryRowContext(ctx, selectRecorded, org).Scan(&first, &last); err != nil {
		return books.Span{}, fmt.Errorf("read what is recorded: %w", err)
	}
	if first == nil || last == nil {
		return books.Span{}, nil
	}
	return books.Span{From: time.UnixMicro(*first).UTC(), To: time.UnixMicro(*last).UTC().Add(books.AllQuarters.Grain)}, nil
}

func usageArgs(q *books.UsageQuery, org string, f billing.Filter) ([]any, error) {
	rollups := make([][]any, len(q.Rollups))
	for i, p := range q.Rollups {
		rollups[i] = []any{p.Series, micros(p.From), micros(p.To), p.Piece, p.Sign}
	}
	rows := make([][]any, len(q.Rows))
	for i, p := range q.Rows {
		first, beyond := p.RequestIDs()
		rows[i] = []any{first, beyond, micros(p.From), micros(p.To), p.Piece, p.Sign}
	}
	shares := make([][]any, len(q.Shares))
	for i, s := range q.Shares {
		shares[i] = []any{s.Piece, s.Date, s.Sign}
	}
	arrays := make([]any, 0, 3)
	for _, list := range [][][]any{rollups, rows, shares} {
		array, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("encode the parts: %w", err)
		}
		arrays = append(arrays, string(array))
	}
	return []any{
		org, arrays[0], arrays[1],
		q.Groups(billing.ByKey), q.Groups(billing.ByProject), q.Groups(billing.ByProvider), q.Groups(billing.ByModel),
		books.EncodeList(f.KeyIDs), books.EncodeList(f.Projects), books.EncodeList(f.Providers), books.EncodeList(f.Models),
		billing.MaxUsageGroups + 1, f.Owner, arrays[2],
	}, nil
}

func scanUsage(row columns.Row) (books.UsageSum, error) {
	var s books.UsageSum
	err := row.Scan(&s.Date, &s.KeyID, &s.KeyName, &s.Project, &s.Provider, &s.Model, &s.Requests, &s.PromptTokens,
		&s.CompletionTokens, &s.CachedTokens, &s.ReasoningTokens, &s.Cost, &s.MarketCost)
	return s, err
}
