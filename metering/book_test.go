package metering_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestFindKnowsTheNamesOfAModel(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	for _, tt := range []struct{ provider, model, rule string }{
		{"openai", "gpt-4o", "openai/gpt-4o"},
		{"openai", "gpt-4o-2024-08-06", "openai/gpt-4o"},
		{"openai", "gpt-4o-2024-11-20", "openai/gpt-4o"},
		{"openai", "gpt-4o-2024-05-13", "openai/gpt-4o-2024-05-13"},
		{"openai", "gpt-4o-latest", "openai/gpt-4o"},
		{"openai", "chatgpt-4o-latest", "openai/chatgpt-4o-latest"},
		{"openai", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"},
		{"openai", "gpt-4o-mini-transcribe", "openai/gpt-4o-mini-transcribe"},
		{"openai", "gpt-4.1-2025-04-14", "openai/gpt-4.1"},
		{"openai", "gpt-3.5-turbo-instruct:20230824-v2", "openai/gpt-3.5-turbo-instruct"},
		{"openai", "gpt-3.5-turbo-0125", "openai/gpt-3.5-turbo"},
		{"openai", "gpt-5-chat-latest", "openai/gpt-5"},
		{"openai", "gpt-5.4-mini-2026-03-17", "openai/gpt-5.4-mini"},
		{"openai", "gpt-5.6", "openai/gpt-5.6-sol@2026-08-21"},
		{"openai", "gpt-6.1-sol-2026-09-29", "openai/gpt-6.1-sol"},
		{"openai", "codex-mini-latest", "openai/codex-mini"},
		{"openai", "text-embedding-ada-002", "openai/text-embedding-ada-002"},
		{"openai", "ft:gpt-4o-mini-2024-07-18:acme-corp:support:BxYz12", "openai/ft:gpt-4o-mini"},
		{"openai", "ft:gpt-4o-mini-2024-07-18:acme-corp::BxYz12:ckpt-step-90", "openai/ft:gpt-4o-mini"},
		{"openai", "ft:gpt-4o:acme-corp::BxYz12", "openai/ft:gpt-4o"},
		{"openai", "ft:gpt-4o-2024-08-06:acme-corp::BxYz12", "openai/ft:gpt-4o"},
		{"openai", "ft:gpt-3.5-turbo-0125:acme-corp::BxYz12", "openai/ft:gpt-3.5-turbo"},
		{"openai", "gpt-4o-mini-2024-07-18.ft-0123abcd", "openai/ft:gpt-4o-mini"},
		{"anthropic", "claude-haiku-4-5-20251001", "anthropic/claude-haiku-4-5"},
		{"anthropic", "claude-3-5-haiku-latest", "anthropic/claude-3-5-haiku"},
		{"anthropic", "claude-opus-4-20250514", "anthropic/claude-opus-4-0"},
		{"anthropic", "claude-sonnet-4-20250514", "anthropic/claude-sonnet-4-0"},
		{"anthropic", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5"},
		{"anthropic", "claude-sonnet-5", "anthropic/claude-sonnet-5"},
		{"anthropic", "claude-sonnet-5-5", "anthropic/claude-sonnet-5-5@2026-10-07"},
		{"anthropic", "claude-opus-5", "anthropic/claude-opus-5"},
		{"anthropic", "claude-opus-5-5", "anthropic/claude-opus-5-5"},
		{"anthropic", "claude-opus-5-5-20260901", "anthropic/claude-opus-5-5"},
		{"anthropic", "claude-fable-5-2", "anthropic/claude-fable-5-2"},
		{"anthropic", "claude-mythos-5", "anthropic/claude-fable-5"},
		{"gemini", "models/gemini-2.5-pro", "gemini/gemini-2.5-pro"},
		{"gemini", "gemini-2.5-flash", "gemini/gemini-2.5-flash"},
		{"gemini", "gemini-2.5-flash-lite", "gemini/gemini-2.5-flash-lite"},
		{"gemini", "gemini-2.5-flash-image", "gemini/gemini-2.5-flash-image"},
		{"gemini", "gemini-2.5-flash-preview-tts", "gemini/gemini-2.5-flash-tts"},
		{"gemini", "gemini-2.5-flash-preview-09-2025", "gemini/gemini-2.5-flash"},
		{"gemini", "gemini-2.5-pro-preview-06-05", "gemini/gemini-2.5-pro"},
		{"gemini", "gemini-3.8-flash", "gemini/gemini-3.8-flash"},
	} {
		t.Run(tt.model, func(t *testing.T) {
			t.Parallel()
			if got := find(t, book, tt.provider, tt.model, november).ID; got != tt.rule {
				t.Errorf("%s has rule %s, want %s", tt.model, got, tt.rule)
			}
		})
	}
}

func TestFindLeavesUnknownModelsUnpriced(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	for _, tt := range []struct{ provider, model string }{
		{"openai", ""},
		{"openai", "-latest"},
		{"openai", "-2024-08-06"},
		{"openai", "gpt"},
		{"openai", "gpt-4o-"},
		{"openai", "gpt-4o-nano"},
		{"openai", "gpt-4o-2024-13-01"},
		{"openai", "gpt-4o-2024-08-32"},
		{"openai", "gpt-4o-2024-08-00"},
		{"openai", "gpt-4o-2024.08.06"},
		{"openai", "gpt-4o-2024-08.06"},
		{"openai", "gpt-4o-2024-08-06-turbo"},
		{"openai", "gpt-4o-2024-08-0a"},
		{"openai", "gpt-4o-1999-08-06"},
		{"openai", "gpt-4o:free"},
		{"openai", "GPT-4o"},
		{"openai", "gpt-6.1"},
		{"openai", "gpt-6.1-luna"},
		{"openai", "gpt-6.3-sol"},
		{"openai", "gpt-3.5-turbo-instructive"},
		{"openai", "ft:gpt-6-sol:acme::x"},
		{"openai", "ft:gpt-4o-audio-preview:acme::x"},
		{"openai", "ft::acme::x"},
		{"openai", "ft:"},
		{"openai", "whisper-1"},
		{"openai", "gpt-transcribe"},
		{"openai", "claude-opus-5"},
		{"anthropic", "claude-sonnet-5-6"},
		{"anthropic", "claude-sonnet-5-5-5"},
		{"anthropic", "claude-sonnet-5-20261301"},
		{"anthropic", "claude-sonnet-5-mini"},
		{"anthropic", "claude-sonnet-6"},
		{"anthropic", "claude-opus-5-6"},
		{"anthropic", "claude-opus-4-9"},
		{"anthropic", "claude-fable-5-3"},
		{"anthropic", "claude-2.2"},
		{"anthropic", "claude"},
		{"gemini", "gemini-2.5-flash-audio"},
		{"gemini", "gemini-2.5-pro-image"},
		{"gemini", "gemini-3.6-flash-lite"},
		{"gemini", "gemini-3.8-pro"},
		{"gemini", "gemma-3-27b-it"},
		{"gemini", "tunedModels/gemini-2.5-flash"},
		{"groq", "gpt-oss-120b"},
	} {
		t.Run(tt.provider+" "+tt.model, func(t *testing.T) {
			t.Parallel()
			if r, ok := book.Find(tt.provider, tt.model, november); ok {
				t.Errorf("%q is priced by %s", tt.model, r.ID)
			}
		})
	}
}

// rule makes a rule of provider p whose input rate tells it apart.
func rule(id string, models ...metering.Match) metering.Rule {
	return metering.Rule{ID: id, Provider: "p", Models: models, Rates: metering.Rates{Input: 1}}
}

func dated(r metering.Rule, from, until time.Time) metering.Rule {
	r.From, r.Until = from, until
	return r
}

func TestFindPrefersTheLaterLayerThenTheCloserMatch(t *testing.T) {
	t.Parallel()
	book := newBook(t,
		[]metering.Rule{
			rule("exact", "m-2026-01-01"),
			rule("family", "m"),
			rule("short", "m-*"),
			rule("long", "m-x-*"),
			rule("tuned", "ft:m"),
			rule("other", "other"),
		},
		[]metering.Rule{
			dated(rule("june", "other"), day(2026, time.June, 1), day(2026, time.July, 1)),
			rule("configured", "fam"),
		},
		[]metering.Rule{rule("tuned family", "ft:m-2026-02-02")},
		[]metering.Rule{rule("everything of n", "n*")},
	)
	for _, tt := range []struct {
		model string
		at    time.Time
		want  string
	}{
		{"m-2026-01-01", november, "exact"},
		{"m-2026-01-02", november, "family"},
		{"m-x", november, "short"},
		{"m-x-y", november, "long"},
		{"ft:m:org::id", november, "tuned"},
		{"ft:m-2026-02-02:org::id", november, "tuned family"},
		{"ft:m-2026-02-03:org::id", november, "tuned"},
		{"other", day(2026, time.May, 31), "other"},
		{"other", day(2026, time.June, 1), "june"},
		{"other-20260601", day(2026, time.June, 30), "june"},
		{"other", day(2026, time.July, 1), "other"},
		{"n", november, "everything of n"},
	} {
		if got := find(t, book, "p", tt.model, tt.at).ID; got != tt.want {
			t.Errorf("%s at %s has rule %q, want %q", tt.model, tt.at.Format(time.DateOnly), got, tt.want)
		}
	}
}

func TestForResponse(t *testing.T) {
	t.Parallel()
	configured := rule("openai/gpt-4/config", "gpt-4")
	configured.Provider = "openai"
	book := builtInBook(t, []metering.Rule{configured})
	byID := func(id string) *metering.Rule {
		r, ok := book.Rule(id)
		if !ok {
			t.Fatalf("no rule %q", id)
		}
		return r
	}
	for _, tt := range []struct {
		name    string
		request *metering.Rule
		model   string
		want    *metering.Rule
	}{
		{"a dearer snapshot served the alias", byID("openai/gpt-4o"), "gpt-4o-2024-05-13", byID("openai/gpt-4o-2024-05-13")},
		{"a response without a model", byID("openai/gpt-image-1"), "", byID("openai/gpt-image-1")},
		{"a response with an unknown model", byID("openai/gpt-4o"), "gpt-7", byID("openai/gpt-4o")},
		{"an unpriced request", nil, "gpt-4o", byID("openai/gpt-4o")},
		{"nothing is known", nil, "gpt-7", nil},
		{"a configured price survives a built-in snapshot", byID("openai/gpt-4/config"), "gpt-4-0613", byID("openai/gpt-4/config")},
		{"a configured price wins for the response too", byID("openai/gpt-4o"), "gpt-4", byID("openai/gpt-4/config")},
		{"any price is better than a ceiling", byID("ceiling/openai"), "gpt-4o", byID("openai/gpt-4o")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := book.ForResponse(tt.request, "openai", tt.model, november); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCeilingIsNoCheaperThanAnyRule(t *testing.T) {
	t.Parallel()
	book := builtInBook(t)
	all, ok := book.Ceiling("nobody")
	if !ok || all.ID != metering.CeilingID {
		t.Fatalf("ceiling of an unknown provider: %+v, %v", all, ok)
	}
	for _, r := range book.Rules() {
		own, ok := book.Ceiling(r.Provider)
		if !ok || own.ID != metering.CeilingID+"/"+r.Provider {
			t.Fatalf("ceiling of %s: %+v, %v", r.Provider, own, ok)
		}
		if byID, _ := book.Rule(own.ID); byID != own {
			t.Fatalf("rule %s is not the ceiling", own.ID)
		}
		for _, usage := range oneOfEach(2_000_000) {
			for _, reading := range []metering.Reading{
				{Usage: usage}, {Usage: usage, ServiceTier: "priority"}, {Usage: usage, ServiceTier: "flex"},
				{Usage: usage, Speed: "fast", Region: "us"}, {Usage: usage, ServiceTier: "ultrafast"},
			} {
				cost := market(t, book, r, reading)
				if limit := market(t, book, own, reading); cost > limit {
					t.Errorf("%s: %+v costs %s, above its ceiling of %s", r.ID, reading, cost, limit)
				}
				if limit := market(t, book, all, reading); cost > limit {
					t.Errorf("%s: %+v costs %s, above the ceiling of all, %s", r.ID, reading, cost, limit)
				}
			}
		}
	}
}

func TestCeilingTakesTheHighestOfEachRate(t *testing.T) {
	t.Parallel()
	a, b := rule("a", "a"), rule("b", "b")
	a.Rates = metering.Rates{Input: 5, Output: 1, CacheRead: 2}
	b.Rates = metering.Rates{Input: 1, Output: 3}
	b.LongAbove, b.LongRates = 10, metering.Rates{Input: 2, Output: 7}
	a.Multipliers = []metering.Multiplier{
		{Dimension: metering.Tier, Value: "flex", PerMille: 500},
		{Dimension: metering.Tier, Value: "priority", PerMille: 1700},
	}
	b.Multipliers = []metering.Multiplier{{Dimension: metering.Tier, Value: "Priority", PerMille: 2000}}
	got, _ := newBook(t, []metering.Rule{a, b}).Ceiling("p")
	want := &metering.Rule{
		ID: "ceiling/p", Provider: "p", Source: got.Source,
		Rates: metering.Rates{Input: 5, Output: 7, CacheRead: 2},
		Multipliers: []metering.Multiplier{
			{Dimension: metering.Tier, Value: "flex", PerMille: 1000},
			{Dimension: metering.Tier, Value: "priority", PerMille: 2000},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ceiling (-want +got):\n%s", diff)
	}
	if r, ok := newBook(t).Ceiling("p"); ok {
		t.Errorf("an empty book has the ceiling %+v", r)
	}
}

// oneOfEach returns usages of n in one bucket each.
func oneOfEach(n int64) []metering.Usage {
	return []metering.Usage{
		{Input: n}, {InputAudio: n}, {InputImage: n}, {CacheRead: n}, {CacheReadAudio: n},
		{CacheWrite: n}, {CacheWriteLong: n}, {Output: n}, {OutputAudio: n}, {OutputImage: n}, {WebSearches: n},
	}
}

func market(t *testing.T, b *metering.Book, r *metering.Rule, rd metering.Reading) metering.Money {
	t.Helper()
	cost, err := b.Price(r, rd, november, 0)
	if err != nil {
		t.Fatal(err)
	}
	return cost.Market
}

func TestNewBookRefuses(t *testing.T) {
	t.Parallel()
	alter := func(change func(*metering.Rule)) []metering.Rule {
		r := rule("r", "m")
		change(&r)
		return []metering.Rule{r}
	}
	multiplier := func(ms ...metering.Multiplier) []metering.Rule {
		return alter(func(r *metering.Rule) { r.Multipliers = ms })
	}
	july := day(2026, time.July, 1)
	for _, tt := range []struct {
		name   string
		layers [][]metering.Rule
		want   string
	}{
		{"no id", [][]metering.Rule{alter(func(r *metering.Rule) { r.ID = "" })}, "no id"},
		{"the id of a ceiling", [][]metering.Rule{alter(func(r *metering.Rule) { r.ID = "ceiling/p" })}, "reserved"},
		{"no provider", [][]metering.Rule{alter(func(r *metering.Rule) { r.Provider = "" })}, "no provider"},
		{"no models", [][]metering.Rule{alter(func(r *metering.Rule) { r.Models = nil })}, "no models"},
		{"empty model", [][]metering.Rule{{rule("r", "")}}, "a model is empty"},
		{"star inside a model", [][]metering.Rule{{rule("r", "a*b")}}, "star before its end"},
		{"ends before it begins", [][]metering.Rule{{dated(rule("r", "m"), july, july)}}, "ends before"},
		{"negative rate", [][]metering.Rule{alter(func(r *metering.Rule) { r.Rates.WebSearch = -1 })}, "negative rate"},
		{"negative long rate", [][]metering.Rule{alter(func(r *metering.Rule) {
			r.LongAbove, r.LongRates.CacheReadAudio = 1, -1
		})}, "negative rate"},
		{"negative threshold", [][]metering.Rule{alter(func(r *metering.Rule) { r.LongAbove = -1 })}, "negative long-context"},
		{"long prompts for free", [][]metering.Rule{alter(func(r *metering.Rule) { r.LongAbove = 1 })}, "need each other"},
		{"long rates that never apply", [][]metering.Rule{alter(func(r *metering.Rule) { r.LongRates.Input = 1 })}, "need each other"},
		{"multiplier of an unknown dimension", [][]metering.Rule{multiplier(metering.Multiplier{
			Dimension: "mood", Value: "x", PerMille: 1,
		})}, "unknown dimension"},
		{"multiplier without a value", [][]metering.Rule{multiplier(metering.Multiplier{
			Dimension: metering.Tier, PerMille: 1,
		})}, "no value"},
		{"multiplier of zero", [][]metering.Rule{multiplier(metering.Multiplier{
			Dimension: metering.Tier, Value: "x",
		})}, "outside"},
		{"multiplier beyond bounds", [][]metering.Rule{multiplier(metering.Multiplier{
			Dimension: metering.Tier, Value: "x", PerMille: metering.MaxPerMille + 1,
		})}, "outside"},
		{"multiplier that ends before it begins", [][]metering.Rule{multiplier(metering.Multiplier{
			Dimension: metering.Tier, Value: "x", PerMille: 1, From: july, Until: july,
		})}, "ends before"},
		{"two multipliers at one time", [][]metering.Rule{multiplier(
			metering.Multiplier{Dimension: metering.Tier, Value: "x", PerMille: 1, Until: july.AddDate(0, 0, 1)},
			metering.Multiplier{Dimension: metering.Tier, Value: "X", PerMille: 2, From: july},
		)}, "applies twice"},
		{"one id in one layer", [][]metering.Rule{{rule("r", "m"), rule("r", "n")}}, "not unique"},
		{"one id in two layers", [][]metering.Rule{{rule("r", "m")}, {rule("r", "n")}}, "not unique"},
		{"one model, always", [][]metering.Rule{{rule("r", "m"), rule("s", "n", "m")}}, `"m" is also priced by "r"`},
		{"one model twice in a rule", [][]metering.Rule{{rule("r", "m", "m")}}, `"m" is also priced by "r"`},
		{"one prefix, always", [][]metering.Rule{{rule("r", "m-*"), rule("s", "m-*")}}, `"m-*" is also priced by "r"`},
		{"one model for a day", [][]metering.Rule{{
			dated(rule("r", "m"), time.Time{}, july.AddDate(0, 0, 1)), dated(rule("s", "m"), july, time.Time{}),
		}}, "also priced"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := metering.NewBook(tt.layers...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestNewBookAcceptsAPriceThatChanges(t *testing.T) {
	t.Parallel()
	july := day(2026, time.July, 1)
	book := newBook(t, []metering.Rule{
		dated(rule("before", "m"), time.Time{}, july), dated(rule("after", "m"), july, time.Time{}),
	})
	for at, want := range map[time.Time]string{july.Add(-1): "before", july: "after"} {
		if got := find(t, book, "p", "m", at).ID; got != want {
			t.Errorf("at %s: rule %q, want %q", at, got, want)
		}
	}
}

func TestBookSharesNothingWithItsMaker(t *testing.T) {
	t.Parallel()
	rules := []metering.Rule{rule("r", "m")}
	rules[0].Multipliers = []metering.Multiplier{{Dimension: metering.Tier, Value: "x", PerMille: 2000}}
	book := newBook(t, rules)
	rules[0].Rates.Input, rules[0].Models[0], rules[0].Multipliers[0].PerMille = 9, "n", 9
	got := find(t, book, "p", "m", november)
	if got.Rates.Input != 1 || got.Models[0] != "m" || got.Multipliers[0].PerMille != 2000 {
		t.Errorf("the rule changed with the one it was made of: %+v", got)
	}
	book.Rules()[0] = nil
	if book.Rules()[0] != got {
		t.Error("the book changed with the list of its rules")
	}
}
