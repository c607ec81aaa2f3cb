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
	recovered, hash, project, attempt_log, price_sheet`

	selectRequest = `
SELECT ` + requestColumns + `, coalesce((SELECT text FROM price_sheets WHERE hash = price_sheet), '')
FROM requests WHERE organization_id = $1 AND request_id = $2`

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

// Request implements billing.Reports.
func (s *Store) Request(ctx context.Context, org, id string) (billing.Settlement, error) {
	var (
		r     billing.Settlement
		sheet []byte
	)
	err := s.of(org).QueryRow(ctx, selectRequest, org, id).Scan(append(requestFields(&r, &sheet), &r.PriceSheet)...)
	if errors.Is(err, pgx.ErrNoRows) {
		err = s.missing(ctx, id)
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
		column(rows, func(r *books.Row) []byte { return r.Sheet }),
	}
}

// scanRequests returns a scan of requests without their price sheets. Exports
// read millions: all are scanned to the same place, and copied from there.
func scanRequests() func(scanner) (billing.Settlement, error) {
	var r billing.Settlement
	fields := requestFields(&r, nil)
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
		listColumn{&r.Changes}, &r.Recovered, nil, &r.Project, attemptsColumn{&r.AttemptLog}, sheet,
	}
}
