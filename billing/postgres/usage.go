package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// The planner expects far more of each part than there is, and would compile
	// the statement, for longer than it runs.
	interpret = `SET LOCAL jit = off`

	// Before the moment that the transaction sees, as for proofs.
	setUpUsage = lockPartitions + `; ` + interpret

	selectRecorded = `SELECT min(start), max(start) FROM rollups WHERE series = 'all_15m' AND organization_id = $1`

	// One statement, so that rollups and rows are of one moment. The parts come
	// first in each join: a range of an index is read for each of them. What dates
	// share is read and summed up once, in pieces.
	selectUsage = usageOfParts + `
		WHERE series = p.series AND organization_id = $1 AND start >= p.since AND start < p.until` + sumUsage

	selectUsageOfKeys = usageOfParts + `
		WHERE series = p.series AND organization_id = $1 AND key_id = ANY ($15) AND start >= p.since AND start < p.until` + sumUsage

	usageOfParts = `
WITH
parts AS (
	SELECT p.piece, p.sign, r.*
	FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $20::bigint[])
		AS p (series, since, until, piece, sign)
	CROSS JOIN LATERAL (
		SELECT key_id, project, provider, model, requests, prompt_tokens, completion_tokens,
			cached_tokens, reasoning_tokens, cost, market_cost
		FROM rollups`

	sumUsage = `
		OFFSET 0
	) AS r
	UNION ALL
	SELECT p.piece, p.sign, r.*
	FROM unnest($6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[], $10::bigint[], $21::bigint[])
		AS p (first, beyond, since, until, piece, sign)
	CROSS JOIN LATERAL (
		SELECT key_id, project, provider, model, 1 AS requests, prompt_tokens, completion_tokens,
			cached_tokens, reasoning_tokens, cost, market_cost
		FROM requests
		WHERE organization_id = $1 AND request_id >= p.first AND request_id < p.beyond
			AND arrived_at >= p.since AND arrived_at < p.until
		OFFSET 0
	) AS r
),
pieces AS (
	SELECT piece, CASE WHEN $11::boolean THEN key_id ELSE '' END AS key_id, CASE WHEN $12::boolean THEN project ELSE '' END AS project,
		CASE WHEN $13::boolean THEN provider ELSE '' END AS provider, CASE WHEN $14::boolean THEN model ELSE '' END AS model,
		sum(sign * requests)::bigint AS requests, sum(sign * prompt_tokens)::bigint AS prompt_tokens, sum(sign * completion_tokens)::bigint AS completion_tokens,
		sum(sign * cached_tokens)::bigint AS cached_tokens, sum(sign * reasoning_tokens)::bigint AS reasoning_tokens,
		sum(sign * cost)::bigint AS cost, sum(sign * market_cost)::bigint AS market_cost
	FROM parts
	WHERE ($15::text[] IS NULL OR key_id = ANY ($15)) AND ($16::text[] IS NULL OR project = ANY ($16))
		AND ($17::text[] IS NULL OR provider = ANY ($17)) AND ($18::text[] IS NULL OR model = ANY ($18))
		AND ($22::text = '' OR key_id IN (SELECT id FROM keys WHERE organization_id = $1 AND owner = $22))
	GROUP BY 1, 2, 3, 4, 5
),
sums AS (
	SELECT date, key_id, project, provider, model,
		sum(sign * requests)::bigint AS requests, sum(sign * prompt_tokens)::bigint AS prompt_tokens, sum(sign * completion_tokens)::bigint AS completion_tokens,
		sum(sign * cached_tokens)::bigint AS cached_tokens, sum(sign * reasoning_tokens)::bigint AS reasoning_tokens,
		sum(sign * cost)::bigint AS cost, sum(sign * market_cost)::bigint AS market_cost
	FROM unnest($23::bigint[], $24::bigint[], $25::bigint[]) AS shares (piece, date, sign) JOIN pieces USING (piece)
	GROUP BY 1, 2, 3, 4, 5 HAVING sum(sign * requests) > 0 LIMIT $19
)
SELECT s.date, s.key_id, coalesce(k.name, ''), s.project, s.provider, s.model, s.requests, s.prompt_tokens,
	s.completion_tokens, s.cached_tokens, s.reasoning_tokens, s.cost, s.market_cost
FROM sums s LEFT JOIN keys k ON k.organization_id = $1 AND k.id = s.key_id`
)

