package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// AuditRow is one request. It never holds content of prompts or completions.
type AuditRow struct {
	RequestID        string        `json:"request_id"`
	CreatedAt        time.Time     `json:"created_at" doc:"When the request arrived."`
	Provider         string        `json:"provider"`
	Model            string        `json:"model" doc:"The one that was priced."`
	Endpoint         string        `json:"endpoint"`
	PromptTokens     int64         `json:"prompt_tokens" doc:"All tokens read, those from and into a cache included."`
	CompletionTokens int64         `json:"completion_tokens" doc:"All tokens generated, reasoning included."`
	CachedTokens     int64         `json:"cached_tokens" doc:"Tokens read from the provider's cache."`
	CacheWriteTokens int64         `json:"cache_write_tokens"`
	ReasoningTokens  int64         `json:"reasoning_tokens"`
	CostNanos        billing.Money `json:"cost_nanos" doc:"What the organization paid."`
	MarketCostNanos  billing.Money `json:"market_cost_nanos" doc:"What the provider's list price comes to."`
	LatencyMS        int64         `json:"latency_ms"`
	TTFBMS           int64         `json:"ttfb_ms" doc:"Time to the first byte of the answer."`
	Status           int           `json:"status" doc:"HTTP status of the answer; 0 if the client left before it."`
	Error            *string       `json:"error" doc:"What was refused or ended early, and why."`
	KeyID            string        `json:"key_id"`
	KeyName          string        `json:"key_name" doc:"The key's name at the time."`
	ClientIP         string        `json:"client_ip"`
	Streaming        bool          `json:"streaming"`
	UserAgent        string        `json:"user_agent"`
	UsageSource      string        `json:"usage_source" doc:"Where the counts came from: provider, provider_partial, drained, estimated or none."`
	PriceRuleID      *string       `json:"price_rule_id" doc:"The rule that priced it; null if none did."`
	Attempts         int           `json:"attempts" doc:"How often a provider was asked."`
	AttemptLog       []attempt     `json:"attempt_log" nullable:"false" doc:"What became of each attempt, in order. The last one answered, if any did."`
	Changes          []string      `json:"changes" nullable:"false" doc:"Parameters that a translation had to alter."`
}

// attempt is one try to get an answer from a provider.
type attempt struct {
	Provider   string  `json:"provider"`
	Model      string  `json:"model"`
	Credential string  `json:"credential" doc:"The label of the one that was used."`
	Status     *int    `json:"status" doc:"What the provider answered with; null without an answer."`
	Error      *string `json:"error" doc:"Why there was no answer, or no whole one."`
	DurationMS int64   `json:"duration_ms"`
}

func newAttempt(a billing.Attempt) attempt {
	return attempt{
		Provider: a.Provider, Model: a.Model, Credential: a.Credential,
		Status: orNil(a.Status), Error: orNil(a.Error), DurationMS: a.Duration.Milliseconds(),
	}
}

func newAuditRow(s billing.Settlement) AuditRow {
	return AuditRow{
		RequestID:        s.RequestID,
		CreatedAt:        s.At.UTC(),
		Provider:         s.Provider,
		Model:            s.Model,
		Endpoint:         s.Endpoint,
		PromptTokens:     s.Usage.Prompt(),
		CompletionTokens: s.Usage.Completion(),
		CachedTokens:     s.Usage.Cached(),
		CacheWriteTokens: s.Usage.CacheWrite + s.Usage.CacheWriteLong,
		ReasoningTokens:  s.Usage.Reasoning,
		CostNanos:        s.Cost,
		MarketCostNanos:  s.MarketCost,
		LatencyMS:        s.Latency.Milliseconds(),
		TTFBMS:           s.TTFB.Milliseconds(),
		Status:           s.Status,
		Error:            orNil(s.Error),
		KeyID:            s.KeyID,
		KeyName:          s.KeyName,
		ClientIP:         s.ClientIP,
		Streaming:        s.Streaming,
		UserAgent:        s.UserAgent,
		UsageSource:      string(s.UsageSource),
		PriceRuleID:      orNil(s.PriceRuleID),
		Attempts:         s.Attempts,
		AttemptLog:       mapped(s.AttemptLog, newAttempt),
		Changes:          orEmpty(s.Changes),
	}
}

type auditInput struct {
	Paging
	AuditQuery
}

type requestInput struct {
	RequestID string `path:"request_id" doc:"The X-Request-Id of the answer."`
}

func (a *api) registerAudit() {
	tags := []string{"Audit"}
	register(a, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: "/v1/audit", Tags: tags,
		Summary: "Requests in the order of their arrival",
	}, a.listAudit)
	registerExport(a, huma.Operation{
		OperationID: "export-audit", Method: http.MethodGet, Path: "/v1/audit/export", Tags: tags,
		Summary: "All requests that are selected, as a file",
	}, a.exportAudit)
	register(a, huma.Operation{
		OperationID: "get-audit", Method: http.MethodGet, Path: "/v1/audit/{request_id}", Tags: tags,
		Summary: "One request, and how its price came to be",
	}, a.getAudit)
}

