package caddymodule

import (
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestRowsSayWhatTheirPriceIsMadeOf: the rates come with the settlement, through
// the journal, into the store.
func TestRowsSayWhatTheirPriceIsMadeOf(t *testing.T) {
	n := start(t, "")
	key := n.key(t, nil)
	n.buy(t, 10*metering.USD)
	for name, request := range map[string]struct{ path, body string }{
		"chat":     {"/openai/v1/chat/completions", hello},
		"stream":   {"/openai/v1/chat/completions", stream},
		"messages": {"/anthropic/v1/messages", claude},
	} {
		res := n.do(t, "POST", request.path, key, request.body)
		read(t, res)
		row := n.row(t, res.Header.Get("X-Request-Id"))
		sheet, err := metering.ParseSheet(row.PriceSheet)
		if err != nil {
			t.Fatalf("%s: %v in %+v", name, err, row)
		}
		c := sheet.Itemize(row.Usage)
		if row.Cost == 0 || c.Yours.Money() != row.Cost || c.Market.Money() != row.MarketCost {
			t.Errorf("%s: calculated %d and %d, charged %d of %d", name, c.Yours.Money(), c.Market.Money(), row.Cost, row.MarketCost)
		}
		if sheet.Parts[0].RuleID != row.PriceRuleID {
			t.Errorf("%s: rates of %s, priced by %s", name, sheet.Parts[0].RuleID, row.PriceRuleID)
		}
	}
}
