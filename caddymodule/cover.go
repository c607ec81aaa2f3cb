package caddymodule

import (
	"context"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/ending"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	// leastChunk is how many generated tokens a stream's hold begins with and
	// is extended by at least, and how far it is ahead of the text.
	leastChunk = 64
	// progressEvery is after how many generated tokens a stream's cost so far
	// is journaled: what the death of the gateway may leave uncharged.
	progressEvery = 256
	// extendTimeout bounds how long a stream waits for more money. Nothing of
	// it is relayed meanwhile.
	extendTimeout = 10 * time.Second
)

// cutOff begins the audit row's error of a stream that was ended for want of
// money; the text of the refusal follows.
const cutOff = "cut off: "

// coverage keeps what a stream costs within its hold, so that money is
// reserved before it is spent. It counts in generated tokens: as long as they
// are below a threshold and nothing else has changed that decides the cost,
// there is nothing to compute.
type coverage struct {
	// tracker is nil if the stream costs nothing.
	tracker ending.Tracker
	// tokens is the output so far, and largest the most that one event added.
	tokens, largest int64
	// covered is how many tokens of output the hold is enough for, all else
	// being as in basis.
	covered int64
	basis   basis
	// ahead is how many tokens the hold should be ahead: fewer while there is
	// no money for more.
	ahead int64
	// chunk is how many tokens to extend by.
	chunk int64
	// journaled is the output in the last progress record.
	journaled int64
	// refused is why the hold could not be extended when that was last tried.
	refused error
}

// basis is what decides the cost besides the amount of text.
type basis struct {
	known, found               bool
	usage                      metering.Usage // without output
	others                     int
	model, tier, speed, region string
}

func basisOf(r *metering.Reading) basis {
	return basis{
		known: true, found: r.Found, usage: withoutOutput(r.Usage), others: len(r.Others),
		model: r.Model, tier: r.ServiceTier, speed: r.Speed, region: r.Region,
	}
}

// isOf tells whether the basis is that of the reading.
func (b *basis) isOf(r *metering.Reading) bool {
	return b.known && b.found == r.Found && (!r.Found || b.usage == withoutOutput(r.Usage)) &&
		b.others == len(r.Others) && b.model == r.Model && b.tier == r.ServiceTier && b.speed == r.Speed && b.region == r.Region
}

func withoutOutput(u metering.Usage) metering.Usage {
	u.Output, u.Reasoning = 0, 0
	return u
}

// startCoverage prepares for a stream's first event.
func (c *call) startCoverage(framing metering.Framing) {
	if c.rule == nil {
		return
	}
	c.coverage = coverage{ahead: leastChunk, chunk: leastChunk, tracker: ending.Track(ending.Stream{
		Endpoint: c.endpoint.Name, Framing: framing, Choices: c.request.Choices, ShowsUsage: !c.request.HidesUsage,
	})}
}

// follow takes note of an event, and tells whether the hold still covers the
// stream with the next one, as far as that can be told without a price.
func (c *call) follow(data []byte, reading *metering.Reading) bool {
	v := &c.coverage
	if v.tracker == nil {
		return true
	}
	v.see(data)
	tokens := c.generated(reading)
	v.largest = max(v.largest, tokens-v.tokens)
	v.tokens = tokens
	return tokens < v.journaled+progressEvery && c.next() <= v.covered && v.basis.isOf(reading)
}

// see takes note of what an event opens and closes.
func (v *coverage) see(data []byte) {
	if v.tracker != nil {
		v.tracker.See(data)
	}
}

// next is how many tokens of output should be covered: enough for the next
// event, unless the request's own limit comes first.
func (c *call) next() int64 {
	v := &c.coverage
	next := v.tokens + max(v.ahead, v.largest)
	if limit := c.request.MaxTokens; v.tokens <= limit {
		return min(next, limit)
	}
	return next
}

