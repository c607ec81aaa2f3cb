package metering_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestPriceMarksWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	opus := find(t, book, "anthropic", "claude-opus-5-5", november)
	usage := metering.Usage{Input: 1000}
	for _, tt := range []struct {
		name    string
		rule    *metering.Rule
		reading metering.Reading
		want    metering.Cost
	}{
		{
			name: "no rule at all", rule: nil,
			reading: metering.Reading{Usage: usage},
			want:    metering.Cost{Unpriced: true},
		},
		{
			name: "another model without a rule costs as the one that answered", rule: opus,
			reading: metering.Reading{
				Usage: usage, Model: "claude-opus-5-5",
				Others: []metering.ModelUsage{{Model: "claude-opus-9", Usage: usage}},
			},
			want: metering.Cost{Market: 8_000_000, Yours: 8_000_000, RuleID: opus.ID, Unpriced: true},
		},
		{
			name: "a tier without a multiplier", rule: opus,
			reading: metering.Reading{Usage: usage, ServiceTier: "priority"},
			want:    metering.Cost{Market: 4_000_000, Yours: 4_000_000, RuleID: opus.ID, UnknownTier: true},
		},
		{
			name: "a speed without a multiplier, next to another model that has one",
			rule: find(t, book, "anthropic", "claude-sonnet-5", november),
			reading: metering.Reading{
				Usage: usage, Speed: "fast",
				Others: []metering.ModelUsage{{Model: "claude-opus-5-5", Usage: usage}},
			},
			want: metering.Cost{
				Market: 10_000_000, Yours: 10_000_000, RuleID: "anthropic/claude-sonnet-5", UnknownTier: true,
			},
		},
		{
			name: "a region without a multiplier, next to a known speed", rule: opus,
			reading: metering.Reading{Usage: usage, Speed: "fast", Region: "moon"},
			want:    metering.Cost{Market: 8_000_000, Yours: 8_000_000, RuleID: opus.ID, UnknownTier: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := book.Price(tt.rule, tt.reading, november, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cost (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPriceRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	rule := find(t, book, "openai", "gpt-4o", november)
	for _, tt := range []struct {
		name     string
		usage    metering.Usage
		discount metering.Discount
		want     error
	}{
		{"a cost above all money", metering.Usage{Output: math.MaxInt64}, 0, metering.ErrCostOverflow},
		{"all counts at once", metering.Usage{
			Input: math.MaxInt64, CacheRead: math.MaxInt64, Output: math.MaxInt64, WebSearches: math.MaxInt64,
		}, 0, metering.ErrCostOverflow},
		{"a discount above 100 %", metering.Usage{}, 1_000_001, metering.ErrInvalidDiscount},
		{"a surcharge", metering.Usage{}, -1, metering.ErrInvalidDiscount},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := book.Price(rule, metering.Reading{Usage: tt.usage}, november, tt.discount)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if got != (metering.Cost{}) {
				t.Errorf("a cost came with the error: %+v", got)
			}
		})
	}
}

func TestEstimate(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	for _, tt := range []struct {
		name           string
		provider       string
		model          string
		prompt, output int64
		discount       string
		want           metering.Money
	}{
		{"plain", "openai", "gpt-4o", 1000, 500, "0%", 7_500_000},
		{"own rate", "openai", "gpt-4o", 1000, 500, "20%", 6_000_000},
		{"at the threshold", "gemini", "gemini-2.5-pro", 200_000, 0, "0%", 250_000_000},
		{"above the threshold", "gemini", "gemini-2.5-pro", 200_001, 1000, "0%", 500_002_500 + 15_000_000},
		{"half up", "openai", "text-embedding-3-small", 1, 0, "97.5%", 1},
		{"negative numbers are zero", "openai", "gpt-4o", -5, -5, "0%", 0},
		{"never wraps", "openai", "gpt-4o", math.MaxInt64, math.MaxInt64, "0%", math.MaxInt64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rule := find(t, book, tt.provider, tt.model, november)
			if got := rule.Estimate(tt.prompt, tt.output, discount(t, tt.discount)); got != tt.want {
				t.Errorf("estimate %d, want %d", got, tt.want)
			}
		})
	}
}
