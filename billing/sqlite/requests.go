package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"net/netip"

	"modernc.org/sqlite"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// The tests of what is not asked for cost next to nothing, so that one text
	// serves all filters.
	requestConditions = ` request_id >= ?2 AND request_id < ?3
	AND arrived_at >= ?4 AND arrived_at < ?5
	AND (?6 = '[]' OR provider IN (SELECT value FROM json_each(?6))) AND (?7 = '[]' OR model IN (SELECT value FROM json_each(?7)))
	AND (?9 = '[]' OR key_id IN (SELECT value FROM json_each(?9))) AND (?10 = '[]' OR project IN (SELECT value FROM json_each(?10)))
	AND (?11 = '[]' OR key_name IN (SELECT value FROM json_each(?11)))
	AND (?12 = '[]' OR endpoint IN (SELECT value FROM json_each(?12)))
	AND (?13 = '[]' OR error IN (SELECT value FROM json_each(?13)))
	AND (?14 = '[]' OR usage_source IN (SELECT value FROM json_each(?14)))
	AND (?15 = '[]' OR price_rule_id IN (SELECT value FROM json_each(?15)))
	AND (?16 = '[]' OR status IN (SELECT value FROM json_each(?16)) OR status / 100 IN (SELECT value FROM json_each(?16)))
	AND (?17 IS NULL OR client_ip = ?17) AND (?18 IS NULL OR ` + inNetwork + `(client_ip, ?18))
	AND (?19 = '' OR instr(lower(user_agent), ?19) > 0)
	AND (?20 IS NULL OR streaming = ?20) AND (?21 IS NULL OR (changes <> '[]') = ?21)
	AND (?22 IS NULL OR cost >= ?22) AND (?23 IS NULL OR cost <= ?23)
	AND (?24 IS NULL OR market_cost >= ?24) AND (?25 IS NULL OR market_cost <= ?25)
	AND (?26 IS NULL OR latency_ns >= ?26) AND (?27 IS NULL OR latency_ns <= ?27)
	AND (?28 IS NULL OR ttfb_ns >= ?28) AND (?29 IS NULL OR ttfb_ns <= ?29)
	AND (?30 IS NULL OR prompt_tokens >= ?30) AND (?31 IS NULL OR prompt_tokens <= ?31)
	AND (?32 IS NULL OR completion_tokens >= ?32) AND (?33 IS NULL OR completion_tokens <= ?33)
	AND (?34 IS NULL OR cached_tokens >= ?34) AND (?35 IS NULL OR cached_tokens <= ?35)
	AND (?36 IS NULL OR prompt_tokens + completion_tokens >= ?36) AND (?37 IS NULL OR prompt_tokens + completion_tokens <= ?37)
	AND (?38 IS NULL OR attempts >= ?38) AND (?39 IS NULL OR attempts <= ?39)
	AND (?40 = '' OR key_id IN (SELECT id FROM keys WHERE organization_id = ?1 AND owner = ?40))
ORDER BY request_id`

	selectRequests = `SELECT ` + columns.Request + ` FROM requests WHERE organization_id = ?1 AND` + requestConditions

	// The plus keeps the planner off the primary key, in which the requests of a
	// key are few among many. Of several keys the index has them one key after
	// the other: there the primary key, which has the order, is read.
	selectRequestsOfKey = `SELECT ` + columns.Request + ` FROM requests
WHERE key_id = ?9 ->> 0 AND +organization_id = ?1 AND` + requestConditions

	newestFirst = ` DESC LIMIT ?8`
	oldestFirst = ` ASC LIMIT ?8`

	selectRequestsNewestFirst      = selectRequests + newestFirst
	selectRequestsOldestFirst      = selectRequests + oldestFirst
	selectRequestsOfKeyNewestFirst = selectRequestsOfKey + newestFirst
	selectRequestsOfKeyOldestFirst = selectRequestsOfKey + oldestFirst
)

// inNetwork is the name of an SQL function: whether an address is in a network.
const inNetwork = `llm_gateway_in_network`

func init() {
	// The driver keeps its functions for the whole process.
	sqlite.MustRegisterDeterministicScalarFunction(inNetwork, 2, isInNetwork)
}

// isInNetwork is false for what is no address.
func isInNetwork(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	address, _ := args[0].(string)
	text, _ := args[1].(string)
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return nil, err
	}
	ip, err := netip.ParseAddr(address)
	return err == nil && network.Contains(ip), nil
}

// Requests implements billing.Reports.
func (s *Store) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	defer done()
	var query string
	switch ofKey := len(f.KeyIDs) == 1; {
	case ofKey && page.OldestFirst:
		query = selectRequestsOfKeyOldestFirst
	case ofKey:
		query = selectRequestsOfKeyNewestFirst
	case page.OldestFirst:
		query = selectRequestsOldestFirst
	default:
		query = selectRequestsNewestFirst
	}
	args, err := filterArgs(org, f, page)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	requests, err := listUpTo(ctx, s.reader, books.PageLimit(page), columns.ScanRequests(columns.Ignored{}), query, args...)
	if err != nil {
		return nil, fmt.Errorf("list requests: %w", err)
	}
	return requests, nil
}

func filterArgs(org string, f billing.Filter, page billing.Page) ([]any, error) {
	d := &f.Detail
	span := books.SpanOf(f)
	from, before := books.RequestIDs(f, page)
	statuses := []byte("[]")
	if len(d.Statuses) > 0 {
		var err error
		if statuses, err = json.Marshal(d.Statuses); err != nil {
			return nil, err
		}
	}
	address, network := books.Address(d)
	args := []any{
		org, from, before, micros(span.From), micros(span.To), books.EncodeList(f.Providers), books.EncodeList(f.Models), books.PageLimit(page),
		books.EncodeList(f.KeyIDs), books.EncodeList(f.Projects),
		books.EncodeList(d.KeyNames), books.EncodeList(d.Endpoints), books.EncodeList(d.Errors),
		books.EncodeList(books.Names(d.UsageSources)), books.EncodeList(d.PriceRuleIDs), string(statuses),
		address, network, billing.LowerASCII(d.UserAgent), d.Streaming, d.Changed,
	}
	return append(append(args, books.Bounds(d)...), f.Owner), nil
}
