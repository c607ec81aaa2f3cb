package caddymodule

import (
	"errors"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// bytesPerToken turns an amount of generated text into an estimate of its
// tokens.
const bytesPerToken = 4

// settle ends the hold with what the request used and cost. It does so once;
// further calls do nothing.
func (c *call) settle() {
	if c.hold == nil {
		return
	}
	hold := c.hold
	c.hold = nil
	c.response.drained = !c.response.delivered && c.response.upstream != nil && c.response.upstream.gone()
	c.finishRow()
	if err := hold.Settle(&c.row); err != nil {
		c.engine.requestLog.Error("journal does not take a settlement; it goes to the store without",
			zap.String("request_id", c.row.RequestID), zap.Error(err))
	}
}

// void ends the hold of a request of which nothing was sent, without a row.
func (c *call) void() {
	hold := c.hold
	c.hold = nil
	if err := hold.Void(&c.row); err != nil {
		c.engine.requestLog.Error("journal does not take the end of a request that was not sent",
			zap.String("request_id", c.row.RequestID), zap.Error(err))
	}
}

// progress journals what a stream has cost so far, for the case that the
// gateway ends before the stream does.
func (c *call) progress(reading metering.Reading) {
	reading, source := c.soFar(reading)
	total := reading.Total()
	if c.hold == nil || total == c.response.journaled {
		return
	}
	c.response.journaled, c.coverage.journaled = total, c.coverage.tokens
	row := c.row
	row.Usage, row.UsageSource = total, source
	row.Error, row.Recovered = "interrupted", true
	c.priceInto(&row, reading)
	if err := c.hold.Progress(&row); err != nil {
		c.engine.requestLog.Error("journal does not take progress", zap.String("request_id", row.RequestID), zap.Error(err))
	}
}

// finishRow fills in the outcome.
func (c *call) finishRow() {
	row := &c.row
	row.Latency = c.elapsed()
	row.TTFB = c.response.ttfb
	reading, source := c.outcome()
	row.UsageSource = source
	row.Usage = reading.Total()
	row.UsageMismatch = reading.Mismatch
	row.ServiceTier = clean(reading.ServiceTier, maxTier)
	if reading.Model != "" {
		row.Model = clean(reading.Model, maxModel)
	}
	c.priceInto(row, reading)
	c.finishAttempt()
	switch {
	case row.Error != "":
	case c.response.drained:
		row.Error = "client disconnected"
	case errors.Is(c.response.failure, errTimedOut):
		row.Error = "upstream timed out"
	case c.response.failure != nil:
		row.Error = "upstream response broke off"
	case reading.Failed:
		row.Error = "upstream error in response"
	case c.response.torn:
		row.Error = "upstream response ended early"
	}
}

// finishAttempt notes how long the attempt that answered took to its end, and
// whether it came to one.
func (c *call) finishAttempt() {
	a := c.response.upstream
	if a == nil || a.failure != nil {
		return
	}
	last := &c.row.AttemptLog[len(c.row.AttemptLog)-1]
	last.Duration = c.row.Latency - a.began
	last.Error = textOf(c.response.failure)
}

// outcome is the usage to charge, and where it comes from: the provider's
// last word; else what it has said, with the text that was seen; else an
// estimate. An error is free if it is all that the provider has to say; after
// text it is not, since the provider will charge for that text.
func (c *call) outcome() (metering.Reading, metering.Source) {
	if c.response.meter == nil {
		return c.unmetered()
	}
	reading := c.response.meter.Reading()
	c.response.settledText = reading.TextBytes
	// The end of the response confirms totals that nothing has followed.
	final := reading.Final || reading.Closing && c.response.ended && !c.response.torn
	switch {
	case final && c.response.drained:
		return reading, metering.SourceDrained
	case final:
		return reading, metering.SourceProvider
	case reading.Failed && !reading.Found && reading.TextBytes == 0:
		return reading, metering.SourceNone
	default:
		return c.soFar(reading)
	}
}

// soFar is the usage of an answer that is not over, or never was: what the
// provider has said, with the text that was seen.
func (c *call) soFar(reading metering.Reading) (metering.Reading, metering.Source) {
	reading.Usage.Output += c.generated(&reading) - reading.Usage.Completion()
	if reading.Found {
		return reading, metering.SourcePartial
	}
	reading.Usage.Input = c.request.PromptTokens
	return reading, metering.SourceEstimated
}

// generated is the output so far: what the provider has said and the text that
// came after that, or all the text that was seen, if that is more. Many bytes a token are more likely than a
// provider that goes beyond the request's own limit, but not any number.
// A strict hold bounds it in any case.
func (c *call) generated(reading *metering.Reading) int64 {
	seen := max(reading.TextBytes/bytesPerToken, reading.Usage.Completion()+reading.TextAfter/bytesPerToken)
	if limit := c.request.MaxTokens; limit > 0 && seen > limit && seen <= 2*limit {
		seen = limit
	}
	if c.key.organization.HoldStrict {
		seen = min(seen, c.outputBound())
	}
	return max(seen, reading.Usage.Completion())
}

// unmetered is the outcome of a response that no meter read.
func (c *call) unmetered() (metering.Reading, metering.Source) {
	sent := c.response.upstream != nil && c.response.upstream.sent.Load()
	accepted := c.row.Status > 0 && c.row.Status < 300
	abandoned := c.row.Status == 0 && sent // the client left before the answer
	if c.rule == nil || !accepted && !abandoned {
		return metering.Reading{}, metering.SourceNone
	}
	estimate := metering.Usage{Input: c.request.PromptTokens}
	if accepted {
		estimate.Output = c.outputCeiling()
	}
	return metering.Reading{Usage: estimate}, metering.SourceEstimated
}

// priceInto prices a reading and puts the costs on the row.
func (c *call) priceInto(row *billing.Settlement, reading metering.Reading) {
	if c.rule == nil {
		if c.unpriced {
			row.PriceRuleID = ruleUnpriced
		}
		return
	}
	rule := c.app.book.ForResponse(c.rule, row.Provider, reading.Model, row.At)
	sheet := c.app.book.Sheet(rule, reading, row.At, c.app.discount)
	cost, err := c.app.book.Price(rule, reading, row.At, c.app.discount)
	if err != nil {
		// Counts beyond all reason: what was held is the best that is known.
		c.engine.requestLog.Error("cannot price a usage; charging its hold", zap.String("request_id", row.RequestID), zap.Error(err))
		cost, sheet = metering.Cost{Market: c.held, Yours: c.held, RuleID: rule.ID}, ""
	}
	row.Cost, row.MarketCost, row.PriceRuleID, row.PriceSheet = cost.Yours, cost.Market, cost.RuleID, sheet
}

// ruleUnpriced is the price rule id of requests that were recorded without a
// price, as the operator wants it.
const ruleUnpriced = "unpriced"
