package glob

import (
	"regexp"
	"strings"
	"testing"
	"testing/quick"
	"unicode/utf8"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"gpt-4o", "gpt-4o", true},
		{"gpt-4o", "gpt-4o-mini", false},
		{"gpt-4o", "GPT-4o", false},
		{"gpt-4o*", "gpt-4o-mini", true},
		{"gpt-4o*", "gpt-4o", true},
		{"*mini", "gpt-4o-mini", true},
		{"*mini", "gpt-4o-mini-2024", false},
		{"openai/*", "openai/gpt-4o", true},
		{"openai/*", "openai/ft:gpt-4o/x", true},
		{"openai/*", "openai", false},
		{"*", "", true},
		{"*", "a/b", true},
		{"**", "", true},
		{"**a", "a", true},
		{"", "", true},
		{"", "x", false},
		{"a*a", "a", false}, // the prefix and the suffix are not the same text
		{"a*a", "aa", true},
		{"ab*ba", "aba", false},
		{"a*b*c", "aXbXbc", true},
		{"a*b*c", "aXcXb", false},
		{"*aab*", "aaab", true},
		{"gpt-?", "gpt-4", false},
		{"gpt-?", "gpt-?", true},
		{"gpt-[4]", "gpt-4", false},
		{`\*`, `\anything`, true},
		{"é*", "é-1", true},
	} {
		if got := Match(test.pattern, test.text); got != test.want {
			t.Errorf("Match(%q, %q) = %v", test.pattern, test.text, got)
		}
	}
}

// asRegexp is the pattern in another language, whose engine is the judge.
func asRegexp(pattern string) *regexp.Regexp {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`)
}

// few maps bytes to a small alphabet, so that matches are not rare.
func few(alphabet string, b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(alphabet[int(c)%len(alphabet)])
	}
	return s.String()
}

func TestMatchIsWhatARegularExpressionSays(t *testing.T) {
	t.Parallel()
	matches := 0
	agrees := func(p, s []byte) bool {
		pattern, text := few("ab**", p[:min(len(p), 8)]), few("ab", s[:min(len(s), 12)])
		want := asRegexp(pattern).MatchString(text)
		if want {
			matches++
		}
		return Match(pattern, text) == want
	}
	if err := quick.Check(agrees, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Error(err)
	}
	if matches < 1000 {
		t.Errorf("only %d of the random patterns match: too few to say anything", matches)
	}
}

func TestPropertiesOfMatch(t *testing.T) {
	t.Parallel()
	for name, holds := range map[string]func(a, b, c string) bool{
		"a text without a star matches itself": func(a, _, _ string) bool {
			a = strings.ReplaceAll(a, "*", "")
			return Match(a, a)
		},
		"a star is any run": func(a, b, c string) bool {
			a, c = strings.ReplaceAll(a, "*", ""), strings.ReplaceAll(c, "*", "")
			return Match(a+"*"+c, a+b+c)
		},
		"a pattern covers itself":  func(a, _, _ string) bool { return Match(a, a) },
		"a second star is no more": func(a, b, c string) bool { return Match(a+"**"+b, c) == Match(a+"*"+b, c) },
		"longer texts have a star": func(a, b, _ string) bool { return b == "" || !Match(strings.ReplaceAll(a, "*", ""), a+b) },
	} {
		if err := quick.Check(holds, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzGlob(f *testing.F) {
	for _, pattern := range []string{"", "*", "gpt-4o*", "*a*a*a", "**", "a*b", "\xff*", "*é"} {
		f.Add(pattern, "gpt-4o-mini")
		f.Add(pattern, "aab")
		f.Add(pattern, "a\nb\xff")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if !utf8.ValidString(pattern+text) || len(pattern) > 100 || len(text) > 200 {
			Match(pattern, text) // must return; the judge reads characters, and takes its time
			return
		}
		if got, want := Match(pattern, text), asRegexp(pattern).MatchString(text); got != want {
			t.Errorf("Match(%q, %q) = %v, a regular expression says %v", pattern, text, got, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for name, x := range map[string]struct{ pattern, text string }{
		"usual":              {"gpt-4o*", "gpt-4o-mini-2024-07-18"},
		"200 stars":          {strings.Repeat("*a", 200), strings.Repeat("a", 199) + strings.Repeat("b", 57)},
		"repeated beginning": {"*" + strings.Repeat("a", 198) + "b", strings.Repeat("a", 100_000)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Match(x.pattern, x.text)
			}
		})
	}
}
