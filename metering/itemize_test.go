package metering_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// itemized calculates a price again from the sheet's text and the whole usage,
// and checks that it is the one of Price.
func itemized(t *testing.T, book *metering.Book, rule *metering.Rule, rd metering.Reading, at time.Time, d metering.Discount) metering.Calculation {
	t.Helper()
	cost, err := book.Price(rule, rd, at, d)
	if err != nil {
		t.Fatal(err)
	}
	sheet, err := metering.ParseSheet(book.Sheet(rule, rd, at, d))
	if err != nil {
		t.Fatal(err)
	}
	c := sheet.Itemize(rd.Total())
	if c.Market.Money() != cost.Market || c.Yours.Money() != cost.Yours {
		t.Fatalf("%+v discount %s: %d and %d, want %d and %d", rd, d, c.Market.Money(), c.Yours.Money(), cost.Market, cost.Yours)
	}
	sum := new(big.Rat)
	for _, l := range c.Lines {
		sum.Add(sum, decimal(t, l.Amount.String()))
	}
	if sum.Cmp(decimal(t, c.Market.String())) != 0 {
		t.Fatalf("the lines are %s, the market price is %s", sum, c.Market)
	}
	if sum.Add(sum, decimal(t, c.Discount.String())); sum.Cmp(decimal(t, c.Yours.String())) != 0 {
		t.Fatalf("the lines less the discount are %s, the price is %s", sum, c.Yours)
	}
	return c
}

func decimal(t *testing.T, text string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		t.Fatalf("%q is not a number", text)
	}
	return r
}

func TestItemizedPricesOfTracesAreTheirPrices(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	text, err := os.ReadFile("testdata/traces/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var traces map[string]trace
	if err := json.Unmarshal(text, &traces); err != nil {
		t.Fatal(err)
	}
	priced := 0
	for name, tr := range traces {
		reading := meter(t, tr.classify(t), tr.ContentType, bytes.NewReader(readTrace(t, name)))
		rule, ok := book.Find(tr.Provider, reading.Model, november)
		if !ok {
			continue
		}
		priced++
		for _, d := range []string{"0%", "20%", "33.3333%"} {
			itemized(t, book, rule, reading, november, discount(t, d))
		}
	}
	if priced < 20 {
		t.Errorf("only %d traces have a price", priced)
	}
}

func TestItemizedPricesOfRandomRequestsAreTheirPrices(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 5))
	fits, several, long, scaled := 0, 0, 0, 0
	for range 20_000 {
		rule, reading, d := randomRequest(rng)
		for _, u := range append([]metering.ModelUsage{{Usage: reading.Usage}}, reading.Others...) {
			if u.Usage.Input>>40 != 0 || u.Usage.Output>>40 != 0 {
				reading.Usage = metering.Usage{Input: rng.Int64N(1 << 20), CacheRead: rng.Int64N(1 << 20), Output: rng.Int64N(1 << 16), WebSearches: rng.Int64N(9)}
				reading.Others = nil
			}
		}
		book := newBook(t, []metering.Rule{rule})
		own, _ := book.Rule(rule.ID)
		if _, err := book.Price(own, reading, november, d); err != nil {
			continue
		}
		fits++
		c := itemized(t, book, own, reading, november, d)
		for _, l := range c.Lines {
			if l.LongContext {
				long++
			}
			if len(l.Factors) > 0 {
				scaled++
			}
			if l.Model != "" {
				several++
			}
		}
	}
	if min(fits, several, long, scaled) < 500 {
		t.Errorf("%d prices, lines of %d others, %d long, %d scaled: too few of one kind", fits, several, long, scaled)
	}
}

func TestItemizedPriceIsForPeople(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	reading := metering.Reading{
		Model: "gpt-4o", ServiceTier: "priority",
		Usage: metering.Usage{Input: 1204, CacheRead: 1_000_000, Output: 7},
	}
	rule := find(t, book, "openai", "gpt-4o", november)
	c := itemized(t, book, rule, reading, november, discount(t, "20%"))
	var texts, amounts []string
	for _, l := range c.Lines {
		texts, amounts = append(texts, l.Text), append(amounts, l.Amount.String())
	}
	wantTexts := []string{
		"1,204 input tokens x $2.50/M x 1.70 (tier priority)",
		"1,000,000 cached input tokens x $1.25/M x 1.70 (tier priority)",
		"7 output tokens x $10.00/M x 1.70 (tier priority)",
	}
	if diff := cmp.Diff(wantTexts, texts); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0.005117", "2.125", "0.000119"}, amounts); diff != "" {
		t.Errorf("amounts (-want +got):\n%s", diff)
	}
	if c.Discount.String() != "-0.4260472" || c.Yours.String() != "1.7041888" {
		t.Errorf("discount %s, yours %s", c.Discount, c.Yours)
	}
}

// Not parallel: allocations are counted for the whole process.
func TestSheetsOfOneModelDoNotAllocate(t *testing.T) {
	book := builtInBook(t)
	reading := metering.Reading{Usage: metering.Usage{Input: 1000}, ServiceTier: "flex"}
	rule := find(t, book, "openai", "gpt-5.4", november)
	first := book.Sheet(rule, reading, november, 200_000)
	if allocs := testing.AllocsPerRun(100, func() {
		if book.Sheet(rule, reading, november, 200_000) != first {
			t.Error("another sheet for the same request")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
	if book.Sheet(nil, reading, november, 0) != "" {
		t.Error("a sheet without a rule")
	}
}
