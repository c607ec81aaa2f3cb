package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

const (
	requestColumns = `request_id, organization_id, key_id, key_name, arrived_at, provider, model, endpoint,
	input_tokens, input_audio_tokens, input_image_tokens, cache_read_tokens, cache_read_audio_tokens,
	cache_write_tokens, cache_write_long_tokens, output_tokens, output_audio_tokens, output_image_tokens,
	web_searches, reasoning_tokens, usage_source, usage_mismatch, service_tier, cost, market_cost,
	price_rule_id, latency_ns, ttfb_ns, status, error, client_ip, user_agent, streaming, attempts, changes,
	recovered, hash, project, attempt_log`

	selectRequest = `SELECT ` + requestColumns + ` FROM requests WHERE organization_id = $1 AND request_id = $2`

	selectRequests = `SELECT ` + requestColumns + ` FROM requests
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3
	AND arrived_at >= $4 AND arrived_at < $5
	AND ($6::text = '' OR provider = $6) AND ($7::text = '' OR model = $7)
ORDER BY request_id DESC LIMIT $8`

	selectRequestsOfKey = `SELECT ` + requestColumns + ` FROM requests
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3
	AND arrived_at >= $4 AND arrived_at < $5
	AND ($6::text = '' OR provider = $6) AND ($7::text = '' OR model = $7)
	AND key_id = $9
ORDER BY request_id DESC LIMIT $8`

	// One statement, so that rollups and rows are of one moment.
	selectUsage = `
WITH
parts AS (
	SELECT requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM rollups_hourly
	WHERE organization_id = $1 AND hour >= $4 AND hour < $5
	UNION ALL
	SELECT 1, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM requests
	WHERE organization_id = $1 AND request_id >= $11 AND request_id < $12
		AND arrived_at >= $2 AND arrived_at < $3
	UNION ALL
	SELECT 1, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM requests
	WHERE organization_id = $1 AND request_id >= $13 AND request_id < $14
		AND arrived_at >= $6 AND arrived_at < $7
)
SELECT coalesce(sum(requests), 0)::bigint, coalesce(sum(prompt_tokens), 0)::bigint, coalesce(sum(completion_tokens), 0)::bigint,
	coalesce(sum(cached_tokens), 0)::bigint, coalesce(sum(reasoning_tokens), 0)::bigint,
	coalesce(sum(cost), 0)::bigint, coalesce(sum(market_cost), 0)::bigint
FROM parts
WHERE ($8::text = '' OR key_id = $8) AND ($9::text = '' OR provider = $9) AND ($10::text = '' OR model = $10)`

	selectSettled = `
SELECT ` + settledIn + `
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
	WITH ORDINALITY AS w (organization_id, subject, kind, kept, kept_from, kept_to, n)
ORDER BY w.n`
)

// planned makes the server plan a query for its arguments. Prepared plans are
// made for any range of time, and read an organization's whole history where a
// few rows are wanted, or the other way round.
const planned = pgx.QueryExecModeExec

// Requests implements billing.Reports.
func (s *Store) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	span := books.SpanOf(f)
	from, before := span.RequestIDs()
	if page.After != "" {
		before = min(before, page.After)
	}
	query := selectRequests
	args := []any{planned, org, from, before, span.From, span.To, f.Provider, f.Model, books.PageLimit(page)}
	if f.KeyID != "" {
		query, args = selectRequestsOfKey, append(args, f.KeyID)
	}
	requests, err := list(ctx, s.of(org), scanRequest, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	return requests, nil
}

// Request implements billing.Reports.
func (s *Store) Request(ctx context.Context, org, id string) (billing.Settlement, error) {
	r, err := scanRequest(s.of(org).QueryRow(ctx, selectRequest, org, id))
	if errors.Is(err, pgx.ErrNoRows) {
		err = s.missing(ctx, id)
	}
	if err != nil {
		return billing.Settlement{}, fmt.Errorf("read request %q: %w", id, err)
	}
	return r, nil
}

// Usage implements billing.Reports.
func (s *Store) Usage(ctx context.Context, org string, f billing.Filter) (billing.Totals, error) {
	kept, err := s.RequestsKept(ctx)
	if err != nil {
		return billing.Totals{}, fmt.Errorf("sum usage: %w", err)
	}
	before, hours, after := books.SpanOf(f).Kept(kept).Hours()
	beforeFrom, beforeTo := before.RequestIDs()
	afterFrom, afterTo := after.RequestIDs()
	var t billing.Totals
	err = s.of(org).QueryRow(ctx, selectUsage, planned, org,
		before.From, before.To, hours.From, hours.To,
		after.From, after.To, f.KeyID, f.Provider, f.Model,
		beforeFrom, beforeTo, afterFrom, afterTo,
	).Scan(&t.Requests, &t.PromptTokens, &t.CompletionTokens, &t.CachedTokens, &t.ReasoningTokens, &t.Cost, &t.MarketCost)
	if err != nil {
		return billing.Totals{}, fmt.Errorf("sum usage: %w", err)
	}
	return t, nil
}

