package columns

import "github.com/caddy-llm-gateway/gateway/billing"

// Request are the columns of requests.
const Request = `request_id, organization_id, key_id, key_name, arrived_at, provider, model, endpoint,
	input_tokens, input_audio_tokens, input_image_tokens, cache_read_tokens, cache_read_audio_tokens,
	cache_write_tokens, cache_write_long_tokens, output_tokens, output_audio_tokens, output_image_tokens,
	web_searches, reasoning_tokens, usage_source, usage_mismatch, service_tier, cost, market_cost,
	price_rule_id, latency_ns, ttfb_ns, status, error, client_ip, user_agent, streaming, attempts, changes,
	recovered, hash, project, attempt_log, price_sheet`

// ScanRequests returns a scan of Request without the hash and the price sheet,
// which are scanned into what a driver ignores. Exports read millions: all are
// scanned to the same place, and copied from there.
func ScanRequests(ignored any) func(Row) (billing.Settlement, error) {
	var r billing.Settlement
	fields := RequestFields(&r, ignored, ignored)
	return func(row Row) (billing.Settlement, error) {
		err := row.Scan(fields...)
		return r, err
	}
}

// RequestFields are what Request is scanned into, for queries that have more
// columns. Of the price sheet it is the hash.
func RequestFields(r *billing.Settlement, hash, sheet any) []any {
	u := &r.Usage
	return []any{
		&r.RequestID, &r.OrganizationID, &r.KeyID, &r.KeyName, Time{&r.At}, &r.Provider, &r.Model, &r.Endpoint,
		&u.Input, &u.InputAudio, &u.InputImage, &u.CacheRead, &u.CacheReadAudio,
		&u.CacheWrite, &u.CacheWriteLong, &u.Output, &u.OutputAudio, &u.OutputImage,
		&u.WebSearches, &u.Reasoning, &r.UsageSource, &r.UsageMismatch, &r.ServiceTier, &r.Cost, &r.MarketCost,
		&r.PriceRuleID, &r.Latency, &r.TTFB, &r.Status, &r.Error, &r.ClientIP, &r.UserAgent, &r.Streaming, &r.Attempts,
		List{&r.Changes}, &r.Recovered, hash, &r.Project, Attempts{&r.AttemptLog}, sheet,
	}
}
