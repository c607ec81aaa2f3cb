package metering

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Match selects models of a provider.
//
//   - "gpt-4o" is the model of that id, its dated snapshots
//     (gpt-4o-2024-08-06, claude-haiku-4-5-20251001) and its latest alias
//     (gpt-4o-latest). It is never another version: not gpt-4o-mini.
//   - "ft:gpt-4o" is also every fine-tune of it, whatever its organization,
//     suffix and id.
//   - "gpt-3.5-turbo-instruct:*" is any id that begins with what is before
//     the star.
//
// The more specific match wins: the id itself, then a snapshot of it, then a
// fine-tune, then the longest prefix. "models/" in front of an id is ignored.
type Match string

func (m Match) malformed() bool {
	return m == "" || strings.Contains(string(m[:len(m)-1]), "*")
}

// layer is the rules that came together, by what they match.
type layer struct {
	rules map[matchKey][]*Rule
	// prefixes of each provider, the longest first.
	prefixes map[string][]Match
}

type matchKey struct {
	provider string
	match    Match
}

func newLayer() layer {
	return layer{rules: make(map[matchKey][]*Rule), prefixes: make(map[string][]Match)}
}

func (l *layer) add(r *Rule) error {
	for _, m := range r.Models {
		key := matchKey{r.Provider, m}
		others := l.rules[key]
		for _, o := range others {
			if overlap(o.From, o.Until, r.From, r.Until) {
				return fmt.Errorf("%q is also priced by %q at the same time", m, o.ID)
			}
		}
		l.rules[key] = append(others, r)
		if len(others) > 0 || !strings.HasSuffix(string(m), "*") {
			continue
		}
		l.prefixes[r.Provider] = append(l.prefixes[r.Provider], m)
		slices.SortFunc(l.prefixes[r.Provider], func(a, b Match) int { return cmp.Compare(len(b), len(a)) })
	}
	return nil
}

// find returns the rule of the closest match, or nil. It does not allocate.
func (l *layer) find(provider, model string, at time.Time) *Rule {
	if r := l.inEffect(provider, model, at); r != nil {
		return r
	}
	if base, ok := snapshotBase(model); ok {
		if r := l.inEffect(provider, base, at); r != nil {
			return r
		}
	}
	if tuned, ok := fineTuneBase(model); ok {
		if r := l.find(provider, tuned, at); r != nil {
			return r
		}
	}
	for _, m := range l.prefixes[provider] {
		if !strings.HasPrefix(model, string(m[:len(m)-1])) {
			continue
		}
		if r := l.inEffect(provider, string(m), at); r != nil {
			return r
		}
	}
	return nil
}

func (l *layer) inEffect(provider, match string, at time.Time) *Rule {
	for _, r := range l.rules[matchKey{provider, Match(match)}] {
		if inEffect(r.From, r.Until, at) {
			return r
		}
	}
	return nil
}

// snapshotBase cuts what names a snapshot off the end of a model id.
func snapshotBase(id string) (string, bool) {
	if base, ok := strings.CutSuffix(id, "-latest"); ok {
		return base, base != ""
	}
	if base, date, ok := cutTail(id, len("-2006-01-02")); ok && date[5] == '-' && date[8] == '-' &&
		isDate(date[1:5], date[6:8], date[9:11]) {
		return base, true
	}
	if base, date, ok := cutTail(id, len("-20060102")); ok && isDate(date[1:5], date[5:7], date[7:9]) {
		return base, true
	}
	return "", false
}

// cutTail splits off the last n bytes if they begin with a hyphen.
func cutTail(id string, n int) (base, tail string, ok bool) {
	at := len(id) - n
	if at <= 0 || id[at] != '-' {
		return "", "", false
	}
	return id[:at], id[at:], true
}

func isDate(year, month, day string) bool {
	return isNumber(year) && isNumber(month) && isNumber(day) &&
		"2000" <= year && year <= "2099" &&
		"01" <= month && month <= "12" &&
		"01" <= day && day <= "31"
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// fineTuneBase returns "ft:<base>" of a fine-tune's id,
// "ft:<base>:<organization>:<suffix>:<id>".
func fineTuneBase(id string) (string, bool) {
	const prefix = "ft:"
	if !strings.HasPrefix(id, prefix) {
		return "", false
	}
	colon := strings.IndexByte(id[len(prefix):], ':')
	if colon < 0 {
		return "", false
	}
	return id[:len(prefix)+colon], true
}
