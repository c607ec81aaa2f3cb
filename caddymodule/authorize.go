package caddymodule

import (
	"cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// authorize holds what the request may cost. Free requests hold nothing, but
// are journaled like all others before they are sent.
func (c *call) authorize() *refusal {
	estimate := c.row
	var claim billing.Claim
	if c.hasPrice() {
		claim = c.dearestClaim()
		estimate.Usage = metering.Usage{Input: c.request.PromptTokens}
		c.priceInto(&estimate, metering.Reading{Usage: estimate.Usage, Found: true})
	}
	estimate.UsageSource, estimate.Error, estimate.Recovered = metering.SourceEstimated, "interrupted", true
	estimate.Attempts = 1 // about to be made
	claim.Soft = c.watched()
	hold, err := c.engine.authorizer.Hold(c.r.Context(), claim, &estimate)
	if err != nil {
		return c.refuseSpending(err)
	}
	c.hold, c.held = hold, hold.Amount()
	c.warn(hold.SoftReached())
	return nil
}

// warn tells the client, and whoever subscribes to events, of soft limits that
// are reached.
func (c *call) warn(reached []billing.SoftReached) {
	if len(reached) == 0 {
		return
	}
	c.w.Header().Set("X-Budget-Warning", "approaching_limit")
	for i := range reached {
		c.engine.events.budgetSoft(&reached[i])
	}
}

// guessShare is the part of default_max_tokens that must be left for a request
// that does not limit its output.
const guessShare = 16

// claim is what to hold for a request that has a price.
func (c *call) claim() billing.Claim {
	claim := billing.Claim{Allowances: c.allowances()}
	if c.key.organization.HoldStrict {
		bound := metering.PromptBound(c.protocol(), c.body)
		// Without a report of the provider's, the estimate is charged.
		bound.Prompt = max(bound.Prompt, c.request.PromptTokens)
		bound.Predicted *= max(1, c.request.Choices)
		claim.Amount = c.rule.WorstCase(bound, c.outputBound(), c.row.At, c.app.discount)
		return claim
	}
	output := c.outputCeiling()
	switch {
	case c.row.Streaming && c.endpoint.Billing == metering.Metered:
		// It extends its hold as it goes, and a provider that does not care for
		// the request's limit is noticed before the money is gone.
		claim.Amount = c.estimate(max(output, leastChunk))
		claim.Least = max(1, c.estimate(leastChunk))
	case c.request.MaxTokens == 0:
		claim.Amount = c.estimate(output)
		claim.Least = max(1, c.estimate(output/guessShare)) // it is a guess anyway
	default:
		claim.Amount = c.estimate(output)
	}
	return claim
}

// estimate is what the request costs with so many generated tokens, by its
// size.
func (c *call) estimate(output int64) billing.Money {
	return c.rule.Estimate(c.request.PromptTokens, output, c.app.discount)
}

// allowances are the limits that the request's cost counts against. If more
// than one of them is short, the first says so.
func (c *call) allowances() []billing.Allowance {
	org, project := &c.key.organization, &c.key.project
	list := make([]billing.Allowance, 0, 4)
	if c.key.UsageLimit != nil {
		list = append(list, billing.SpendOf(&c.key.Key, c.row.At, c.weekStart()))
	}
	list = append(list, billing.CreditsOf(org.ID))
	if org.Budget != nil {
		list = append(list, billing.BudgetOf(org.ID, org.BudgetPeriod, c.row.At, c.weekStart()))
	}
	if project.Budget != nil {
		list = append(list, billing.ProjectBudgetOf(project, c.row.At, c.weekStart()))
	}
	return list
}

// watched are the limits to warn of: mostly none.
func (c *call) watched() (list []billing.SoftLimit) {
	org, project := &c.key.organization, &c.key.project
	if limit := c.key.UsageSoftLimit; limit != nil {
		list = append(list, billing.SoftLimit{
			Allowance: billing.SpendOf(&c.key.Key, c.row.At, c.weekStart()), Spend: *limit,
		})
	}
	if limit := org.BudgetSoft; limit != nil {
		list = append(list, billing.SoftLimit{
			Allowance: billing.BudgetOf(org.ID, org.BudgetPeriod, c.row.At, c.weekStart()), Spend: *limit,
		})
	}
	if limit := project.BudgetSoft; limit != nil {
		list = append(list, billing.SoftLimit{
			Allowance: billing.ProjectBudgetOf(project, c.row.At, c.weekStart()), Spend: *limit,
		})
	}
	return list
}

// weekStart is the day that the weeks of the key's organization start on.
func (c *call) weekStart() billing.WeekStart {
	return cmp.Or(c.key.organization.WeekStart, c.app.WeekStart)
}

// outputCeiling is how many generated tokens to hold for.
func (c *call) outputCeiling() int64 {
	if c.request.MaxTokens > 0 {
		return c.request.MaxTokens
	}
	return c.app.DefaultMaxTokens * max(1, c.request.Choices)
}

// outputBound is how many the response may have at worst.
func (c *call) outputBound() int64 {
	if c.request.MaxTokens > 0 {
		return c.request.MaxTokens
	}
	return max(c.app.MaxOutputTokens, c.app.DefaultMaxTokens) * max(1, c.request.Choices)
}