func (a *api) listAudit(ctx context.Context, in *auditInput) (*body[list[AuditRow]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	page.OldestFirst = in.oldestFirst()
	f, err := in.filter(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().Requests(ctx, organizationOf(ctx), f, page)
	if err != nil {
		return nil, listError("requests", err)
	}
	rows, next := cut(in.Paging, found, func(s billing.Settlement) string { return s.RequestID })
	return &body[list[AuditRow]]{list[AuditRow]{Data: mapped(rows, newAuditRow), NextCursor: next}}, nil
}

func (a *api) getAudit(ctx context.Context, in *requestInput) (*body[AuditDetail], error) {
	if !billing.IsPlainText(in.RequestID) {
		return nil, notFound("request")
	}
	s, err := a.gateway.Store().Request(ctx, organizationOf(ctx), in.RequestID)
	if errors.Is(err, billing.ErrNotKept) {
		return nil, errNotKept
	}
	if errors.Is(err, billing.ErrNotFound) {
		return nil, notFound("request")
	}
	if err != nil {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	if _, restricted := ownOnly(ctx); restricted {
		// Another's request is not found, as another's key is not.
		if _, err := a.findKey(ctx, s.KeyID); errors.As(err, new(*problem)) {
			return nil, notFound("request")
		} else if err != nil {
			return nil, err
		}
	}
	c, err := newCalculation(s)
	if err != nil {
		return nil, err
	}
	return &body[AuditDetail]{AuditDetail{AuditRow: newAuditRow(s), Calculation: c}}, nil
}

type auditExportInput struct {
	ExportOptions
	AuditQuery
}

func (a *api) exportAudit(ctx context.Context, in *auditExportInput) (*huma.StreamResponse, error) {
	f, err := in.filter(ctx)
	if err != nil {
		return nil, err
	}
	f.To = in.endOfFile(f.To)
	org := organizationOf(ctx)
	return export(ctx, a, &in.ExportOptions, exported[billing.Settlement, AuditRow]{
		name:  "audit",
		start: billing.Page{OldestFirst: in.oldestFirst()},
		page: func(ctx context.Context, page billing.Page) ([]billing.Settlement, error) {
			return a.gateway.Store().Requests(ctx, org, f, page)
		},
		find: func(ctx context.Context, id string) ([]billing.Settlement, error) {
			one := f
			one.Detail.RequestID = id
			if f.Detail.RequestID != "" && f.Detail.RequestID != id {
				return nil, nil
			}
			return a.gateway.Store().Requests(ctx, org, one, billing.Page{Limit: 1})
		},
		id:      func(s *billing.Settlement) string { return s.RequestID },
		row:     newAuditRow,
		columns: auditColumns,
	})
}

// auditColumns are those of the CSV file: the fields of a row, and the costs in
// dollars too.
var auditColumns = []column[AuditRow]{
	{"request_id", func(c *cells, r *AuditRow) { c.text(r.RequestID) }},
	{"created_at", func(c *cells, r *AuditRow) { c.time(r.CreatedAt) }},
	{"provider", func(c *cells, r *AuditRow) { c.text(r.Provider) }},
	{"model", func(c *cells, r *AuditRow) { c.text(r.Model) }},
	{"endpoint", func(c *cells, r *AuditRow) { c.text(r.Endpoint) }},
	{"prompt_tokens", func(c *cells, r *AuditRow) { c.number(r.PromptTokens) }},
	{"completion_tokens", func(c *cells, r *AuditRow) { c.number(r.CompletionTokens) }},
	{"cached_tokens", func(c *cells, r *AuditRow) { c.number(r.CachedTokens) }},
	{"cache_write_tokens", func(c *cells, r *AuditRow) { c.number(r.CacheWriteTokens) }},
	{"reasoning_tokens", func(c *cells, r *AuditRow) { c.number(r.ReasoningTokens) }},
	{"cost_usd", func(c *cells, r *AuditRow) { c.dollars(r.CostNanos) }},
	{"cost_nanos", func(c *cells, r *AuditRow) { c.number(int64(r.CostNanos)) }},
	{"market_cost_usd", func(c *cells, r *AuditRow) { c.dollars(r.MarketCostNanos) }},
	{"market_cost_nanos", func(c *cells, r *AuditRow) { c.number(int64(r.MarketCostNanos)) }},
	{"latency_ms", func(c *cells, r *AuditRow) { c.number(r.LatencyMS) }},
	{"ttfb_ms", func(c *cells, r *AuditRow) { c.number(r.TTFBMS) }},
	{"status", func(c *cells, r *AuditRow) { c.number(int64(r.Status)) }},
	{"error", func(c *cells, r *AuditRow) { c.optional(r.Error) }},
	{"key_id", func(c *cells, r *AuditRow) { c.text(r.KeyID) }},
	{"key_name", func(c *cells, r *AuditRow) { c.text(r.KeyName) }},
	{"client_ip", func(c *cells, r *AuditRow) { c.text(r.ClientIP) }},
	{"streaming", func(c *cells, r *AuditRow) { c.flag(r.Streaming) }},
	{"user_agent", func(c *cells, r *AuditRow) { c.text(r.UserAgent) }},
	{"usage_source", func(c *cells, r *AuditRow) { c.text(r.UsageSource) }},
	{"price_rule_id", func(c *cells, r *AuditRow) { c.optional(r.PriceRuleID) }},
	{"attempts", func(c *cells, r *AuditRow) { c.number(int64(r.Attempts)) }},
	{"attempt_log", func(c *cells, r *AuditRow) { addList(c, r.AttemptLog) }},
	{"changes", func(c *cells, r *AuditRow) { addList(c, r.Changes) }},
}
