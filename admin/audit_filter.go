package admin

import (
	"context"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// AuditSelection are the parameters that select audit rows, beyond those that
// select usage too. Of a parameter that is repeated, each value will do.
type AuditSelection struct {
	RequestID   string   `query:"request_id" maxLength:"200" doc:"The request of this id."`
	KeyName     []string `query:"key_name,explode" maxItems:"50" doc:"The key's name at the time."`
	Endpoint    []string `query:"endpoint,explode" maxItems:"50" example:"chat/completions"`
	Status      []string `query:"status,explode" maxItems:"50" doc:"An HTTP status, 0 for clients that left before the answer, or a class such as 4xx." example:"4xx"`
	Error       []string `query:"error,explode" maxItems:"50" doc:"The whole text of the error." example:"spend_exceeded"`
	UsageSource []string `query:"usage_source,explode" maxItems:"50" enum:"provider,provider_partial,drained,estimated,none"`
	PriceRuleID []string `query:"price_rule_id,explode" maxItems:"50"`
	ClientIP    string   `query:"client_ip" maxLength:"64" doc:"An address, or a network in CIDR notation." example:"10.0.0.0/8"`
	UserAgent   string   `query:"user_agent" maxLength:"200" doc:"A part of the user agent, in any case of its ASCII letters."`
	Streaming   string   `query:"streaming" enum:"true,false"`
	Changed     string   `query:"changed" enum:"true,false" doc:"Whether a translation had to alter parameters."`
	AuditBounds
}

// AuditBounds are the parameters that bound numbers, all of them inclusive.
type AuditBounds struct {
	MinCost             string `query:"min_cost_nanos" maxLength:"20"`
	MaxCost             string `query:"max_cost_nanos" maxLength:"20"`
	MinMarketCost       string `query:"min_market_cost_nanos" maxLength:"20"`
	MaxMarketCost       string `query:"max_market_cost_nanos" maxLength:"20"`
	MinLatency          string `query:"min_latency_ms" maxLength:"20"`
	MaxLatency          string `query:"max_latency_ms" maxLength:"20"`
	MinTTFB             string `query:"min_ttfb_ms" maxLength:"20"`
	MaxTTFB             string `query:"max_ttfb_ms" maxLength:"20"`
	MinPromptTokens     string `query:"min_prompt_tokens" maxLength:"20"`
	MaxPromptTokens     string `query:"max_prompt_tokens" maxLength:"20"`
	MinCompletionTokens string `query:"min_completion_tokens" maxLength:"20"`
	MaxCompletionTokens string `query:"max_completion_tokens" maxLength:"20"`
	MinCachedTokens     string `query:"min_cached_tokens" maxLength:"20"`
	MaxCachedTokens     string `query:"max_cached_tokens" maxLength:"20"`
	MinTokens           string `query:"min_tokens" maxLength:"20" doc:"Of prompt and completion together."`
	MaxTokens           string `query:"max_tokens" maxLength:"20" doc:"Of prompt and completion together."`
	MinAttempts         string `query:"min_attempts" maxLength:"20"`
	MaxAttempts         string `query:"max_attempts" maxLength:"20"`
}

// AuditQuery is all that selects and orders audit rows.
type AuditQuery struct {
	Interval
	Selection
	KeySelection
	AuditSelection
	Sorting
}

// filter reads the parameters: those of the requests that the caller may see.
// All faults are reported together.
func (q *AuditQuery) filter(ctx context.Context) (billing.Filter, error) {
	var f faults
	out := q.Selection.read(&f, q.KeyID)
	out.Owner, _ = ownOnly(ctx)
	out.From, out.To = q.Interval.read(&f)
	q.AuditSelection.read(&f, &out.Detail)
	q.AuditBounds.read(&f, &out.Detail)
	f.checkTexts("request_id", q.RequestID)
	f.checkTexts("key_name", q.KeyName...)
	f.checkTexts("endpoint", q.Endpoint...)
	f.checkTexts("error", q.Error...)
	f.checkTexts("price_rule_id", q.PriceRuleID...)
	f.checkTexts("user_agent", q.UserAgent)
	return out, f.err()
}

func (s *AuditSelection) read(f *faults, d *billing.Detail) {
	d.RequestID, d.KeyNames, d.Endpoints, d.Errors = s.RequestID, s.KeyName, s.Endpoint, s.Error
	d.PriceRuleIDs, d.UserAgent = s.PriceRuleID, s.UserAgent
	for _, source := range s.UsageSource {
		d.UsageSources = append(d.UsageSources, metering.Source(source))
	}
	for _, text := range s.Status {
		status, ok := parseStatus(text)
		if !ok {
			f.add("query.status", "expected an HTTP status from 100 to 599, 0, or a class such as 4xx")
		}
		d.Statuses = append(d.Statuses, status)
	}
	var ok bool
	if d.ClientIP, ok = parseNetwork(s.ClientIP); !ok {
		f.add("query.client_ip", "expected an address or a network, such as 192.0.2.7 or 10.0.0.0/8")
	}
	d.Streaming, d.Changed = flagOf(s.Streaming), flagOf(s.Changed)
}

var statusForm = regexp.MustCompile(`^(?:0|[1-5][0-9][0-9]|[1-5]xx)$`)

// parseStatus reads a status as billing.Detail has it.
func parseStatus(text string) (int, bool) {
	if !statusForm.MatchString(text) {
		return 0, false
	}
	digits, _ := strings.CutSuffix(text, "xx")
	status, err := strconv.Atoi(digits)
	return status, err == nil
}

func parseNetwork(text string) (netip.Prefix, bool) {
	if text == "" {
		return netip.Prefix{}, true
	}
	if network, err := netip.ParsePrefix(text); err == nil {
		return network.Masked(), true
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(address, address.BitLen()), true
}

// flagOf is nil where nothing is asked for.
func flagOf(text string) *bool {
	if text == "" {
		return nil
	}
	return new(text == "true")
}

func (b *AuditBounds) read(f *faults, d *billing.Detail) {
	d.Cost = readRange[billing.Money](f, "cost_nanos", 1, b.MinCost, b.MaxCost)
	d.MarketCost = readRange[billing.Money](f, "market_cost_nanos", 1, b.MinMarketCost, b.MaxMarketCost)
	d.Latency = readRange(f, "latency_ms", time.Millisecond, b.MinLatency, b.MaxLatency)
	d.TTFB = readRange(f, "ttfb_ms", time.Millisecond, b.MinTTFB, b.MaxTTFB)
	d.PromptTokens = readRange[int64](f, "prompt_tokens", 1, b.MinPromptTokens, b.MaxPromptTokens)
	d.CompletionTokens = readRange[int64](f, "completion_tokens", 1, b.MinCompletionTokens, b.MaxCompletionTokens)
	d.CachedTokens = readRange[int64](f, "cached_tokens", 1, b.MinCachedTokens, b.MaxCachedTokens)
	d.Tokens = readRange[int64](f, "tokens", 1, b.MinTokens, b.MaxTokens)
	d.Attempts = readRange[int64](f, "attempts", 1, b.MinAttempts, b.MaxAttempts)
}

// maxBound keeps every bound in any unit within an int64.
const maxBound = 9_000_000_000_000

// readRange reads the bounds of a number that is answered in whole units, so
// that a greatest value includes the parts of its unit.
func readRange[T ~int64](f *faults, name string, unit T, least, most string) (r billing.Range[T]) {
	read := func(prefix, text string) (T, bool) {
		if text == "" {
			return 0, false
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || unit > 1 && n > maxBound {
			f.add("query."+prefix+name, "expected a whole number that is not negative")
		}
		return T(n), err == nil
	}
	if n, ok := read("min_", least); ok {
		r.Min = new(n * unit)
	}
	if n, ok := read("max_", most); ok {
		r.Max = new(n*unit + unit - 1)
	}
	return r
}
