package metering

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"time"
)

var (
	// ErrCostOverflow is returned for a cost that does not fit Money. No real
	// usage comes near.
	ErrCostOverflow = errors.New("cost out of range")
	// ErrInvalidDiscount is returned for a discount outside 0 % to 100 %.
	ErrInvalidDiscount = errors.New("invalid discount")
)

// Rates are the prices of each bucket of a Usage, per 1,000,000 tokens;
// WebSearch is per 1,000,000 searches. They are complete: a zero is a price
// of zero. RateCard fills in what a price list leaves out.
type Rates struct {
	Input          Money
	InputAudio     Money
	InputImage     Money
	CacheRead      Money
	CacheReadAudio Money
	CacheWrite     Money
	CacheWriteLong Money
	Output         Money
	OutputAudio    Money
	OutputImage    Money
	WebSearch      Money
}

// Dimension is what a Multiplier depends on.
type Dimension string

// Tier, Speed and Region are the fields ServiceTier, Speed and Region of a
// Reading.
const (
	Tier   Dimension = "tier"
	Speed  Dimension = "speed"
	Region Dimension = "region"
)

// Multiplier scales all token rates of a rule, but not its web searches,
// when the response reports the value in that dimension. Multipliers of
// different dimensions multiply.
type Multiplier struct {
	Dimension Dimension
	// Value as the provider reports it: "flex", "fast", "us".
	Value string
	// PerMille is the factor in thousandths, 1 to MaxPerMille: 500 is half.
	PerMille int64
	// From and Until are as in Rule.
	From, Until time.Time
}

// MaxPerMille bounds a Multiplier to a thousandfold price. Three of them
// still fit a uint64.
const MaxPerMille = 1_000_000

// unity is the product of three multipliers of one, the scale of a request
// at standard rates.
const unity = 1000 * 1000 * 1000

// Estimate is a cost to hold before a request is sent, at the organization's
// own rate. The long-context rates apply if the estimated prompt is above
// the threshold. It takes the plain input and output rates at the standard
// tier: what it misses (cache writes, audio, images, searches, a faster
// tier) shows in the settlement. Out of range, it is the largest Money.
func (r *Rule) Estimate(promptTokens, outputTokens int64, d Discount) Money {
	_, yours, err := r.charge(Usage{Input: promptTokens, Output: outputTokens}, unity).amounts(d)
	if err != nil {
		return math.MaxInt64
	}
	return yours
}

// Cost is the price of one request.
type Cost struct {
	// Market is the provider's list price, Yours what the organization pays.
	Market, Yours Money
	// RuleID is the rule that priced the model that answered.
	RuleID string
	// Unpriced tells that a model had no rule. If it was the one that
	// answered, RuleID is empty and the amounts are zero; if it was one of
	// the others, its part is in the amounts at the answering model's rates.
	Unpriced bool
	// UnknownTier tells that the response reported a tier, speed or region
	// that a rule has no multiplier for; it was priced at the standard rates.
	UnknownTier bool
}

// Price prices one whole request with the rule that ForResponse chose; nil
// is no rule. Each part is priced at its own model's rates, with its own
// long-context threshold, and the sum is rounded once, half up: Market and
// Yours both from the exact sum. A negative count is taken as zero. It
// returns ErrCostOverflow or ErrInvalidDiscount, and then no cost.
func (b *Book) Price(rule *Rule, rd Reading, at time.Time, d Discount) (Cost, error) {
	if rule == nil {
		return Cost{Unpriced: true}, nil
	}
	cost := Cost{RuleID: rule.ID}
	total := rule.chargeScaled(rd.Usage, &rd, at, &cost)
	for i := range rd.Others {
		other := &rd.Others[i]
		part, ok := b.partRule(rule, &rd, other.Model, at)
		cost.Unpriced = cost.Unpriced || !ok
		total = total.plus(part.chargeScaled(other.Usage, &rd, at, &cost))
	}
	var err error
	if cost.Market, cost.Yours, err = total.amounts(d); err != nil {
		return Cost{}, err
	}
	return cost, nil
}

