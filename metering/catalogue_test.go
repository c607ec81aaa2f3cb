package metering

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func readCatalogue(t *testing.T) catalogueFile {
	t.Helper()
	var file catalogueFile
	if err := json.Unmarshal(catalogueJSON, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCatalogueMakesABook(t *testing.T) {
	t.Parallel()
	rules, err := Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewBook(rules); err != nil {
		t.Fatal(err)
	}
}

func TestCatalogueIsSorted(t *testing.T) {
	t.Parallel()
	file := readCatalogue(t)
	byName := func(a, b catalogueProvider) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(file.Providers, byName) {
		t.Error("providers are not in order")
	}
	for _, p := range file.Providers {
		for i, m := range p.Models {
			if i > 0 && m.ID <= p.Models[i-1].ID {
				t.Errorf("%s: %q is not after %q", p.Name, m.ID, p.Models[i-1].ID)
			}
			if !slices.IsSorted(m.Aliases) {
				t.Errorf("%s: aliases are not in order", m.ID)
			}
			for j := 1; j < len(m.Prices); j++ {
				if m.Prices[j].EffectiveFrom != m.Prices[j-1].Until {
					t.Errorf("%s: price %d does not begin when the one before ends", m.ID, j+1)
				}
			}
		}
	}
}

func TestCatalogueRatesAreComplete(t *testing.T) {
	t.Parallel()
	rules, err := Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Source == "" {
			t.Errorf("%s: no source", r.ID)
		}
		embedding := strings.Contains(r.ID, "embedding")
		checkComplete(t, r.ID, &r.Rates, embedding)
		if r.LongAbove == 0 {
			continue
		}
		checkComplete(t, r.ID+" long", &r.LongRates, embedding)
		if higher := r.Rates.atLeast(&r.LongRates); higher != r.LongRates {
			t.Errorf("%s: a long request is cheaper in some bucket", r.ID)
		}
	}
}

// checkComplete fails for a rate of zero, other than the output of
// embeddings, which have none.
func checkComplete(t *testing.T, name string, r *Rates, embedding bool) {
	t.Helper()
	for i, rate := range r.buckets() {
		if free := embedding && i >= promptBuckets; (rate == 0) != free {
			t.Errorf("%s: bucket %d has the rate %s", name, i, Money(rate))
		}
	}
}

// TestCataloguePrices states list prices a second time, as a slip in the file
// would cost money: USD per million of input, cache read, short and long
// cache write, output.
func TestCataloguePrices(t *testing.T) {
	t.Parallel()
	rules, err := Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	book, err := NewBook(rules)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, time.November, 23, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ provider, model, standard, long string }{
		{"openai", "gpt-4o", "2.50 1.25 2.50 2.50 10.00", ""},
		{"openai", "gpt-4o-2024-05-13", "5.00 5.00 5.00 5.00 15.00", ""},
		{"openai", "gpt-4o-mini", "0.15 0.075 0.15 0.15 0.60", ""},
		{"openai", "gpt-4.1", "2.00 0.50 2.00 2.00 8.00", ""},
		{"openai", "gpt-4.1-mini", "0.40 0.10 0.40 0.40 1.60", ""},
		{"openai", "gpt-4.1-nano", "0.10 0.025 0.10 0.10 0.40", ""},
		{"openai", "gpt-5", "1.25 0.125 1.25 1.25 10.00", ""},
		{"openai", "gpt-5.1", "1.25 0.125 1.25 1.25 10.00", ""},
		{"openai", "gpt-5-mini", "0.25 0.025 0.25 0.25 2.00", ""},
		{"openai", "gpt-5-nano", "0.05 0.005 0.05 0.05 0.40", ""},
		{"openai", "gpt-5-pro", "15.00 15.00 15.00 15.00 120.00", ""},
		{"openai", "gpt-5.2", "1.75 0.175 1.75 1.75 14.00", ""},
		{"openai", "gpt-5.3-codex", "1.75 0.175 1.75 1.75 14.00", ""},
		{"openai", "gpt-5.2-pro", "21.00 21.00 21.00 21.00 168.00", ""},
		{"openai", "gpt-5.4", "2.50 0.25 2.50 2.50 15.00", "5.00 0.50 5.00 5.00 22.50"},
		{"openai", "gpt-5.4-mini", "0.75 0.075 0.75 0.75 4.50", ""},
		{"openai", "gpt-5.4-nano", "0.20 0.02 0.20 0.20 1.25", ""},
		{"openai", "gpt-5.4-pro", "30.00 30.00 30.00 30.00 180.00", "60.00 60.00 60.00 60.00 270.00"},
		{"openai", "gpt-5.5", "5.00 0.50 5.00 5.00 30.00", "10.00 1.00 10.00 10.00 45.00"},
		{"openai", "gpt-5.6", "4.00 0.40 5.00 10.00 20.00", "8.00 0.80 10.00 20.00 30.00"},
		{"openai", "gpt-5.6-terra", "2.00 0.20 2.50 5.00 12.00", "4.00 0.40 5.00 10.00 18.00"},
		{"openai", "gpt-5.6-luna", "0.20 0.02 0.25 0.50 1.20", "0.40 0.04 0.50 1.00 1.80"},
		{"openai", "gpt-6-astra", "10.00 1.00 12.50 25.00 50.00", "20.00 2.00 25.00 50.00 75.00"},
		{"openai", "gpt-6-sol", "2.00 0.20 2.50 5.00 10.00", "4.00 0.40 5.00 10.00 15.00"},
		{"openai", "gpt-6-luna", "0.10 0.01 0.125 0.25 0.50", "0.20 0.02 0.25 0.50 0.75"},
		{"openai", "gpt-6.1-sol", "2.00 0.10 2.50 5.00 10.00", "4.00 0.20 5.00 10.00 15.00"},
		{"openai", "gpt-6.1-terra", "1.00 0.05 1.25 2.50 5.00", "2.00 0.10 2.50 5.00 7.50"},
		{"openai", "gpt-6.2-sol", "2.00 0.10 2.50 5.00 10.00", "4.00 0.20 5.00 10.00 15.00"},
		{"openai", "gpt-6.2-astra", "8.00 0.40 10.00 20.00 40.00", "16.00 0.80 20.00 40.00 60.00"},
		{"openai", "o1", "15.00 7.50 15.00 15.00 60.00", ""},
		{"openai", "o3", "2.00 0.50 2.00 2.00 8.00", ""},
		{"openai", "o4-mini", "1.10 0.275 1.10 1.10 4.40", ""},
		{"openai", "text-embedding-3-large", "0.13 0.13 0.13 0.13 0.00", ""},
		{"anthropic", "claude-opus-4-1", "15.00 1.50 18.75 30.00 75.00", ""},
		{"anthropic", "claude-opus-4-8", "5.00 0.50 6.25 10.00 25.00", ""},
		{"anthropic", "claude-opus-5", "5.00 0.50 6.25 10.00 25.00", ""},
		{"anthropic", "claude-opus-5-5", "4.00 0.20 5.00 8.00 20.00", ""},
		{"anthropic", "claude-sonnet-4-5", "3.00 0.30 3.75 6.00 15.00", "6.00 0.60 7.50 12.00 22.50"},
		{"anthropic", "claude-sonnet-4-6", "3.00 0.30 3.75 6.00 15.00", ""},
		{"anthropic", "claude-sonnet-5", "2.00 0.20 2.50 4.00 10.00", ""},
		{"anthropic", "claude-sonnet-5-5", "2.00 0.10 2.50 4.00 10.00", ""},
		{"anthropic", "claude-3-5-haiku", "0.80 0.08 1.00 1.60 4.00", ""},
		{"anthropic", "claude-haiku-4-5", "1.00 0.10 1.25 2.00 5.00", ""},
		{"anthropic", "claude-haiku-5-5", "0.10 0.01 0.125 0.20 0.50", "0.50 0.05 0.625 1.00 2.50"},
		{"anthropic", "claude-fable-5", "10.00 1.00 12.50 20.00 50.00", ""},
		{"anthropic", "claude-fable-5-1", "10.00 0.25 12.50 20.00 50.00", ""},
		{"anthropic", "claude-fable-5-2", "8.00 0.20 10.00 16.00 40.00", ""},
		{"gemini", "gemini-2.5-pro", "1.25 0.125 1.25 1.25 10.00", "2.50 0.25 2.50 2.50 15.00"},
		{"gemini", "gemini-2.5-flash", "0.30 0.03 0.30 0.30 2.50", ""},
		{"gemini", "gemini-2.5-flash-lite", "0.10 0.01 0.10 0.10 0.40", ""},
		{"gemini", "gemini-3.1-pro-preview", "2.00 0.20 2.00 2.00 12.00", "4.00 0.40 4.00 4.00 18.00"},
		{"gemini", "gemini-3.5-flash", "1.50 0.15 1.50 1.50 9.00", ""},
		{"gemini", "gemini-3.7-flash", "0.75 0.075 0.75 0.75 3.75", ""},
		{"gemini", "gemini-embedding-001", "0.15 0.15 0.15 0.15 0.00", ""},
	} {
		r, ok := book.Find(tt.provider, tt.model, at)
		if !ok {
			t.Errorf("%s: no rule", tt.model)
			continue
		}
		if got := listed(&r.Rates); got != tt.standard {
			t.Errorf("%s costs %q, want %q", tt.model, got, tt.standard)
		}
		long := ""
		if r.LongAbove > 0 {
			long = listed(&r.LongRates)
		}
		if long != tt.long {
			t.Errorf("%s with a long prompt costs %q, want %q", tt.model, long, tt.long)
		}
	}
}

