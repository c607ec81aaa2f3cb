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
	recovered, hash, project, attempt_log, price_sheet`

	requestValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	selectRequest = `
SELECT ` + requestColumns + `, coalesce((SELECT text FROM price_sheets WHERE hash = price_sheet), '')
FROM requests WHERE organization_id = ?1 AND request_id = ?2`

	selectSettled = `
SELECT coalesce(sum(settled), 0) FROM allowances
WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3
	AND period = ?4 AND period_start >= ?5 AND period_start < ?6`
)

// Request implements billing.Reports.
func (s *Store) Request(ctx context.Context, org, id string) (billing.Settlement, error) {
	var (
		r     billing.Settlement
		sheet []byte
	)
	err := s.reader.QueryRowContext(ctx, selectRequest, org, id).Scan(append(requestFields(&r, &sheet), &r.PriceSheet)...)
	if errors.Is(err, sql.ErrNoRows) {
		err = books.Missing(id, s.kept.Load().firstID)
	}
	if err == nil {
		err = books.CheckSheet(r.PriceSheet, sheet)
	}
	if err != nil {
		return billing.Settlement{}, fmt.Errorf("read request %q: %w", id, err)
	}
	return r, nil
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
	a.add(r.Sheet)
}

// scanRequests returns a scan of requests without their price sheets. Exports
// read millions: all are scanned to the same place, and copied from there.
func scanRequests() func(scanner) (billing.Settlement, error) {
	var r billing.Settlement
	fields := requestFields(&r, ignoredColumn{})
	return func(row scanner) (billing.Settlement, error) {
		err := row.Scan(fields...)
		return r, err
	}
}

// requestFields are where to scan requestColumns to. Of the price sheet it is
// the hash.
func requestFields(r *billing.Settlement, sheet any) []any {
	u := &r.Usage
	return []any{
		&r.RequestID, &r.OrganizationID, &r.KeyID, &r.KeyName, timeColumn{&r.At}, &r.Provider, &r.Model, &r.Endpoint,
		&u.Input, &u.InputAudio, &u.InputImage, &u.CacheRead, &u.CacheReadAudio,
		&u.CacheWrite, &u.CacheWriteLong, &u.Output, &u.OutputAudio, &u.OutputImage,
		&u.WebSearches, &u.Reasoning, &r.UsageSource, &r.UsageMismatch, &r.ServiceTier, &r.Cost, &r.MarketCost,
		&r.PriceRuleID, &r.Latency, &r.TTFB, &r.Status, &r.Error, &r.ClientIP, &r.UserAgent, &r.Streaming, &r.Attempts,
		listColumn{&r.Changes}, &r.Recovered, ignoredColumn{}, &r.Project, attemptsColumn{&r.AttemptLog}, sheet,
	}
}
