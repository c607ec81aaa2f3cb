package chaos

import (
	"fmt"
	"math/big"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// discount of the gateways that are started here, in percent.
const discount = 20

// rate is a model's price in USD per million tokens. The rates are odd on
// purpose: sums have to be rounded.
type rate struct{ input, output string }

var rates = map[string]rate{
	"chaos-openai":    {"1.3707", "7.9311"},
	"chaos-anthropic": {"3.1119", "14.8777"},
	"chaos-gemini":    {"0.310625", "2.5303"},
	// For limits: a prompt costs next to nothing, so that holds and costs differ
	// by little, and 100 generated tokens cost 0.001 USD after the discount.
	"chaos-dear": {"0.01", "12.50"},
}

// cost is what tokens cost after the discount, in nano-USD, rounded half up
// once. It is a check on the product's arithmetic, so it shares none of it.
func cost(model string, u metering.Usage) (int64, error) {
	price, ok := rates[model]
	if !ok {
		return 0, fmt.Errorf("no price for %q", model)
	}
	input, okInput := new(big.Rat).SetString(price.input)
	output, okOutput := new(big.Rat).SetString(price.output)
	if !okInput || !okOutput {
		return 0, fmt.Errorf("price of %q is not a number", model)
	}
	sum := input.Mul(input, new(big.Rat).SetInt64(u.Prompt()))
	sum.Add(sum, output.Mul(output, new(big.Rat).SetInt64(u.Completion())))
	// USD per million tokens is 1000 nano-USD per token.
	sum.Mul(sum, big.NewRat(1000*(100-discount), 100)).Add(sum, big.NewRat(1, 2))
	return new(big.Int).Div(sum.Num(), sum.Denom()).Int64(), nil
}
