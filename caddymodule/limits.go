package caddymodule

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// mostTokens is more than one request can use, and little enough for sums.
const mostTokens = 1 << 40

// takeRate counts the request against the limits of its key and organization
// that are not money: requests and tokens a minute, and open requests.
func (c *call) takeRate() *refusal {
	claims := c.quotaClaims()
	if claims == nil {
		return nil
	}
	short, err := c.engine.limiter.Take(c.r.Context(), claims)
	showRates(c.w.Header(), claims)
	c.rated = true
	switch {
	case err != nil:
		return refuseLedger.because(err)
	case short >= 0:
		return c.refuseQuota(&claims[short])
	}
	c.quotas = claims
	return nil
}

// quotaClaims are what the request takes of limits, in the order in which they
// refuse; nil if there are none.
func (c *call) quotaClaims() []billing.QuotaClaim {
	k, org := c.key, &c.key.organization
	if k.RateLimitRPM == 0 && k.RateLimitTPM == 0 && k.MaxConcurrent == 0 && org.RateLimitRPM == 0 {
		return nil
	}
	claims := make([]billing.QuotaClaim, 0, 4)
	claim := func(kind billing.QuotaKind, subject string, limit, amount, least int64) {
		if limit > 0 {
			q := billing.Quota{Kind: kind, OrganizationID: k.OrganizationID, Subject: subject}
			claims = append(claims, billing.QuotaClaim{Quota: q, Limit: limit, Amount: amount, Least: least})
		}
	}
	tokens, least := c.tokens()
	claim(billing.KeyRPM, k.ID, k.RateLimitRPM, 1, 1)
	claim(billing.OrganizationRPM, "", org.RateLimitRPM, 1, 1)
	claim(billing.KeyTPM, k.ID, k.RateLimitTPM, tokens, least)
	claim(billing.KeyConcurrency, k.ID, k.MaxConcurrent, 1, 1)
	return claims
}

// tokens are what the request may use, by its size: 0 if it is free. Where that
// is a guess, a part of it must be left, and no more than there is in a minute.
func (c *call) tokens() (amount, least int64) {
	if c.endpoint.Billing == metering.Free {
		return 0, 0
	}
	prompt, output := min(c.request.PromptTokens, mostTokens), min(c.outputCeiling(), mostTokens)
	if c.request.MaxTokens > 0 {
		return prompt + output, prompt + output
	}
	return min(prompt+output, c.key.RateLimitTPM), min(prompt+output/guessShare, c.key.RateLimitTPM)
}

// endQuotas gives back what the request has taken of open requests, and of
// tokens what it has not used, or takes what it has used more. That it was sent
// counts in any case.
func (c *call) endQuotas() {
	for i := range c.quotas {
		switch claim := &c.quotas[i]; claim.Quota.Kind {
		case billing.KeyTPM:
			used := c.row.Usage.Prompt() + c.row.Usage.Completion()
			c.engine.limiter.Correct(claim, max(0, min(used, mostTokens)))
		case billing.KeyConcurrency:
			c.engine.limiter.Correct(claim, 0)
		}
	}
}

// refuseQuota is the answer to a request that a limit has no room for.
func (c *call) refuseQuota(claim *billing.QuotaClaim) *refusal {
	var refused refusal
	switch claim.Quota.Kind {
	case billing.KeyRPM:
		refused = refuseRate
	case billing.OrganizationRPM:
		refused = refuseOrganizationRate
		c.w.Header().Set("X-RateLimit-Scope", "organization")
	case billing.KeyTPM:
		refused = refuseTokenRate
		switch {
		case c.request.MaxTokens == 0:
			refused.help = "The request sets no limit of generated tokens, so more than it needs may have to be left: send max_tokens."
		case claim.Amount > claim.Limit:
			refused.help = fmt.Sprintf("The prompt and max_tokens are about %d tokens together, and the key has %d a minute: "+
				"lower max_tokens, or raise the key's rate_limit_tpm.", claim.Amount, claim.Limit)
		}
	default:
		return &refuseConcurrency
	}
	refused.retryAfter = max(time.Second, claim.Reset.Sub(c.engine.now()))
	return &refused
}

// lookAtRates tells a client whose request is refused before it is counted
// where it stands.
func (c *call) lookAtRates() {
	claims := c.quotaClaims()
	for i := range claims {
		c.engine.limiter.Look(&claims[i])
	}
	showRates(c.w.Header(), claims)
}

// showRates puts on an answer what is left of limits.
func showRates(h http.Header, claims []billing.QuotaClaim) {
	for i := range claims {
		claim := &claims[i]
		limit, remaining := strconv.FormatInt(claim.Limit, 10), strconv.FormatInt(claim.Remaining, 10)
		switch claim.Quota.Kind {
		case billing.KeyRPM:
			h.Set("X-RateLimit-Limit", limit)
			h.Set("X-RateLimit-Remaining", remaining)
			h.Set("X-RateLimit-Reset", strconv.FormatInt(claim.Reset.Unix(), 10))
		case billing.OrganizationRPM:
			h.Set("X-RateLimit-Org-Limit", limit)
			h.Set("X-RateLimit-Org-Remaining", remaining)
		case billing.KeyTPM:
			h.Set("X-RateLimit-Tokens-Limit", limit)
			h.Set("X-RateLimit-Tokens-Remaining", remaining)
		}
	}
}

// perMinute bounds how often this node does something in a calendar minute.
type perMinute struct {
	mu     sync.Mutex
	minute time.Time
	counts map[string]int // in that minute
}

// take tells whether it is to be done once more for an id.
func (p *perMinute) take(id string, most int, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if minute := now.Truncate(time.Minute); p.counts == nil || minute.After(p.minute) {
		p.minute, p.counts = minute, make(map[string]int)
	}
	p.counts[id]++
	return p.counts[id] <= most
}

// maxRefusedRows is how many refused requests of a key have audit rows in a
// minute. A client that cannot stop trying must not fill the disk; the metric
// counts all.
const maxRefusedRows = 60
