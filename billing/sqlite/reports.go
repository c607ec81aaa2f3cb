package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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

	requestValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	selectRequest = `SELECT ` + requestColumns + ` FROM requests WHERE organization_id = ?1 AND request_id = ?2`

	selectRequests = `SELECT ` + requestColumns + ` FROM requests
WHERE organization_id = ?1 AND request_id >= ?2 AND request_id < ?3
	AND arrived_at >= ?4 AND arrived_at < ?5
	AND (?6 = '' OR provider = ?6) AND (?7 = '' OR model = ?7)
ORDER BY request_id DESC LIMIT ?8`

	// The plus keeps the planner off the primary key, in which the requests of a
	// key are few among many.
	selectRequestsOfKey = `SELECT ` + requestColumns + ` FROM requests
WHERE +organization_id = ?1 AND request_id >= ?2 AND request_id < ?3
	AND arrived_at >= ?4 AND arrived_at < ?5
	AND (?6 = '' OR provider = ?6) AND (?7 = '' OR model = ?7)
	AND key_id = ?9
ORDER BY request_id DESC LIMIT ?8`

	// One statement, so that rollups and rows are of one moment.
	selectUsage = `
WITH
parts AS (
	SELECT requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM rollups_hourly
	WHERE organization_id = ?1 AND hour >= ?4 AND hour < ?5
	UNION ALL
	SELECT 1, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM requests
	WHERE organization_id = ?1 AND request_id >= ?11 AND request_id < ?12
		AND arrived_at >= ?2 AND arrived_at < ?3
	UNION ALL
	SELECT 1, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost,
		key_id, provider, model
	FROM requests
	WHERE organization_id = ?1 AND request_id >= ?13 AND request_id < ?14
		AND arrived_at >= ?6 AND arrived_at < ?7
)
SELECT coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
	coalesce(sum(cached_tokens), 0), coalesce(sum(reasoning_tokens), 0),
	coalesce(sum(cost), 0), coalesce(sum(market_cost), 0)
FROM parts
WHERE (?8 = '' OR key_id = ?8) AND (?9 = '' OR provider = ?9) AND (?10 = '' OR model = ?10)`

	selectSettled = `
SELECT coalesce(sum(settled), 0) FROM allowances
WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3
	AND period = ?4 AND period_start >= ?5 AND period_start < ?6`
)

// Requests implements billing.Reports.
func (s *Store) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	span := books.SpanOf(f)
	from, before := span.RequestIDs()
	if page.After != "" {
		before = min(before, page.After)
	}
	query := selectRequests
	args := []any{org, from, before, micros(span.From), micros(span.To), f.Provider, f.Model, books.PageLimit(page)}
	if f.KeyID != "" {
		query, args = selectRequestsOfKey, append(args, f.KeyID)
	}
	requests, err := list(ctx, s.reader, scanRequest, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	return requests, nil
}

// Request implements billing.Reports.
func (s *Store) Request(ctx context.Context, org, id string) (billing.Settlement, error) {
	r, err := scanRequest(s.reader.QueryRowContext(ctx, selectRequest, org, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = books.Missing(id, s.kept.Load().firstID)
	}
	if err != nil {
		return billing.Settlement{}, fmt.Errorf("read request %q: %w", id, err)
	}
	return r, nil
}

// Usage implements billing.Reports.
func (s *Store) Usage(ctx context.Context, org string, f billing.Filter) (billing.Totals, error) {
	before, hours, after := books.SpanOf(f).Kept(s.kept.Load().from).Hours()
	beforeFrom, beforeTo := before.RequestIDs()
	afterFrom, afterTo := after.RequestIDs()
	var t billing.Totals
	err := s.reader.QueryRowContext(ctx, selectUsage, org,
		micros(before.From), micros(before.To), micros(hours.From), micros(hours.To),
		micros(after.From), micros(after.To), f.KeyID, f.Provider, f.Model,
		beforeFrom, beforeTo, afterFrom, afterTo,
	).Scan(&t.Requests, &t.PromptTokens, &t.CompletionTokens, &t.CachedTokens, &t.ReasoningTokens, &t.Cost, &t.MarketCost)
	if err != nil {
		return billing.Totals{}, fmt.Errorf("sum usage: %w", err)
	}
	return t, nil
}

// Spend implements billing.Reports.
func (s *Store) Spend(ctx context.Context, allowances []billing.Allowance) ([]billing.Money, error) {
	spend := make([]billing.Money, len(allowances))
	for i, a := range allowances {
		args := append([]any{a.OrganizationID, a.Subject, string(a.Kind)}, keptArgs(a)...)
		if err := s.reader.QueryRowContext(ctx, selectSettled, args...).Scan(&spend[i]); err != nil {
			return nil, fmt.Errorf("read spend of %s %q: %w", a.Kind, a.Subject, err)
		}
	}
	return spend, nil
}

func requestArgs(a *arguments, r *books.Row) {
	u := &r.Usage
	a.text(r.RequestID, r.OrganizationID, r.KeyID, r.KeyName)
	a.number(micros(r.At))
	a.text(r.Provider, r.Model, r.Endpoint)
	a.number(u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio,
		u.CacheWrite, u.CacheWriteLong, u.Output, u.OutputAudio, u.OutputImage,
		u.WebSearches, u.Reasoning)
	a.text(string(r.UsageSource))
	a.add(r.UsageMismatch)
	a.text(r.ServiceTier)
	a.number(int64(r.Cost), int64(r.MarketCost))
	a.text(r.PriceRuleID)
	a.number(int64(r.Latency), int64(r.TTFB), int64(r.Status))
	a.text(r.Error, r.ClientIP, r.UserAgent)
	a.add(r.Streaming)
	a.number(int64(r.Attempts))
	a.text(books.EncodeList(r.Changes))
	a.add(r.Recovered)
	a.add(r.Hash)
	a.text(r.Project, books.EncodeList(r.AttemptLog))
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
