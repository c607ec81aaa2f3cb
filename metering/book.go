package metering

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Rule is the price of some models of a provider in some time. A rule that
// has priced a request is never changed: it ends, and another one begins.
type Rule struct {
	// ID is unique and stable; audit rows carry it.
	ID       string
	Provider string
	Models   []Match
	// From is inclusive, Until exclusive. Zero times are open ends.
	From, Until time.Time

	Rates Rates
	// LongAbove is the prompt, cached tokens included, above which a whole
	// request is at LongRates; 0 for none.
	LongAbove   int64
	LongRates   Rates
	Multipliers []Multiplier

	// Source says where the rates were read, and when.
	Source string
	Note   string
}

// CeilingID is the id of the rule that prices models without one, for a
// provider without any rules. A provider with rules has a ceiling of its own,
// named CeilingID, slash, provider.
const CeilingID = "ceiling"

// Book holds all rules. They do not change once it is built, and neither may the
// rules that it returns; it is safe for concurrent use.
type Book struct {
	rules  []*Rule
	byID   map[string]placed
	layers []layer
	// ceilings by provider; "" is over all providers.
	ceilings map[string]*Rule
	// sheets that were made: see Sheet.
	sheets atomic.Pointer[map[chosenSheet]string]
}

// placed is a rule with the layer that it came in, counted from 1; ceilings
// are beneath all, in 0.
type placed struct {
	rule  *Rule
	layer int
}

// NewBook builds a book of layers of rules. A later layer wins over an
// earlier one, even if the earlier one matches a model more closely: who
// prices a model in the configuration need not know its snapshots. It is an
// error if an id is not unique, if two rules of one layer apply to the same
// match at the same time, or if a rule could price anything below zero.
func NewBook(layers ...[]Rule) (*Book, error) {
	b := &Book{byID: make(map[string]placed)}
	for i, rules := range layers {
		l := newLayer()
		for j := range rules {
			r := rules[j].clone()
			if err := r.validate(); err != nil {
				return nil, fmt.Errorf("price rule %q: %w", r.ID, err)
			}
			if _, taken := b.byID[r.ID]; taken {
				return nil, fmt.Errorf("price rule %q: id is not unique", r.ID)
			}
			if err := l.add(r); err != nil {
				return nil, fmt.Errorf("price rule %q: %w", r.ID, err)
			}
			b.byID[r.ID] = placed{r, i + 1}
			b.rules = append(b.rules, r)
		}
		b.layers = append(b.layers, l)
	}
	slices.Reverse(b.layers)
	b.setCeilings()
	return b, nil
}

// Find returns the rule for a model as it stood at a time. Unknown models
// have none: a name that merely looks like a known one is another model.
func (b *Book) Find(provider, model string, at time.Time) (*Rule, bool) {
	model = strings.TrimPrefix(model, "models/")
	for i := range b.layers {
		if r := b.layers[i].find(provider, model, at); r != nil {
			return r, true
		}
	}
	return nil, false
}

// Rule returns the rule of that id, ceilings included.
func (b *Book) Rule(id string) (*Rule, bool) {
	p, ok := b.byID[id]
	return p.rule, ok
}

// Rules returns all rules of all layers and times, as they were given to
// NewBook, without ceilings.
func (b *Book) Rules() []*Rule { return slices.Clone(b.rules) }

// ForResponse decides which rule prices a response: that of the model which
// the response names, since an alias may have served a dearer snapshot, else
// the request's. The request's also stays if it comes from a later layer: a
// price that was configured for a model is not lost to the built-in price of
// the snapshot that served it. requestRule may be nil, and so may the result.
func (b *Book) ForResponse(requestRule *Rule, provider, responseModel string, at time.Time) *Rule {
	if responseModel == "" {
		return requestRule
	}
	r, ok := b.Find(provider, responseModel, at)
	if !ok {
		return requestRule
	}
	if requestRule != nil && b.byID[requestRule.ID].layer > b.byID[r.ID].layer {
		return requestRule
	}
	return r
}

// Ceiling returns a rule that is no cheaper than any rule of the provider,
// past and future ones and long-context rates included; for a provider
// without rules, than any rule in the book. Old models that were very dear
// count too: it is a ceiling, not a guess. Only an empty book has none.
func (b *Book) Ceiling(provider string) (*Rule, bool) {
	if r, ok := b.ceilings[provider]; ok {
		return r, true
	}
	r, ok := b.ceilings[""]
	return r, ok
}

func (b *Book) setCeilings() {
	b.ceilings = make(map[string]*Rule)
	for _, r := range b.rules {
		for _, provider := range [...]string{r.Provider, ""} {
			c := b.ceilings[provider]
			if c == nil {
				c = &Rule{ID: CeilingID, Provider: provider, Source: "highest rates of the price book"}
				if provider != "" {
					c.ID += "/" + provider
				}
				b.ceilings[provider] = c
			}
			c.raise(r)
		}
	}
	for _, c := range b.ceilings {
		b.byID[c.ID] = placed{rule: c}
	}
}

