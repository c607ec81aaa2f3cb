package caddymodule

import (
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// fact is something about a request that the access log and placeholders tell.
// None of them has content of prompts or completions, or a credential.
type fact struct {
	name string
	// of returns nil while it is not known.
	of func(*call) any
	// unlogged is what the access log has anyway.
	unlogged bool
}

// facts are in the order of the access log.
var facts = []fact{
	{name: "request_id", of: func(c *call) any { return ifSet(c.row.RequestID) }},
	{name: "organization_id", of: func(c *call) any { return ifSet(c.row.OrganizationID) }},
	{name: "key_id", of: func(c *call) any { return ifSet(c.row.KeyID) }},
	{name: "key_name", of: func(c *call) any { return ifSet(c.row.KeyName) }},
	{name: "project", of: func(c *call) any { return ifSet(c.row.Project) }},
	{name: "provider", of: func(c *call) any { return ifSet(c.row.Provider) }},
	{name: "model", of: func(c *call) any { return ifSet(c.row.Model) }},
	{name: "endpoint", of: func(c *call) any { return ifSet(c.row.Endpoint) }},
	{name: "streaming", of: func(c *call) any {
		if c.row.Attempts == 0 {
			return ifSet(c.row.Streaming)
		}
		return c.row.Streaming
	}},
	{name: "prompt_tokens", of: func(c *call) any { return c.ifSettled(c.row.Usage.Prompt()) }},
	{name: "completion_tokens", of: func(c *call) any { return c.ifSettled(c.row.Usage.Completion()) }},
	{name: "cached_tokens", of: func(c *call) any { return c.ifSettled(c.row.Usage.Cached()) }},
	{name: "cost", unlogged: true, of: func(c *call) any { return c.ifSettled(c.row.Cost.String()) }},
	{name: "cost_nanos", of: func(c *call) any { return c.ifSettled(int64(c.row.Cost)) }},
	{name: "market_cost", unlogged: true, of: func(c *call) any { return c.ifSettled(c.row.MarketCost.String()) }},
	{name: "market_cost_nanos", of: func(c *call) any { return c.ifSettled(int64(c.row.MarketCost)) }},
	{name: "usage_source", of: func(c *call) any { return c.ifSettled(string(c.row.UsageSource)) }},
	{name: "price_rule_id", of: func(c *call) any { return ifSet(c.row.PriceRuleID) }},
	{name: "attempts", of: func(c *call) any { return ifSet(c.row.Attempts) }},
	{name: "credential", of: func(c *call) any {
		if n := len(c.row.AttemptLog); n > 0 {
			return ifSet(c.row.AttemptLog[n-1].Credential)
		}
		return nil
	}},
	{name: "ttfb_ms", of: func(c *call) any { return ifSet(c.row.TTFB.Milliseconds()) }},
	{name: "status", unlogged: true, of: func(c *call) any { return ifSet(c.row.Status) }},
	{name: "error", of: func(c *call) any { return ifSet(c.row.Error) }},
}

func ifSet[T comparable](value T) any {
	var unset T
	if value == unset {
		return nil
	}
	return value
}

// ifSettled returns what is only known when the request is settled. Before
// that, and if nothing was sent, a zero would look like the outcome.
func (c *call) ifSettled(value any) any {
	if c.hold != nil || c.row.Attempts == 0 {
		return nil
	}
	return value
}

// logField is the name of the object in the access log.
const logField = "llm_gateway"

// expose lets the access log and placeholders tell what becomes of the
// request. They ask when they need it; nothing is copied.
func (c *call) expose() {
	ctx := c.r.Context()
	if replacer, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Map(c.placeholder)
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Logs == nil {
		return
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object(logField, c))
	}
}

// placeholderPrefix starts the names of the gateway's placeholders.
const placeholderPrefix = "http.llm_gateway."

// placeholder implements caddy.ReplacerFunc. What is not known yet is empty.
func (c *call) placeholder(key string) (any, bool) {
	name, ours := strings.CutPrefix(key, placeholderPrefix)
	if !ours {
		return nil, false
	}
	for i := range facts {
		if facts[i].name == name {
			return facts[i].of(c), true
		}
	}
	return nil, false
}

// MarshalLogObject writes what is known of the request.
func (c *call) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for i := range facts {
		if facts[i].unlogged {
			continue
		}
		if value := facts[i].of(c); value != nil {
			zap.Any(facts[i].name, value).AddTo(enc)
		}
	}
	return nil
}