// Spend implements billing.Reports.
func (s *Store) Spend(ctx context.Context, allowances []billing.Allowance) ([]billing.Money, error) {
	itself := func(a *billing.Allowance) *billing.Allowance { return a }
	args := append([]any{
		column(allowances, func(a *billing.Allowance) string { return a.OrganizationID }),
		column(allowances, func(a *billing.Allowance) string { return a.Subject }),
		column(allowances, func(a *billing.Allowance) string { return string(a.Kind) }),
	}, keptArrays(allowances, itself)...)
	rows, err := s.pool.Query(ctx, selectSettled, args...)
	if err != nil {
		return nil, fmt.Errorf("read spend: %w", err)
	}
	spend, err := pgx.CollectRows(rows, pgx.RowTo[billing.Money])
	if err != nil {
		return nil, fmt.Errorf("read spend: %w", err)
	}
	return spend, nil
}

func requestArrays(rows []books.Row) []any {
	return []any{
		column(rows, func(r *books.Row) string { return r.RequestID }),
		column(rows, func(r *books.Row) string { return r.OrganizationID }),
		column(rows, func(r *books.Row) string { return r.KeyID }),
		column(rows, func(r *books.Row) string { return r.KeyName }),
		column(rows, func(r *books.Row) time.Time { return r.At }),
		column(rows, func(r *books.Row) string { return r.Provider }),
		column(rows, func(r *books.Row) string { return r.Model }),
		column(rows, func(r *books.Row) string { return r.Endpoint }),
		column(rows, func(r *books.Row) int64 { return r.Usage.Input }),
		column(rows, func(r *books.Row) int64 { return r.Usage.InputAudio }),
		column(rows, func(r *books.Row) int64 { return r.Usage.InputImage }),
		column(rows, func(r *books.Row) int64 { return r.Usage.CacheRead }),
		column(rows, func(r *books.Row) int64 { return r.Usage.CacheReadAudio }),
		column(rows, func(r *books.Row) int64 { return r.Usage.CacheWrite }),
		column(rows, func(r *books.Row) int64 { return r.Usage.CacheWriteLong }),
		column(rows, func(r *books.Row) int64 { return r.Usage.Output }),
		column(rows, func(r *books.Row) int64 { return r.Usage.OutputAudio }),
		column(rows, func(r *books.Row) int64 { return r.Usage.OutputImage }),
		column(rows, func(r *books.Row) int64 { return r.Usage.WebSearches }),
		column(rows, func(r *books.Row) int64 { return r.Usage.Reasoning }),
		column(rows, func(r *books.Row) string { return string(r.UsageSource) }),
		column(rows, func(r *books.Row) bool { return r.UsageMismatch }),
		column(rows, func(r *books.Row) string { return r.ServiceTier }),
		column(rows, func(r *books.Row) int64 { return int64(r.Cost) }),
		column(rows, func(r *books.Row) int64 { return int64(r.MarketCost) }),
		column(rows, func(r *books.Row) string { return r.PriceRuleID }),
		column(rows, func(r *books.Row) int64 { return int64(r.Latency) }),
		column(rows, func(r *books.Row) int64 { return int64(r.TTFB) }),
		column(rows, func(r *books.Row) int64 { return int64(r.Status) }),
		column(rows, func(r *books.Row) string { return r.Error }),
		column(rows, func(r *books.Row) string { return r.ClientIP }),
		column(rows, func(r *books.Row) string { return r.UserAgent }),
		column(rows, func(r *books.Row) bool { return r.Streaming }),
		column(rows, func(r *books.Row) int64 { return int64(r.Attempts) }),
		column(rows, func(r *books.Row) string { return books.EncodeList(r.Changes) }),
		column(rows, func(r *books.Row) bool { return r.Recovered }),
		column(rows, func(r *books.Row) []byte { return r.Hash }),
		column(rows, func(r *books.Row) string { return r.Project }),
		column(rows, func(r *books.Row) string { return books.EncodeList(r.AttemptLog) }),
	}
}

func scanRequest(row scanner) (billing.Settlement, error) {
	var (
		r billing.Settlement
		u = &r.Usage
		h []byte
	)
	err := row.Scan(
		&r.RequestID, &r.OrganizationID, &r.KeyID, &r.KeyName, timeColumn{&r.At}, &r.Provider, &r.Model, &r.Endpoint,
		&u.Input, &u.InputAudio, &u.InputImage, &u.CacheRead, &u.CacheReadAudio,
		&u.CacheWrite, &u.CacheWriteLong, &u.Output, &u.OutputAudio, &u.OutputImage,
		&u.WebSearches, &u.Reasoning, &r.UsageSource, &r.UsageMismatch, &r.ServiceTier, &r.Cost, &r.MarketCost,
		&r.PriceRuleID, &r.Latency, &r.TTFB, &r.Status, &r.Error, &r.ClientIP, &r.UserAgent, &r.Streaming, &r.Attempts,
		listColumn{&r.Changes}, &r.Recovered, &h, &r.Project, attemptsColumn{&r.AttemptLog},
	)
	return r, err
}