// Usage implements billing.Reports.
func (s *Store) Usage(ctx context.Context, org string, f billing.Filter, g billing.Grouping) (billing.Usage, error) {
	var u billing.Usage
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return billing.Usage{}, fmt.Errorf("sum usage: %w", err)
	}
	defer done()
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) (err error) {
		u, err = usage(ctx, tx, org, f, g)
		return err
	})
	if err != nil {
		return billing.Usage{}, fmt.Errorf("sum usage: %w", err)
	}
	return u, nil
}

func usage(ctx context.Context, tx pgx.Tx, org string, f billing.Filter, g billing.Grouping) (billing.Usage, error) {
	rowsFrom, err := beginUsage(ctx, tx, org)
	if err != nil {
		return billing.Usage{}, fmt.Errorf("set up: %w", err)
	}
	var span books.Span
	if books.NeedsRecorded(f, g) {
		if span, err = recorded(ctx, tx, org); err != nil {
			return billing.Usage{}, err
		}
	}
	q, err := books.NewUsageQuery(f, g, span, rowsFrom)
	if err != nil {
		return billing.Usage{}, err
	}
	query := selectUsage
	if len(f.KeyIDs) > 0 {
		query = selectUsageOfKeys
	}
	sums, err := list(ctx, tx, scanUsage, query, usageArgs(q, org, f)...)
	if err != nil {
		return billing.Usage{}, err
	}
	return q.Usage(sums)
}

// beginUsage sets the transaction up for an organization, and returns when the
// first requests arrived that still have rows. No rows are dropped until it
// ends.
func beginUsage(ctx context.Context, tx pgx.Tx, org string) (rowsFrom time.Time, err error) {
	if _, err := tx.Exec(ctx, setUpUsage); err != nil {
		return time.Time{}, err
	}
	var batch pgx.Batch
	batch.Queue(scopeTo, org)
	batch.Queue(selectKept).QueryRow(func(row pgx.Row) error { return row.Scan(nil, columns.Time{To: &rowsFrom}) })
	err = tx.SendBatch(ctx, &batch).Close()
	return rowsFrom, err
}

// recorded returns the time that has requests, to the quarter of an hour.
func recorded(ctx context.Context, tx pgx.Tx, org string) (books.Span, error) {
	var first, last *time.Time
	if err := tx.QueryRow(ctx, selectRecorded, org).Scan(&first, &last); err != nil {
		return books.Span{}, fmt.Errorf("read what is recorded: %w", err)
	}
	if first == nil || last == nil {
		return books.Span{}, nil
	}
	return books.Span{From: first.UTC(), To: last.UTC().Add(books.AllQuarters.Grain)}, nil
}

func usageArgs(q *books.UsageQuery, org string, f billing.Filter) []any {
	firsts, beyonds := make([]string, len(q.Rows)), make([]string, len(q.Rows))
	for i, p := range q.Rows {
		firsts[i], beyonds[i] = p.RequestIDs()
	}
	from := func(p *books.Part) time.Time { return p.From }
	to := func(p *books.Part) time.Time { return p.To }
	piece := func(p *books.Part) int64 { return int64(p.Piece) }
	sign := func(p *books.Part) int64 { return int64(p.Sign) }
	return []any{
		planned, org,
		column(q.Rollups, func(p *books.Part) string { return p.Series }),
		column(q.Rollups, from), column(q.Rollups, to), column(q.Rollups, piece),
		firsts, beyonds, column(q.Rows, from), column(q.Rows, to), column(q.Rows, piece),
		q.Groups(billing.ByKey), q.Groups(billing.ByProject), q.Groups(billing.ByProvider), q.Groups(billing.ByModel),
		books.Names(f.KeyIDs), books.Names(f.Projects), books.Names(f.Providers), books.Names(f.Models), billing.MaxUsageGroups + 1,
		column(q.Rollups, sign), column(q.Rows, sign), f.Owner,
		column(q.Shares, func(s *books.Share) int64 { return int64(s.Piece) }),
		column(q.Shares, func(s *books.Share) int64 { return int64(s.Date) }),
		column(q.Shares, func(s *books.Share) int64 { return int64(s.Sign) }),
	}
}

func scanUsage(row columns.Row) (books.UsageSum, error) {
	var s books.UsageSum
	err := row.Scan(&s.Date, &s.KeyID, &s.KeyName, &s.Project, &s.Provider, &s.Model, &s.Requests, &s.PromptTokens,
		&s.CompletionTokens, &s.CachedTokens, &s.ReasoningTokens, &s.Cost, &s.MarketCost)
	return s, err
}
