package admin

import (
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// AuditDetail is an audit row with how its price came to be.
type AuditDetail struct {
	AuditRow
	Calculation *calculation `json:"calculation,omitempty" doc:"How the costs came to be, at the rates that were used. Absent for a request without a price, or without a record of its rates."`
}

type calculation struct {
	Lines           []calculationLine `json:"lines" nullable:"false" doc:"What was used, by model and kind."`
	MarketAmount    string            `json:"market_amount" doc:"The exact sum of the lines in USD. Rounded half up it is market_cost_nanos."`
	MarketCostNanos billing.Money     `json:"market_cost_nanos"`
	DiscountPercent string            `json:"discount_percent" example:"20%" doc:"What the organization's rate is below the market rate."`
	DiscountAmount  string            `json:"discount_amount" doc:"The discount in USD, exactly; negative or 0."`
	Amount          string            `json:"amount" doc:"The exact sum less the discount in USD. Rounded half up it is cost_nanos."`
	CostNanos       billing.Money     `json:"cost_nanos"`
}

type calculationLine struct {
	Bucket              string        `json:"bucket" doc:"input, input_audio, input_image, cache_read, cache_read_audio, cache_write, cache_write_long, output, output_audio, output_image or web_search."`
	Model               *string       `json:"model" doc:"The model, where it is not the one that answered."`
	PriceRuleID         string        `json:"price_rule_id"`
	Quantity            int64         `json:"quantity"`
	Unit                string        `json:"unit" enum:"tokens,searches"`
	RateNanosPerMillion billing.Money `json:"rate_nanos_per_million" doc:"For a million units."`
	LongContext         bool          `json:"long_context" doc:"The rate is the one for long prompts."`
	Multipliers         []multiplier  `json:"multipliers" nullable:"false"`
	Amount              string        `json:"amount" doc:"In USD, exactly."`
	Text                string        `json:"text" example:"1,204 input tokens x $2.50/M"`
}

type multiplier struct {
	Dimension string `json:"dimension" enum:"tier,speed,region"`
	Value     string `json:"value" doc:"As the provider reported it."`
	Factor    string `json:"factor" example:"0.50"`
}

// newCalculation is nil for a request without a sheet.
func newCalculation(s billing.Settlement) (*calculation, error) {
	if s.PriceSheet == "" {
		return nil, nil
	}
	sheet, err := metering.ParseSheet(s.PriceSheet)
	if err != nil {
		return nil, fmt.Errorf("calculating the price of %q: %w", s.RequestID, err)
	}
	c := sheet.Itemize(s.Usage)
	return &calculation{
		Lines:           mapped(c.Lines, newCalculationLine),
		MarketAmount:    c.Market.String(),
		MarketCostNanos: c.Market.Money(),
		DiscountPercent: sheet.Discount.String(),
		DiscountAmount:  c.Discount.String(),
		Amount:          c.Yours.String(),
		CostNanos:       c.Yours.Money(),
	}, nil
}

func newCalculationLine(l metering.Line) calculationLine {
	return calculationLine{
		Bucket: l.Bucket, Model: orNil(l.Model), PriceRuleID: l.RuleID,
		Quantity: l.Quantity, Unit: l.Unit, RateNanosPerMillion: l.Rate, LongContext: l.LongContext,
		Multipliers: mapped(l.Factors, func(f metering.Factor) multiplier {
			return multiplier{Dimension: string(f.Dimension), Value: f.Value, Factor: f.String()}
		}),
		Amount: l.Amount.String(), Text: l.Text,
	}
}
