package e2e

import (
	"fmt"
	"math/big"
	"regexp"
	"testing"
)

// tokens are what a test expects a request to have used, in disjoint kinds.
type tokens struct {
	input          int64
	cacheRead      int64
	cacheWrite     int64
	cacheWriteLong int64
	output         int64
	// reasoning is a part of output, reported beside it.
	reasoning int64
}

func (u tokens) prompt() int64 { return u.input + u.cacheRead + u.cacheWrite + u.cacheWriteLong }

// rate is a model's list price in USD per million tokens, written as on the
// provider's price page.
type rate struct {
	input          string
	cacheRead      string
	cacheWrite     string
	cacheWriteLong string
	output         string
}

// listPrices are the prices that this suite expects, typed in here by hand:
// it is a check on the product's price book and arithmetic, so it shares
// neither.
var listPrices = map[string]rate{
	"gpt-4o":                 {input: "2.50", cacheRead: "1.25", output: "10.00"},
	"gpt-4o-mini":            {input: "0.15", cacheRead: "0.075", output: "0.60"},
	"gpt-5-mini":             {input: "0.25", cacheRead: "0.025", output: "2.00"},
	"gpt-5.4-mini":           {input: "0.75", cacheRead: "0.075", output: "4.50"},
	"text-embedding-3-small": {input: "0.02"},
	"claude-haiku-4-5":       {input: "1.00", cacheRead: "0.10", cacheWrite: "1.25", cacheWriteLong: "2.00", output: "5.00"},
	"claude-sonnet-4-5":      {input: "3.00", cacheRead: "0.30", cacheWrite: "3.75", cacheWriteLong: "6.00", output: "15.00"},
	"gemini-2.5-flash":       {input: "0.30", cacheRead: "0.03", output: "2.50"},
	"gemini-2.5-pro":         {input: "1.25", cacheRead: "0.125", output: "10.00"},
}

// longPrices apply to the whole of a request whose prompt is longer than
// longPrompt tokens.
var longPrices = map[string]rate{
	"gemini-2.5-pro": {input: "2.50", cacheRead: "0.25", output: "15.00"},
}

const longPrompt = 200_000

// marketRate and ownRate are shares of the list price: the suite's gateways
// are configured with a discount of 20 %.
var (
	marketRate = big.NewRat(1, 1)
	ownRate    = big.NewRat(80, 100)
)

// snapshotDate ends the name of a model's dated snapshot, which has the
// model's price.
var snapshotDate = regexp.MustCompile(`-(\d{4}-\d{2}-\d{2}|\d{8})$`)

// nanos returns what the tokens cost at a share of the model's list price, in
// nano-USD, rounded half up once.
func nanos(model string, u tokens, share *big.Rat) (int64, error) {
	model = snapshotDate.ReplaceAllString(model, "")
	price, ok := listPrices[model]
	if !ok {
		return 0, fmt.Errorf("this suite has no price for %q", model)
	}
	if long, ok := longPrices[model]; ok && u.prompt() > longPrompt {
		price = long
	}
	sum := new(big.Rat)
	for _, part := range []struct {
		tokens int64
		usd    string
	}{
		{u.input, price.input},
		{u.cacheRead, price.cacheRead},
		{u.cacheWrite, price.cacheWrite},
		{u.cacheWriteLong, price.cacheWriteLong},
		{u.output, price.output},
	} {
		if part.tokens == 0 {
			continue
		}
		usd, ok := new(big.Rat).SetString(part.usd)
		if !ok {
			return 0, fmt.Errorf("this suite has no price of %s for a kind of token that was used", model)
		}
		sum.Add(sum, usd.Mul(usd, new(big.Rat).SetInt64(part.tokens)))
	}
	// USD per million tokens is 1000 nano-USD per token.
	sum.Mul(sum, big.NewRat(1000, 1)).Mul(sum, share).Add(sum, big.NewRat(1, 2))
	return new(big.Int).Div(sum.Num(), sum.Denom()).Int64(), nil
}

func TestNanosByHand(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		model  string
		used   tokens
		market int64
		own    int64
	}{
		// 1000 × $2.50/M + 500 × $1.25/M + 100 × $10/M = $0.0025 + $0.000625 + $0.001
		"a cached prompt":     {"gpt-4o", tokens{input: 1000, cacheRead: 500, output: 100}, 4_125_000, 3_300_000},
		"above the threshold": {"gemini-2.5-pro", tokens{input: 200_001}, 500_002_500, 400_002_000},
		"at the threshold":    {"gemini-2.5-pro", tokens{input: 200_000}, 250_000_000, 200_000_000},
		"one cheap token":     {"text-embedding-3-small", tokens{input: 1}, 20, 16},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, want := range []struct {
				share *big.Rat
				nanos int64
			}{{marketRate, tt.market}, {ownRate, tt.own}} {
				got, err := nanos(tt.model, tt.used, want.share)
				if err != nil {
					t.Fatal(err)
				}
				if got != want.nanos {
					t.Errorf("at %s of the list price: %d, want %d", want.share, got, want.nanos)
				}
			}
		})
	}
}