// raise lifts a ceiling to the rates and multipliers of another rule. A
// cheaper tier stays at the standard rates.
func (r *Rule) raise(to *Rule) {
	r.Rates = r.Rates.atLeast(&to.Rates).atLeast(&to.LongRates)
	for _, m := range to.Multipliers {
		i := slices.IndexFunc(r.Multipliers, m.sameCase)
		if i < 0 {
			i = len(r.Multipliers)
			r.Multipliers = append(r.Multipliers, Multiplier{Dimension: m.Dimension, Value: m.Value, PerMille: 1000})
		}
		r.Multipliers[i].PerMille = max(r.Multipliers[i].PerMille, m.PerMille)
	}
}

func (r Rates) atLeast(s *Rates) Rates {
	return Rates{
		Input:          max(r.Input, s.Input),
		InputAudio:     max(r.InputAudio, s.InputAudio),
		InputImage:     max(r.InputImage, s.InputImage),
		CacheRead:      max(r.CacheRead, s.CacheRead),
		CacheReadAudio: max(r.CacheReadAudio, s.CacheReadAudio),
		CacheWrite:     max(r.CacheWrite, s.CacheWrite),
		CacheWriteLong: max(r.CacheWriteLong, s.CacheWriteLong),
		Output:         max(r.Output, s.Output),
		OutputAudio:    max(r.OutputAudio, s.OutputAudio),
		OutputImage:    max(r.OutputImage, s.OutputImage),
		WebSearch:      max(r.WebSearch, s.WebSearch),
	}
}

// clone copies the rule, so that the book shares nothing with its maker.
func (r *Rule) clone() *Rule {
	c := *r
	c.Models = slices.Clone(r.Models)
	c.Multipliers = slices.Clone(r.Multipliers)
	return &c
}

func (r *Rule) validate() error {
	switch {
	case r.ID == "":
		return errors.New("no id")
	case r.ID == CeilingID || strings.HasPrefix(r.ID, CeilingID+"/"):
		return errors.New("id is reserved")
	case r.Provider == "":
		return errors.New("no provider")
	case len(r.Models) == 0:
		return errors.New("no models")
	case slices.ContainsFunc(r.Models, Match.malformed):
		return errors.New("a model is empty, or has a star before its end")
	case !r.Until.IsZero() && !r.From.Before(r.Until):
		return errors.New("ends before it begins")
	case r.Rates.negative() || r.LongRates.negative():
		return errors.New("negative rate")
	case r.LongAbove < 0:
		return errors.New("negative long-context threshold")
	case (r.LongAbove > 0) != (r.LongRates != Rates{}):
		return errors.New("a long-context threshold and its rates need each other")
	}
	for i, m := range r.Multipliers {
		if err := m.validate(); err != nil {
			return fmt.Errorf("multiplier %s %q: %w", m.Dimension, m.Value, err)
		}
		for _, n := range r.Multipliers[:i] {
			if m.sameCase(n) && overlap(m.From, m.Until, n.From, n.Until) {
				return fmt.Errorf("multiplier %s %q: applies twice at one time", m.Dimension, m.Value)
			}
		}
	}
	return nil
}

func (m Multiplier) validate() error {
	switch {
	case m.Dimension != Tier && m.Dimension != Speed && m.Dimension != Region:
		return errors.New("unknown dimension")
	case m.Value == "":
		return errors.New("no value")
	case m.PerMille < 1 || m.PerMille > MaxPerMille:
		return fmt.Errorf("%d per mille is outside 1 to %d", m.PerMille, MaxPerMille)
	case !m.Until.IsZero() && !m.From.Before(m.Until):
		return errors.New("ends before it begins")
	}
	return nil
}

// sameCase tells whether two multipliers are for the same reported value.
func (m Multiplier) sameCase(n Multiplier) bool {
	return m.Dimension == n.Dimension && strings.EqualFold(m.Value, n.Value)
}

func (r Rates) negative() bool {
	return min(r.Input, r.InputAudio, r.InputImage, r.CacheRead, r.CacheReadAudio, r.CacheWrite,
		r.CacheWriteLong, r.Output, r.OutputAudio, r.OutputImage, r.WebSearch) < 0
}

// inEffect tells whether at is within the half-open time from..until.
func inEffect(from, until, at time.Time) bool {
	return !at.Before(from) && (until.IsZero() || at.Before(until))
}

// overlap tells whether two half-open times have a moment in common.
func overlap(from1, until1, from2, until2 time.Time) bool {
	return (until1.IsZero() || from2.Before(until1)) && (until2.IsZero() || from1.Before(until2))
}