func listed(r *Rates) string {
	return strings.Join([]string{
		r.Input.String(), r.CacheRead.String(), r.CacheWrite.String(), r.CacheWriteLong.String(), r.Output.String(),
	}, " ")
}

func TestCatalogueThresholds(t *testing.T) {
	t.Parallel()
	rules, err := Catalogue()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int64]int)
	for _, r := range rules {
		got[r.LongAbove]++
		if strings.HasPrefix(r.ID, "openai/") && r.LongAbove != 0 && r.LongAbove != 272_000 {
			t.Errorf("%s: threshold %d", r.ID, r.LongAbove)
		}
	}
	for _, threshold := range []int64{100_000, 128_000, 200_000, 272_000} {
		if got[threshold] == 0 {
			t.Errorf("no model with the threshold %d", threshold)
		}
	}
}

func TestRateCard(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		card RateCard
		want Rates
	}{
		{
			name: "what is not stated costs as the plain rate of its side",
			card: RateCard{Input: "2", Output: "10"},
			want: Rates{
				Input: 2 * USD, InputAudio: 2 * USD, InputImage: 2 * USD, CacheRead: 2 * USD, CacheReadAudio: 2 * USD,
				CacheWrite: 2 * USD, CacheWriteLong: 2 * USD, Output: 10 * USD, OutputAudio: 10 * USD, OutputImage: 10 * USD,
			},
		},
		{
			name: "a long write costs as the short one, cached audio as cached text",
			card: RateCard{Input: "2", CacheRead: "0.1", CacheWrite: "2.5", Output: "10", WebSearchPer1K: "10"},
			want: Rates{
				Input: 2 * USD, InputAudio: 2 * USD, InputImage: 2 * USD, CacheRead: USD / 10, CacheReadAudio: USD / 10,
				CacheWrite: 5 * USD / 2, CacheWriteLong: 5 * USD / 2,
				Output: 10 * USD, OutputAudio: 10 * USD, OutputImage: 10 * USD, WebSearch: 10_000 * USD,
			},
		},
		{
			name: "cached audio costs as audio where that has its own price",
			card: RateCard{Input: "2", InputAudio: "30", InputImage: "5", CacheRead: "0.1", Output: "10", OutputAudio: "60", OutputImage: "40"},
			want: Rates{
				Input: 2 * USD, InputAudio: 30 * USD, InputImage: 5 * USD, CacheRead: USD / 10, CacheReadAudio: 30 * USD,
				CacheWrite: 2 * USD, CacheWriteLong: 2 * USD, Output: 10 * USD, OutputAudio: 60 * USD, OutputImage: 40 * USD,
			},
		},
		{
			name: "zero is stated, and stays",
			card: RateCard{Input: "2", CacheRead: "0", Output: "0"},
			want: Rates{
				Input: 2 * USD, InputAudio: 2 * USD, InputImage: 2 * USD, CacheWrite: 2 * USD, CacheWriteLong: 2 * USD,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.card.Rates()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("rates (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRateCardRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		card RateCard
		want error
	}{
		{"no input", RateCard{Output: "1"}, nil},
		{"no output", RateCard{Input: "1"}, nil},
		{"a negative rate", RateCard{Input: "1", Output: "-1"}, nil},
		{"not a number", RateCard{Input: "1", Output: "1", CacheRead: "free"}, ErrInvalidAmount},
		{"more precise than money", RateCard{Input: "0.0000000001", Output: "1"}, ErrInvalidAmount},
		{"searches beyond all money", RateCard{Input: "1", Output: "1", WebSearchPer1K: "9223373"}, ErrInvalidAmount},
	} {
		got, err := tt.card.Rates()
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
		if got != (Rates{}) {
			t.Errorf("%s: rates came with the error: %+v", tt.name, got)
		}
	}
}

func TestParseCatalogueRefuses(t *testing.T) {
	t.Parallel()
	const sound = `{"as_of": "2026-11-23", "units": "USD", "providers": [{"name": "p",
		"multipliers": [{"dimension": "tier", "values": ["flex"], "factor": "0.5", "models": ["m"], "source": "s1", "date": "2026-11-23"}],
		"models": [{"id": "m", "prices": [{"rates": {"input": "1", "output": "2"},
			"long_above": 10, "long_rates": {"input": "3", "output": "4"}, "source": "s2", "date": "2026-11-22"}]}]}]}`
	if _, err := parseCatalogue([]byte(sound)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"a misspelt field", `"long_above"`, `"long_abov"`, "unknown field"},
		{"a price without a source", `"s2"`, `""`, "source and date"},
		{"a price without a date", `, "date": "2026-11-22"`, ``, "source and date"},
		{"a date that is none", `2026-11-22`, `2026-11-31`, "parsing time"},
		{"a multiplier without a source", `"s1"`, `""`, "source and date"},
		{"a multiplier without a date", `, "date": "2026-11-23"}`, `}`, "source and date"},
		{"a multiplier for no model", `"models": ["m"]`, `"models": ["n"]`, `no model "n"`},
		{"a factor that is none", `"0.5"`, `"half"`, "factor"},
		{"a factor finer than per mille", `"0.5"`, `"0.0005"`, "factor"},
		{"a model without an output rate", `"output": "2"`, `"output": ""`, "must be stated"},
		{"long rates without an input rate", `"input": "3"`, `"input": ""`, "long rates"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			broken := strings.Replace(sound, tt.old, tt.new, 1)
			if broken == sound {
				t.Fatalf("%s is not in the catalogue of this test", tt.old)
			}
			_, err := parseCatalogue([]byte(broken))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}
