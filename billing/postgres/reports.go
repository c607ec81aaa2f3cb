package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	selectRequest = `
SELECT ` + columns.Request + `, coalesce((SELECT text FROM price_sheets WHERE hash = price_sheet), '')
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
	err := s.of(org).QueryRow(ctx, selectRequest, org, id).Scan(append(columns.RequestFields(&r, nil, &sheet), &r.PriceSheet)...)
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
