package metering_test

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// The sum of these tokens times rates is 2^128 + 4, which would wrap to
// nearly nothing.
func TestPriceDoesNotWrap(t *testing.T) {
	t.Parallel()
	book := newBook(t, []metering.Rule{{
		ID: "r", Provider: "p", Models: []metering.Match{"m"},
		Rates: metering.Rates{
			Input: math.MaxInt64, InputAudio: math.MaxInt64, InputImage: math.MaxInt64, Output: math.MaxInt64,
			OutputAudio: 1 << 33,
		},
	}})
	usage := metering.Usage{
		Input: math.MaxInt64, InputAudio: math.MaxInt64, InputImage: math.MaxInt64, Output: math.MaxInt64,
		OutputAudio: 1 << 33,
	}
	rule := find(t, book, "p", "m", november)
	if got, err := book.Price(rule, metering.Reading{Usage: usage}, november, 0); !errors.Is(err, metering.ErrCostOverflow) {
		t.Errorf("cost %+v, error %v, want an overflow", got, err)
	}
}

// TestPriceAgreesWithBigArithmetic checks random rules and readings, also
// absurd ones, against the same sum in arithmetic without limits.
func TestPriceAgreesWithBigArithmetic(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	fits, overflows := 0, 0
	for range 10_000 {
		rule, reading, d := randomRequest(rng)
		book := newBook(t, []metering.Rule{rule})
		exact := exactPrice(&rule, reading)
		got, err := book.Price(&rule, reading, november, d)
		if exact.Cmp(big.NewRat(math.MaxInt64, 1)) >= 0 {
			overflows++
			if !errors.Is(err, metering.ErrCostOverflow) {
				t.Fatalf("%+v %+v: error %v, want overflow", rule, reading, err)
			}
			continue
		}
		fits++
		if err != nil {
			t.Fatalf("%+v %+v: %v", rule, reading, err)
		}
		own := new(big.Rat).Mul(exact, big.NewRat(1_000_000-int64(d), 1_000_000))
		want := metering.Cost{Market: halfUp(exact), Yours: halfUp(own), RuleID: rule.ID}
		if got != want {
			t.Fatalf("%+v %+v discount %s: got %+v, want %+v", rule, reading, d, got, want)
		}
	}
	if fits < 1000 || overflows < 1000 {
		t.Errorf("%d costs fitted and %d did not: too few of one kind", fits, overflows)
	}
}

func randomRequest(rng *rand.Rand) (metering.Rule, metering.Reading, metering.Discount) {
	// Any magnitude is as likely as any other.
	money := func() metering.Money { return metering.Money(rng.Int64() >> rng.IntN(63)) }
	rates := func() metering.Rates {
		return metering.Rates{
			Input: money(), InputAudio: money(), InputImage: money(),
			CacheRead: money(), CacheReadAudio: money(), CacheWrite: money(), CacheWriteLong: money(),
			Output: money(), OutputAudio: money(), OutputImage: money(), WebSearch: 1 + money()/2,
		}
	}
	magnitude := rng.IntN(63)
	tokens := func() int64 {
		n := rng.Int64() >> magnitude
		if rng.IntN(20) == 0 {
			return -n
		}
		return n
	}
	usage := func() metering.Usage {
		return metering.Usage{
			Input: tokens(), InputAudio: tokens(), InputImage: tokens(),
			CacheRead: tokens(), CacheReadAudio: tokens(), CacheWrite: tokens(), CacheWriteLong: tokens(),
			Output: tokens(), OutputAudio: tokens(), OutputImage: tokens(), WebSearches: tokens(),
		}
	}
	rule := metering.Rule{
		ID: "r", Provider: "p", Models: []metering.Match{"m"},
		Rates: rates(), LongAbove: 1 + rng.Int64()>>rng.IntN(63)/2, LongRates: rates(),
		Multipliers: []metering.Multiplier{
			{Dimension: metering.Tier, Value: "x", PerMille: 1 + rng.Int64N(metering.MaxPerMille)},
			{Dimension: metering.Speed, Value: "x", PerMille: 1 + rng.Int64N(metering.MaxPerMille)},
			{Dimension: metering.Region, Value: "x", PerMille: 1 + rng.Int64N(3000)},
		},
	}
	reading := metering.Reading{Usage: usage()}
	if rng.IntN(2) == 0 {
		reading.Others = []metering.ModelUsage{{Usage: usage()}, {Model: "m", Usage: usage()}}
	}
	if rng.IntN(2) == 0 {
		reading.ServiceTier = "x"
	}
	if rng.IntN(2) == 0 {
		reading.Speed, reading.Region = "x", "x"
	}
	return rule, reading, metering.Discount(rng.Int64N(1_000_001))
}

// exactPrice is the market price in nano-USD, unrounded.
func exactPrice(rule *metering.Rule, rd metering.Reading) *big.Rat {
	factor := big.NewRat(1, 1)
	for i, value := range []string{rd.ServiceTier, rd.Speed, rd.Region} {
		if value != "" {
			factor.Mul(factor, big.NewRat(rule.Multipliers[i].PerMille, 1000))
		}
	}
	total := new(big.Rat)
	for _, u := range append([]metering.ModelUsage{{Usage: rd.Usage}}, rd.Others...) {
		tokens, searches := exactPart(rule, u.Usage)
		total.Add(total, new(big.Rat).Mul(tokens, factor))
		total.Add(total, searches)
	}
	return total.Mul(total, big.NewRat(1, 1_000_000))
}

func exactPart(rule *metering.Rule, u metering.Usage) (tokens, searches *big.Rat) {
	prompt := new(big.Int)
	for _, n := range []int64{
		u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio, u.CacheWrite, u.CacheWriteLong,
	} {
		prompt.Add(prompt, big.NewInt(max(n, 0)))
	}
	rates := rule.Rates
	if prompt.Cmp(big.NewInt(rule.LongAbove)) > 0 {
		rates = rule.LongRates
	}
	times := func(n int64, rate metering.Money) *big.Rat {
		return new(big.Rat).Mul(big.NewRat(max(n, 0), 1), big.NewRat(int64(rate), 1))
	}
	tokens = new(big.Rat)
	for _, part := range []*big.Rat{
		times(u.Input, rates.Input), times(u.InputAudio, rates.InputAudio), times(u.InputImage, rates.InputImage),
		times(u.CacheRead, rates.CacheRead), times(u.CacheReadAudio, rates.CacheReadAudio),
		times(u.CacheWrite, rates.CacheWrite), times(u.CacheWriteLong, rates.CacheWriteLong),
		times(u.Output, rates.Output), times(u.OutputAudio, rates.OutputAudio), times(u.OutputImage, rates.OutputImage),
	} {
		tokens.Add(tokens, part)
	}
	return tokens, times(u.WebSearches, rates.WebSearch)
}

func halfUp(r *big.Rat) metering.Money {
	r = new(big.Rat).Add(r, big.NewRat(1, 2))
	return metering.Money(new(big.Int).Quo(r.Num(), r.Denom()).Int64())
}