// partRule is the rule for a part of a request that ran on the named model,
// where no name is the model that answered. A model without a rule is not ok,
// and not free either: it gets the rule of the model that answered.
func (b *Book) partRule(rule *Rule, rd *Reading, model string, at time.Time) (part *Rule, ok bool) {
	if model == "" || model == rd.Model {
		return rule, true
	}
	if own, ok := b.Find(rule.Provider, model, at); ok {
		return own, true
	}
	return rule, false
}

// chargeScaled is charge with the multipliers that the reading selects; it
// marks the cost if it does not know one.
func (r *Rule) chargeScaled(u Usage, rd *Reading, at time.Time, cost *Cost) uint128 {
	scale, known := r.scale(rd, at)
	cost.UnknownTier = cost.UnknownTier || !known
	return r.charge(u, scale)
}

// scale is the product of the multipliers that the reading selects, one per
// mille for each dimension. It is not known if a value has no multiplier.
func (r *Rule) scale(rd *Reading, at time.Time) (product uint64, known bool) {
	tier, knowsTier := r.multiplier(Tier, rd.ServiceTier, at)
	speed, knowsSpeed := r.multiplier(Speed, rd.Speed, at)
	region, knowsRegion := r.multiplier(Region, rd.Region, at)
	return tier * speed * region, knowsTier && knowsSpeed && knowsRegion
}

func (r *Rule) multiplier(dim Dimension, value string, at time.Time) (perMille uint64, known bool) {
	if m := r.factor(dim, value, at); m != nil {
		return uint64(m.PerMille), true
	}
	return 1000, value == "" || isStandard(value)
}

// factor is the multiplier for a value that was reported; nil if none is.
func (r *Rule) factor(dim Dimension, value string, at time.Time) *Multiplier {
	if value == "" {
		return nil
	}
	for i := range r.Multipliers {
		m := &r.Multipliers[i]
		if m.Dimension == dim && strings.EqualFold(m.Value, value) && inEffect(m.From, m.Until, at) {
			return m
		}
	}
	return nil
}

// isStandard knows the words that providers have for nothing special.
func isStandard(value string) bool {
	for _, word := range [...]string{"default", "standard", "auto", "global", "not_available", "on_demand"} {
		if strings.EqualFold(value, word) {
			return true
		}
	}
	return false
}

// charge is the exact price of one model's usage, in units of 1/costUnit
// nano-USD. The whole of it is at the long-context rates if the prompt is
// above the threshold.
func (r *Rule) charge(u Usage, scale uint64) uint128 {
	counts := u.buckets()
	rates := &r.Rates
	if r.isLong(u) {
		rates = &r.LongRates
	}
	var total uint128
	for i, rate := range rates.buckets() {
		total = total.plus(multiply(counts[i], rate))
	}
	searches := multiply(atLeastZero(u.WebSearches), uint64(rates.WebSearch))
	return total.times(scale).plus(searches.times(unity))
}

// isLong tells whether the long-context rates apply.
func (r *Rule) isLong(u Usage) bool {
	counts := u.buckets()
	return r.LongAbove > 0 && exceeds(counts[:promptBuckets], r.LongAbove)
}

const (
	tokenBuckets  = 10
	promptBuckets = 7
)

// buckets lists the tokens, those of the prompt first, in the order of the
// rates' buckets.
func (u Usage) buckets() [tokenBuckets]uint64 {
	return [...]uint64{
		atLeastZero(u.Input), atLeastZero(u.InputAudio), atLeastZero(u.InputImage),
		atLeastZero(u.CacheRead), atLeastZero(u.CacheReadAudio),
		atLeastZero(u.CacheWrite), atLeastZero(u.CacheWriteLong),
		atLeastZero(u.Output), atLeastZero(u.OutputAudio), atLeastZero(u.OutputImage),
	}
}

