package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	requestValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	selectRequest = `
SELECT ` + columns.Request + `, coalesce((SELECT text FROM price_sheets WHERE hash = price_sheet), '')
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
	err := s.reader.QueryRowContext(ctx, selectRequest, org, id).Scan(append(columns.RequestFields(&r, columns.Ignored{}, &sheet), &r.PriceSheet)...)
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