// cover journals what the stream has cost so far, if that is due, and extends
// the hold where it does not cover the next event. It returns false if the
// stream must end.
func (c *call) cover(out *outbox) bool {
	if c.hold == nil {
		return true // the provider has had its last word, and goes on
	}
	v := &c.coverage
	reading := c.response.meter.Reading()
	if !v.basis.isOf(&reading) {
		v.basis, v.covered = basisOf(&reading), c.coveredTokens(&reading)
	}
	if v.tokens >= v.journaled+progressEvery {
		c.progress(reading)
	}
	if c.isCovered(&reading) {
		return true
	}
	// While the hold covers the next event there is no need to wait for more.
	if c.extend(&reading, c.hold.TryExtend) {
		c.progress(reading)
		return true
	}
	for v.ahead > 0 {
		if v.ahead /= 2; c.isCovered(&reading) {
			return true
		}
	}
	out.send() // what is paid for does not wait for what is not
	// The client may leave meanwhile; what the provider sends costs the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), extendTimeout)
	defer cancel()
	extended := c.extend(&reading, func(amount, least billing.Money) bool {
		v.refused = c.hold.Extend(ctx, amount, least)
		return v.refused == nil
	})
	if extended {
		c.progress(reading)
	}
	return extended
}

// isCovered tells whether the hold is enough for the next event. The
// threshold is a little low, so beyond it the price decides.
func (c *call) isCovered(reading *metering.Reading) bool {
	v := &c.coverage
	next := c.next()
	if next > v.covered && c.costWith(reading, next) <= c.hold.Amount() {
		v.covered = next
	}
	return next <= v.covered
}

// extend reserves more: for as much text again as there is, or where that is
// not to be had, for what comes next. So a long stream extends a few times,
// however long it is.
func (c *call) extend(reading *metering.Reading, reserve func(amount, least billing.Money) bool) bool {
	v := &c.coverage
	next := c.next()
	target := max(next, v.tokens+v.chunk)
	if limit := c.request.MaxTokens; next <= limit {
		target = min(target, limit)
	}
	held := c.hold.Amount()
	amount := max(1, c.costWith(reading, target)-held)
	least := max(1, c.costWith(reading, next)-held)
	if !reserve(amount, least) {
		v.chunk = leastChunk
		return false
	}
	v.ahead = leastChunk
	c.held = c.hold.Amount()
	if c.held-held >= amount {
		v.chunk = max(2*v.chunk, v.tokens)
	} else {
		v.chunk = max(leastChunk, v.chunk/4)
	}
	v.covered = c.coveredTokens(reading)
	return true
}

// coveredTokens is how many tokens of output the hold is enough for, less one
// for what rounding may hide.
func (c *call) coveredTokens(reading *metering.Reading) int64 {
	const million = 1_000_000
	tokens := c.coverage.tokens
	cost := c.costWith(reading, tokens)
	rate := int64(c.costWith(reading, tokens+million) - cost) // for a million of tokens
	left := int64(c.hold.Amount() - cost)
	switch {
	case rate <= 0:
		return math.MaxInt64
	case left < 0:
		return tokens - 1
	case left > math.MaxInt64/million:
		return math.MaxInt64
	}
	return tokens + left*million/rate - 1
}

// costWith is what the stream would cost with so many tokens of output. What
// cannot be priced is charged at its hold, so that is what it costs here.
func (c *call) costWith(reading *metering.Reading, tokens int64) billing.Money {
	r := *reading
	if !r.Found {
		r.Usage.Input = c.request.PromptTokens
	}
	r.Usage.Output += tokens - r.Usage.Completion()
	rule := c.app.book.ForResponse(c.rule, c.row.Provider, r.Model, c.row.At)
	cost, err := c.app.book.Price(rule, r, c.row.At, c.app.discount)
	if err != nil {
		return c.held
	}
	return cost.Yours
}

// cutStream ends a stream that cannot be paid any further. The provider is
// told to stop, and the client gets an end in its protocol's own form, after
// what it costs is journaled.
func (c *call) cutStream(out *outbox, last []byte) {
	c.row.Error = cutOff + c.refuseSpending(c.coverage.refused).text
	c.response.upstream.stop()
	c.app.requestLog.Debug("stream cut off", zap.String("request_id", c.row.RequestID), zap.NamedError("cause", c.coverage.refused))
	c.settle()
	out.add(c.coverage.tracker.End(last, c.row.Usage))
	out.send()
}
