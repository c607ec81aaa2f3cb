package postgres

import (
	"context"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// One text serves all filters: the server drops the tests of what is not
	// asked for when it plans.
	requestConditions = `
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3
	AND arrived_at >= $4 AND arrived_at < $5
	AND ($6::text[] IS NULL OR provider = ANY ($6)) AND ($7::text[] IS NULL OR model = ANY ($7))
	AND ($9::text[] IS NULL OR key_id = ANY ($9)) AND ($10::text[] IS NULL OR project = ANY ($10))
	AND ($11::text[] IS NULL OR key_name = ANY ($11))
	AND ($12::text[] IS NULL OR endpoint = ANY ($12))
	AND ($13::text[] IS NULL OR error = ANY ($13))
	AND ($14::text[] IS NULL OR usage_source = ANY ($14))
	AND ($15::text[] IS NULL OR price_rule_id = ANY ($15))
	AND ($16::bigint[] IS NULL OR status = ANY ($16) OR status / 100 = ANY ($16))
	AND ($17::text IS NULL OR client_ip = $17) AND ($18::text IS NULL OR address_of(client_ip) <<= $18::text::inet)
	AND ($19::text = '' OR strpos(lower(user_agent COLLATE "C"), $19) > 0)
	AND ($20::boolean IS NULL OR streaming = $20) AND ($21::boolean IS NULL OR (changes <> '[]') = $21)
	AND ($22::bigint IS NULL OR cost >= $22) AND ($23::bigint IS NULL OR cost <= $23)
	AND ($24::bigint IS NULL OR market_cost >= $24) AND ($25::bigint IS NULL OR market_cost <= $25)
	AND ($26::bigint IS NULL OR latency_ns >= $26) AND ($27::bigint IS NULL OR latency_ns <= $27)
	AND ($28::bigint IS NULL OR ttfb_ns >= $28) AND ($29::bigint IS NULL OR ttfb_ns <= $29)
	AND ($30::bigint IS NULL OR prompt_tokens >= $30) AND ($31::bigint IS NULL OR prompt_tokens <= $31)
	AND ($32::bigint IS NULL OR completion_tokens >= $32) AND ($33::bigint IS NULL OR completion_tokens <= $33)
	AND ($34::bigint IS NULL OR cached_tokens >= $34) AND ($35::bigint IS NULL OR cached_tokens <= $35)
	AND ($36::bigint IS NULL OR prompt_tokens + completion_tokens >= $36) AND ($37::bigint IS NULL OR prompt_tokens + completion_tokens <= $37)
	AND ($38::bigint IS NULL OR attempts >= $38) AND ($39::bigint IS NULL OR attempts <= $39)
	AND ($40::text = '' OR key_id IN (SELECT id FROM keys WHERE organization_id = $1 AND owner = $40))
ORDER BY request_id`

	selectRequests = `SELECT ` + columns.Request + ` FROM requests` + requestConditions

	selectRequestsNewestFirst = selectRequests + ` DESC LIMIT $8`
	selectRequestsOldestFirst = selectRequests + ` ASC LIMIT $8`
)

// Requests implements billing.Reports.
func (s *Store) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	defer done()
	query := selectRequestsNewestFirst
	if page.OldestFirst {
		query = selectRequestsOldestFirst
	}
	requests, err := listUpTo(ctx, s.of(org), books.PageLimit(page), columns.ScanRequests(nil), query, filterArgs(org, f, page)...)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	return requests, nil
}

func filterArgs(org string, f billing.Filter, page billing.Page) []any {
	d := &f.Detail
	span := books.SpanOf(f)
	from, before := books.RequestIDs(f, page)
	var statuses []int64
	for _, s := range d.Statuses {
		statuses = append(statuses, int64(s))
	}
	address, network := books.Address(d)
	args := []any{
		planned, org, from, before, span.From, span.To, books.Names(f.Providers), books.Names(f.Models), books.PageLimit(page),
		books.Names(f.KeyIDs), books.Names(f.Projects),
		d.KeyNames, d.Endpoints, d.Errors, books.Names(d.UsageSources), d.PriceRuleIDs, statuses,
		address, network, billing.LowerASCII(d.UserAgent), d.Streaming, d.Changed,
	}
	return append(append(args, books.Bounds(d)...), f.Owner)
}
