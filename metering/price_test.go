package metering_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// builtInBook is a book of the built-in catalogue and further layers.
func builtInBook(tb testing.TB, layers ...[]metering.Rule) *metering.Book {
	tb.Helper()
	catalogue, err := metering.Catalogue()
	if err != nil {
		tb.Fatal(err)
	}
	return newBook(tb, append([][]metering.Rule{catalogue}, layers...)...)
}

func newBook(tb testing.TB, layers ...[]metering.Rule) *metering.Book {
	tb.Helper()
	b, err := metering.NewBook(layers...)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func find(tb testing.TB, b *metering.Book, provider, model string, at time.Time) *metering.Rule {
	tb.Helper()
	r, ok := b.Find(provider, model, at)
	if !ok {
		tb.Fatalf("no rule for %s/%s", provider, model)
	}
	return r
}

func discount(t *testing.T, s string) metering.Discount {
	t.Helper()
	d, err := metering.ParseDiscount(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func day(year int, month time.Month, d int) time.Time {
	return time.Date(year, month, d, 0, 0, 0, 0, time.UTC)
}

var november = time.Date(2026, time.November, 23, 12, 0, 0, 0, time.UTC)

// The market prices below were worked out by hand: tokens times USD per
// million is millionths of a dollar, of which each is 1000 nano-USD.
func TestPriceMatchesHandComputedCosts(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	for _, tt := range []struct {
		name     string
		provider string
		model    string
		reading  metering.Reading
		at       time.Time
		market   metering.Money
	}{
		{
			name: "cached tokens at half price", provider: "openai", model: "gpt-4o-2024-08-06",
			reading: metering.Reading{Usage: metering.Usage{Input: 1000, CacheRead: 1024, Output: 300}},
			market:  2_500_000 + 1_280_000 + 3_000_000,
		},
		{
			name: "cache writes of both lifetimes, reasoning is in the output", provider: "openai", model: "gpt-6.1-sol",
			reading: metering.Reading{
				Usage: metering.Usage{
					Input: 3, CacheRead: 11000, CacheWrite: 4011, CacheWriteLong: 3000, Output: 850, Reasoning: 512,
				},
				ServiceTier: "default",
			},
			market: 6_000 + 1_100_000 + 10_027_500 + 15_000_000 + 8_500_000,
		},
		{
			name: "cache writes for 5 min and 1 h", provider: "anthropic", model: "claude-opus-5-5",
			reading: metering.Reading{
				Usage: metering.Usage{
					Input: 12, CacheRead: 18000, CacheWrite: 2000, CacheWriteLong: 500, Output: 340,
				},
				ServiceTier: "standard", Region: "not_available",
			},
			market: 48_000 + 3_600_000 + 10_000_000 + 4_000_000 + 6_800_000,
		},
		{
			name: "a prompt of exactly the threshold", provider: "gemini", model: "gemini-2.5-pro",
			reading: metering.Reading{Usage: metering.Usage{Input: 150_000, CacheRead: 50_000, Output: 1000}},
			market:  187_500_000 + 6_250_000 + 10_000_000,
		},
		{
			name: "a prompt one token above the threshold", provider: "gemini", model: "models/gemini-2.5-pro",
			reading: metering.Reading{Usage: metering.Usage{Input: 150_001, CacheRead: 50_000, Output: 1000}},
			market:  375_002_500 + 12_500_000 + 15_000_000,
		},
		{
			name: "272000 is the last short prompt", provider: "openai", model: "gpt-5.4",
			reading: metering.Reading{Usage: metering.Usage{Input: 272_000}},
			market:  680_000_000,
		},
		{
			name: "272001 is the first long prompt", provider: "openai", model: "gpt-5.4",
			reading: metering.Reading{Usage: metering.Usage{Input: 272_001}},
			market:  1_360_005_000,
		},
		{
			name: "a long prompt that is mostly cached", provider: "openai", model: "gpt-5.4-2026-03-05",
			reading: metering.Reading{
				Usage: metering.Usage{Input: 10_512, CacheRead: 290_000, Output: 2048, Reasoning: 1024},
			},
			market: 52_560_000 + 145_000_000 + 46_080_000,
		},
		{
			name: "an output above the threshold is not a long prompt", provider: "anthropic", model: "claude-haiku-5-5",
			reading: metering.Reading{Usage: metering.Usage{Input: 100_000, Output: 100_001}},
			market:  10_000_000 + 50_000_500,
		},
		{
			name: "embeddings", provider: "openai", model: "text-embedding-3-small",
			reading: metering.Reading{Usage: metering.Usage{Input: 8191}},
			market:  163_820,
		},
		{
			name: "audio apart from text", provider: "gemini", model: "gemini-2.5-flash",
			reading: metering.Reading{Usage: metering.Usage{Input: 100, InputAudio: 1000, CacheReadAudio: 500, Output: 10}},
			market:  30_000 + 1_000_000 + 50_000 + 25_000,
		},
		{
			name: "images cost as the plain tokens of their side", provider: "anthropic", model: "claude-sonnet-5",
			reading: metering.Reading{Usage: metering.Usage{InputImage: 1000, OutputImage: 100}},
			market:  2_000_000 + 1_000_000,
		},
		{
			name: "cached tokens without a price of their own are not free", provider: "openai", model: "gpt-5.4-pro",
			reading: metering.Reading{Usage: metering.Usage{CacheRead: 1000}},
			market:  30_000_000,
		},
		{
			name: "fast and in the US", provider: "anthropic", model: "claude-opus-4-8",
			reading: metering.Reading{
				Usage:       metering.Usage{Input: 1000, Output: 200},
				ServiceTier: "standard", Speed: "fast", Region: "us",
			},
			market: 22_000_000,
		},
		{
			name: "flex", provider: "openai", model: "gpt-5-mini-2025-08-07",
			reading: metering.Reading{Usage: metering.Usage{Input: 1001, Output: 101}, ServiceTier: "flex"},
			market:  125_125 + 101_000,
		},
		{
			name: "batch halves tokens, not searches", provider: "anthropic", model: "claude-sonnet-5",
			reading: metering.Reading{
				Usage: metering.Usage{Input: 1000, Output: 100, WebSearches: 3}, ServiceTier: "batch",
			},
			market: 1_000_000 + 500_000 + 30_000_000,
		},
		{
			name: "searches cost the same in a long request", provider: "openai", model: "gpt-6-sol",
			reading: metering.Reading{Usage: metering.Usage{Input: 300_000, WebSearches: 2}},
			market:  1_200_000_000 + 20_000_000,
		},
		{
			name: "priority", provider: "openai", model: "gpt-4o",
			reading: metering.Reading{Usage: metering.Usage{Input: 1000}, ServiceTier: "priority"},
			market:  4_250_000,
		},
		{
			name: "priority of a provider that spells it in capitals", provider: "gemini", model: "gemini-3.5-flash",
			reading: metering.Reading{Usage: metering.Usage{Output: 1000}, ServiceTier: "PRIORITY"},
			market:  16_200_000,
		},
		{
			name: "ultrafast before its price doubles", provider: "openai", model: "gpt-6.2-sol",
			reading: metering.Reading{Usage: metering.Usage{Output: 100}, ServiceTier: "ultrafast"},
			at:      day(2027, time.March, 1).Add(-time.Nanosecond),
			market:  3_000_000,
		},
		{
			name: "ultrafast after its price doubled", provider: "openai", model: "gpt-6.2-sol",
			reading: metering.Reading{Usage: metering.Usage{Output: 100}, ServiceTier: "ultrafast"},
			at:      day(2027, time.March, 1),
			market:  6_000_000,
		},
		{
			name: "the last moment of a promotion", provider: "gemini", model: "gemini-3.8-flash",
			reading: metering.Reading{Usage: metering.Usage{Input: 1000, CacheRead: 1000, Output: 1000}},
			at:      day(2027, time.January, 1).Add(-time.Nanosecond),
			market:  750_000 + 75_000 + 3_750_000,
		},
		{
			name: "the first moment after a promotion", provider: "gemini", model: "gemini-3.8-flash",
			reading: metering.Reading{Usage: metering.Usage{Input: 1000, CacheRead: 1000, Output: 1000}},
			at:      day(2027, time.January, 1),
			market:  1_500_000 + 150_000 + 7_500_000,
		},
		{
			name: "cache reads before their price was cut", provider: "anthropic", model: "claude-sonnet-5-5",
			reading: metering.Reading{Usage: metering.Usage{CacheRead: 1000}},
			at:      day(2026, time.October, 6),
			market:  200_000,
		},
		{
			name: "cache reads after their price was cut", provider: "anthropic", model: "claude-sonnet-5-5",
			reading: metering.Reading{Usage: metering.Usage{CacheRead: 1000}},
			at:      day(2026, time.October, 7),
			market:  100_000,
		},
		{
			name: "compaction on the same model, advice from another", provider: "anthropic", model: "claude-opus-5-5",
			reading: metering.Reading{
				Model: "claude-opus-5-5",
				Usage: metering.Usage{Input: 23_000, Output: 1000},
				Others: []metering.ModelUsage{
					{Usage: metering.Usage{Input: 180_000, Output: 3500}},
					{Model: "claude-haiku-4-5-20251001", Usage: metering.Usage{Input: 1000, Output: 100}},
				},
			},
			market: 112_000_000 + 790_000_000 + 1_500_000,
		},
		{
			name: "each part has its own long-context threshold", provider: "anthropic", model: "claude-haiku-5-5",
			reading: metering.Reading{
				Usage: metering.Usage{Input: 90_000},
				Others: []metering.ModelUsage{
					{Usage: metering.Usage{Input: 90_000}},
					{Usage: metering.Usage{Input: 100_001}},
				},
			},
			market: 9_000_000 + 9_000_000 + 50_000_500,
		},
		{
			name: "a negative count is not a credit", provider: "openai", model: "gpt-4o",
			reading: metering.Reading{Usage: metering.Usage{Input: -1_000_000, Output: 1, WebSearches: -1}},
			market:  10_000,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at := tt.at
			if at.IsZero() {
				at = november
			}
			rule := find(t, book, tt.provider, tt.model, at)
			got, err := book.Price(rule, tt.reading, at, 0)
			if err != nil {
				t.Fatal(err)
			}
			want := metering.Cost{Market: tt.market, Yours: tt.market, RuleID: rule.ID}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("cost (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPriceAppliesTheDiscountToTheExactSum(t *testing.T) {
	t.Parallel()
	// One input token is exactly half a nano-USD.
	half := metering.Rule{
		ID: "half", Provider: "p", Models: []metering.Match{"half"},
		Rates: metering.Rates{Input: 500_000, Output: 499_999},
	}
	book := builtInBook(t, []metering.Rule{half})
	for _, tt := range []struct {
		name          string
		provider      string
		model         string
		usage         metering.Usage
		discount      string
		market, yours metering.Money
	}{
		{"20 %", "openai", "gpt-4o", metering.Usage{Input: 1000, CacheRead: 1024, Output: 300}, "20%", 6_780_000, 5_424_000},
		{"12.5 %", "openai", "gpt-4o", metering.Usage{Input: 1000, CacheRead: 1024, Output: 300}, "12.5%", 6_780_000, 5_932_500},
		{"100 %", "openai", "gpt-4o", metering.Usage{Input: 1000}, "100%", 2_500_000, 0},
		{"exactly half rounds up", "p", "half", metering.Usage{Input: 1}, "0%", 1, 1},
		{"less than half rounds down", "p", "half", metering.Usage{Output: 1}, "0%", 0, 0},
		{"parts are not rounded", "p", "half", metering.Usage{Input: 1, Output: 1}, "0%", 1, 1},
		{"one and a half rounds up", "p", "half", metering.Usage{Input: 3}, "0%", 2, 2},
		{"half of the discounted sum rounds up", "p", "half", metering.Usage{Input: 2}, "50%", 1, 1},
		{"the discount is not taken off the rounded price", "p", "half", metering.Usage{Input: 1}, "50%", 1, 0},
		{"just below half after the discount", "p", "half", metering.Usage{Input: 2}, "50.0001%", 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rule := find(t, book, tt.provider, tt.model, november)
			got, err := book.Price(rule, metering.Reading{Usage: tt.usage}, november, discount(t, tt.discount))
			if err != nil {
				t.Fatal(err)
			}
			want := metering.Cost{Market: tt.market, Yours: tt.yours, RuleID: rule.ID}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("cost (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPriceRoundsPartsOfARequestOnce(t *testing.T) {
	t.Parallel()
	book := newBook(t, []metering.Rule{{
		ID: "half", Provider: "p", Models: []metering.Match{"half"}, Rates: metering.Rates{Input: 500_000},
	}})
	one := metering.Usage{Input: 1}
	reading := metering.Reading{Usage: one, Others: []metering.ModelUsage{{Usage: one}, {Model: "half", Usage: one}}}
	got, err := book.Price(find(t, book, "p", "half", november), reading, november, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got.Market != 2 {
		t.Errorf("three halves of a nano-USD cost %d, want 2", got.Market)
	}
}

func TestPriceKeepsAConfiguredPriceForAllPartsOfItsModel(t *testing.T) {
	t.Parallel()
	configured := metering.Rule{
		ID: "configured", Provider: "openai", Models: []metering.Match{"gpt-4"}, Rates: metering.Rates{Input: metering.USD},
	}
	book := builtInBook(t, []metering.Rule{configured})
	million := metering.Usage{Input: 1_000_000}
	reading := metering.Reading{
		Model: "gpt-4-0613", Usage: million,
		Others: []metering.ModelUsage{{Model: "gpt-4-0613", Usage: million}},
	}
	rule := book.ForResponse(find(t, book, "openai", "gpt-4", november), "openai", reading.Model, november)
	got, err := book.Price(rule, reading, november, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := metering.Cost{Market: 2 * metering.USD, Yours: 2 * metering.USD, RuleID: "configured"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cost (-want +got):\n%s", diff)
	}
}

func TestParseDiscount(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want metering.Discount
	}{
		{"0%", 0}, {"20%", 200_000}, {"12.5%", 125_000}, {"0.0001%", 1}, {"99.9999%", 999_999}, {"100%", 1_000_000},
	} {
		got, err := metering.ParseDiscount(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("ParseDiscount(%q) = %d, %v, want %d", tt.text, got, err, tt.want)
		}
		if got.String() != tt.text {
			t.Errorf("%d millionths read %q, want %q", got, got, tt.text)
		}
	}
	for _, text := range []string{"", "%", "20", "0.2", "-1%", "-0.0001%", "100.0001%", "1.00001%", "1e1%", "20 %", "20%%", "99999999999999999999%"} {
		if got, err := metering.ParseDiscount(text); !errors.Is(err, metering.ErrInvalidDiscount) {
			t.Errorf("ParseDiscount(%q) = %d, %v, want ErrInvalidDiscount", text, got, err)
		}
	}
}