func (r *Rates) buckets() [tokenBuckets]uint64 {
	return [...]uint64{
		uint64(r.Input), uint64(r.InputAudio), uint64(r.InputImage),
		uint64(r.CacheRead), uint64(r.CacheReadAudio),
		uint64(r.CacheWrite), uint64(r.CacheWriteLong),
		uint64(r.Output), uint64(r.OutputAudio), uint64(r.OutputImage),
	}
}

func atLeastZero(n int64) uint64 { return uint64(max(n, 0)) }

// exceeds tells whether the sum of counts is above limit, without overflow.
func exceeds(counts []uint64, limit int64) bool {
	left := uint64(limit)
	for _, n := range counts {
		if n > left {
			return true
		}
		left -= n
	}
	return false
}

// uint128 is an unsigned integer that remembers an overflow.
type uint128 struct {
	hi, lo   uint64
	overflow bool
}

func multiply(a, b uint64) uint128 {
	hi, lo := bits.Mul64(a, b)
	return uint128{hi: hi, lo: lo}
}

func (n uint128) plus(m uint128) uint128 {
	lo, carry := bits.Add64(n.lo, m.lo, 0)
	hi, carry := bits.Add64(n.hi, m.hi, carry)
	return uint128{hi, lo, n.overflow || m.overflow || carry != 0}
}

func (n uint128) times(k uint64) uint128 {
	mid, lo := bits.Mul64(n.lo, k)
	over, hi := bits.Mul64(n.hi, k)
	hi, carry := bits.Add64(hi, mid, 0)
	return uint128{hi, lo, n.overflow || over != 0 || carry != 0}
}

// costUnit is how many units of a charge make a nano-USD: a rate is per
// million tokens, and three multipliers are per mille.
const costUnit = 1_000_000 * unity

// amounts rounds the exact sum to the market price and, less the discount,
// to the organization's own.
func (n uint128) amounts(d Discount) (market, yours Money, err error) {
	if d < 0 || d > fullDiscount {
		return 0, 0, fmt.Errorf("%w: %d millionths", ErrInvalidDiscount, int64(d))
	}
	if n.overflow || n.hi >= costUnit {
		return 0, 0, ErrCostOverflow
	}
	whole, rest := bits.Div64(n.hi, n.lo, costUnit)
	if whole >= math.MaxInt64 {
		return 0, 0, ErrCostOverflow
	}
	market = Money(whole)
	if rest >= costUnit/2 {
		market++
	}
	// The organization's part, in millionths of a nano-USD. What the first
	// division drops is less than one of them, so it cannot change how the
	// second one rounds.
	share := uint64(fullDiscount - d)
	fraction := multiply(rest, share)
	millionths, _ := bits.Div64(fraction.hi, fraction.lo, costUnit)
	exact := multiply(whole, share).plus(uint128{lo: millionths + uint64(fullDiscount)/2})
	rounded, _ := bits.Div64(exact.hi, exact.lo, uint64(fullDiscount))
	return market, Money(rounded), nil
}

// Discount is what an organization's own rate is below the market rate, in
// millionths: 200_000 is 20 %.
type Discount int64

const fullDiscount Discount = 1_000_000

// ParseDiscount reads a percentage from "0%" to "100%" with at most four
// decimals, or returns ErrInvalidDiscount.
func ParseDiscount(s string) (Discount, error) {
	percent, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, fmt.Errorf("%w: %q: want a percentage such as 20%%", ErrInvalidDiscount, s)
	}
	n, err := parseDecimal(percent, 4)
	if err != nil {
		return 0, fmt.Errorf("%w: %q: %w", ErrInvalidDiscount, s, err)
	}
	if d := Discount(n); d >= 0 && d <= fullDiscount {
		return d, nil
	}
	return 0, fmt.Errorf("%w: %q: outside 0%% to 100%%", ErrInvalidDiscount, s)
}

// String formats the discount as ParseDiscount reads it: "12.5%".
func (d Discount) String() string {
	s := fmt.Sprintf("%d.%04d", int64(d)/10_000, int64(d)%10_000)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + "%"
}
