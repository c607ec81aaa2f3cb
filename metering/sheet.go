package metering

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// Sheet says at which rates a request was priced, after all choices were made:
// of the rule, of the rates for long contexts, and of multipliers. With the
// usage it is all that a price is made of, so later changes of the price book
// change nothing about it.
type Sheet struct {
	Discount Discount `json:"discount,omitempty"`
	// Parts of the request by the models that they ran on; the first is that of
	// the model that answered.
	Parts []SheetPart `json:"parts"`
}

// SheetPart is what one model did, and at which rates.
type SheetPart struct {
	RuleID string `json:"rule"`
	// Model is "" for the one that answered.
	Model       string         `json:"model,omitempty"`
	LongContext bool           `json:"long_context,omitempty"`
	Rates       [buckets]int64 `json:"rates"`
	Factors     []Factor       `json:"factors,omitempty"`
	// Usage of a part other than the first, which has the rest of the request's.
	Usage *[buckets]int64 `json:"usage,omitempty"`
}

// Factor is a Multiplier that applied.
type Factor struct {
	Dimension Dimension `json:"dimension"`
	Value     string    `json:"value"`
	PerMille  int64     `json:"per_mille"`
}

// ParseSheet reads what Book.Sheet wrote.
func ParseSheet(text string) (Sheet, error) {
	var s Sheet
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Sheet{}, fmt.Errorf("read price sheet: %w", err)
	}
	return s, nil
}

// Sheet returns the text of the sheet by which Price prices the same request;
// "" without a rule. That of a request to one model is the same for all requests
// to it that chose alike, and is made once.
func (b *Book) Sheet(rule *Rule, rd Reading, at time.Time, d Discount) string {
	if rule == nil {
		return ""
	}
	first := rule.choose(rd.Usage, &rd, at)
	if len(rd.Others) == 0 {
		return b.sheetOf(chosenSheet{first, d})
	}
	s := Sheet{Discount: d, Parts: []SheetPart{first.part()}}
	for i := range rd.Others {
		other := &rd.Others[i]
		own, _ := b.partRule(rule, &rd, other.Model, at)
		part := own.choose(other.Usage, &rd, at).part()
		part.Model = other.Model
		usage := other.Usage.counts()
		part.Usage = &usage
		s.Parts = append(s.Parts, part)
	}
	return s.text()
}

// choice is what prices a part: a rule, one of its sets of rates, and those of
// its multipliers that apply.
type choice struct {
	rule    *Rule
	long    bool
	factors [3]*Multiplier
}

type chosenSheet struct {
	choice
	discount Discount
}

func (r *Rule) choose(u Usage, rd *Reading, at time.Time) choice {
	return choice{rule: r, long: r.isLong(u), factors: [...]*Multiplier{
		r.factor(Tier, rd.ServiceTier, at), r.factor(Speed, rd.Speed, at), r.factor(Region, rd.Region, at),
	}}
}

func (c choice) part() SheetPart {
	p := SheetPart{RuleID: c.rule.ID, LongContext: c.long, Rates: c.rule.Rates.all()}
	if c.long {
		p.Rates = c.rule.LongRates.all()
	}
	for _, m := range c.factors {
		if m != nil {
			p.Factors = append(p.Factors, Factor{m.Dimension, m.Value, m.PerMille})
		}
	}
	return p
}

func (s Sheet) text() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("write price sheet: " + err.Error()) // texts and numbers always encode
	}
	return string(b)
}

// maxSheets bounds those that are kept: rules of the book, each with few choices.
const maxSheets = 10_000

// sheetOf reads without a lock, and without allocating: nearly every request
// finds its sheet. A new one replaces the map.
func (b *Book) sheetOf(c chosenSheet) string {
	known := b.sheets.Load()
	if known != nil {
		if text, ok := (*known)[c]; ok {
			return text
		}
	}
	text := Sheet{Discount: c.discount, Parts: []SheetPart{c.part()}}.text()
	for {
		more := make(map[chosenSheet]string)
		if known != nil && len(*known) < maxSheets {
			maps.Copy(more, *known)
		}
		more[c] = text
		if b.sheets.CompareAndSwap(known, &more) {
			return text
		}
		known = b.sheets.Load()
	}
}

const buckets = tokenBuckets + 1 // and web searches

func (r *Rates) all() (rates [buckets]int64) {
	for i, rate := range r.buckets() {
		rates[i] = int64(rate)
	}
	rates[tokenBuckets] = int64(r.WebSearch)
	return rates
}

// counts lists all that is priced, in the order of the rates.
func (u Usage) counts() [buckets]int64 {
	return [...]int64{
		u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio, u.CacheWrite, u.CacheWriteLong,
		u.Output, u.OutputAudio, u.OutputImage, u.WebSearches,
	}
}
