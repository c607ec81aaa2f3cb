package metering_test

import (
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// The three ways in which a model name that comes with a response is found.
var benchmarkModels = []struct{ name, model string }{
	{"id", "gpt-5.4"}, {"snapshot", "gpt-5.4-2026-03-05"}, {"fine-tune", "ft:gpt-4o-mini-2024-07-18:acme:support:x1"},
}

func BenchmarkFindAndPrice(b *testing.B) {
	book := builtInBook(b)
	reading := metering.Reading{
		Usage:       metering.Usage{Input: 1000, CacheRead: 1024, Output: 300},
		ServiceTier: "default",
	}
	for _, bm := range benchmarkModels {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rule, _ := book.Find("openai", bm.model, november)
				if _, err := book.Price(rule, reading, november, 200_000); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Not parallel: allocations are counted for the whole process.
func TestFindAndPriceDoNotAllocate(t *testing.T) {
	book := builtInBook(t)
	reading := metering.Reading{
		Usage:       metering.Usage{Input: 1000},
		Others:      []metering.ModelUsage{{Model: "gpt-4o-2024-05-13", Usage: metering.Usage{Input: 1}}},
		ServiceTier: "flex",
	}
	for _, bm := range benchmarkModels {
		allocs := testing.AllocsPerRun(100, func() {
			rule, _ := book.Find("openai", bm.model, november)
			rule = book.ForResponse(rule, "openai", bm.model, november)
			if _, err := book.Price(rule, reading, november, 200_000); err != nil {
				t.Error(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations, want none", bm.name, allocs)
		}
	}
}
