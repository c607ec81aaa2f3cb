package metering

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// catalogue.json is the built-in price list, edited by hand. Rates that have
// been released are not edited: give them an "until", and put the new ones
// beneath, with the same day as their "effective_from". So a rule's id means
// the same rates for ever.
//
//go:embed catalogue.json
var catalogueJSON []byte

// Catalogue returns the built-in price rules. Their ids are
// provider/model, with @date if their rates are not the first ones known:
// "openai/gpt-4o", "anthropic/claude-sonnet-5-5@2026-10-07". Models that are
// not priced per token, such as audio by the second, are not in it.
func Catalogue() ([]Rule, error) {
	rules, err := parseCatalogue(catalogueJSON)
	if err != nil {
		return nil, fmt.Errorf("parse built-in price catalogue: %w", err)
	}
	return rules, nil
}

// RateCard is Rates as people write them: decimal USD per 1,000,000 tokens,
// empty where nothing is stated. What is not stated is not free: it costs
// what the closest stated kind of token does.
type RateCard struct {
	// Input and Output must be stated, if only as "0".
	Input string `json:"input"`
	// InputAudio and InputImage cost as much as Input if not stated.
	InputAudio string `json:"input_audio,omitempty"`
	InputImage string `json:"input_image,omitempty"`
	// CacheRead costs as much as Input if not stated.
	CacheRead string `json:"cache_read,omitempty"`
	// CacheReadAudio costs as much as InputAudio if that is stated, else as
	// CacheRead.
	CacheReadAudio string `json:"cache_read_audio,omitempty"`
	// CacheWrite costs as much as Input if not stated, and CacheWriteLong as
	// CacheWrite.
	CacheWrite     string `json:"cache_write,omitempty"`
	CacheWriteLong string `json:"cache_write_long,omitempty"`
	Output         string `json:"output"`
	// OutputAudio and OutputImage cost as much as Output if not stated.
	OutputAudio string `json:"output_audio,omitempty"`
	OutputImage string `json:"output_image,omitempty"`
	// WebSearchPer1K is USD per 1,000 searches, and free if not stated.
	WebSearchPer1K string `json:"web_search_per_1k,omitempty"`
}

// Rates reads the card. The error wraps ErrInvalidAmount if a rate is not a
// decimal amount.
func (c RateCard) Rates() (Rates, error) {
	if c.Input == "" || c.Output == "" {
		return Rates{}, errors.New("input and output rates must be stated")
	}
	var r Rates
	for _, rate := range []struct {
		name, text string
		to         *Money
		fallback   *Money
	}{
		{"input", c.Input, &r.Input, nil},
		{"input_audio", c.InputAudio, &r.InputAudio, &r.Input},
		{"input_image", c.InputImage, &r.InputImage, &r.Input},
		{"cache_read", c.CacheRead, &r.CacheRead, &r.Input},
		{"cache_read_audio", c.CacheReadAudio, &r.CacheReadAudio, c.cachedAudio(&r)},
		{"cache_write", c.CacheWrite, &r.CacheWrite, &r.Input},
		{"cache_write_long", c.CacheWriteLong, &r.CacheWriteLong, &r.CacheWrite},
		{"output", c.Output, &r.Output, nil},
		{"output_audio", c.OutputAudio, &r.OutputAudio, &r.Output},
		{"output_image", c.OutputImage, &r.OutputImage, &r.Output},
		{"web_search_per_1k", c.WebSearchPer1K, &r.WebSearch, new(Money)},
	} {
		if rate.text == "" {
			*rate.to = *rate.fallback
			continue
		}
		amount, err := ParseUSD(rate.text)
		if err != nil {
			return Rates{}, fmt.Errorf("%s: %w", rate.name, err)
		}
		if amount < 0 {
			return Rates{}, fmt.Errorf("%s: negative rate %s", rate.name, amount)
		}
		*rate.to = amount
	}
	const perMillion = 1000
	if r.WebSearch > math.MaxInt64/perMillion {
		return Rates{}, fmt.Errorf("web_search_per_1k: %w: %q: out of range", ErrInvalidAmount, c.WebSearchPer1K)
	}
	r.WebSearch *= perMillion
	return r, nil
}

// cachedAudio is what a cached audio token costs if that is not stated.
func (c RateCard) cachedAudio(r *Rates) *Money {
	if c.InputAudio != "" {
		return &r.InputAudio
	}
	return &r.CacheRead
}

// The shape of catalogue.json.
type (
	catalogueFile struct {
		AsOf      day                 `json:"as_of"`
		Units     string              `json:"units"`
		Providers []catalogueProvider `json:"providers"`
	}
	catalogueProvider struct {
		Name        string                `json:"name"`
		Multipliers []catalogueMultiplier `json:"multipliers"`
		Models      []catalogueModel      `json:"models"`
	}
	catalogueMultiplier struct {
		Dimension Dimension `json:"dimension"`
		Values    []string  `json:"values"`
		Factor    string    `json:"factor"`
		// Models are ids of the provider's models; none are all.
		Models        []string `json:"models"`
		EffectiveFrom day      `json:"effective_from"`
		Until         day      `json:"until"`
		Source        string   `json:"source"`
		Date          day      `json:"date"`
	}
	catalogueModel struct {
		ID string `json:"id"`
		// Aliases are other ids at the same price, see Match.
		Aliases []Match          `json:"aliases"`
		Prices  []cataloguePrice `json:"prices"`
	}
	cataloguePrice struct {
		EffectiveFrom day       `json:"effective_from"`
		Until         day       `json:"until"`
		Rates         RateCard  `json:"rates"`
		LongAbove     int64     `json:"long_above"`
		LongRates     *RateCard `json:"long_rates"`
		Source        string    `json:"source"`
		// Date is when the source was read.
		Date day    `json:"date"`
		Note string `json:"note"`
	}
)

// day is written as "2026-10-07": the moment it begins, in UTC.
type day time.Time

func (d *day) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.DateOnly, string(text))
	*d = day(t)
	return err
}

func parseCatalogue(data []byte) ([]Rule, error) {
	var file catalogueFile
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	var rules []Rule
	for _, p := range file.Providers {
		if err := p.checkMultipliers(); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, m := range p.Models {
			for _, price := range m.Prices {
				r, err := p.rule(m, price)
				if err != nil {
					return nil, fmt.Errorf("%s/%s: %w", p.Name, m.ID, err)
				}
				rules = append(rules, r)
			}
		}
	}
	return rules, nil
}

// checkMultipliers catches a misspelt model, which would silently price it
// at the standard rates.
func (p catalogueProvider) checkMultipliers() error {
	for _, m := range p.Multipliers {
		for _, id := range m.Models {
			known := func(model catalogueModel) bool { return model.ID == id }
			if !slices.ContainsFunc(p.Models, known) {
				return fmt.Errorf("multiplier %s %q: no model %q", m.Dimension, m.Values, id)
			}
		}
	}
	return nil
}

func (p catalogueProvider) rule(m catalogueModel, price cataloguePrice) (Rule, error) {
	if price.Source == "" || time.Time(price.Date).IsZero() {
		return Rule{}, errors.New("a price needs its source and date")
	}
	r := Rule{
		ID:        p.Name + "/" + m.ID,
		Provider:  p.Name,
		Models:    append([]Match{Match(m.ID)}, m.Aliases...),
		From:      time.Time(price.EffectiveFrom),
		Until:     time.Time(price.Until),
		LongAbove: price.LongAbove,
		Source:    price.Source + ", " + time.Time(price.Date).Format(time.DateOnly),
		Note:      price.Note,
	}
	if !r.From.IsZero() {
		r.ID += "@" + r.From.Format(time.DateOnly)
	}
	var err error
	if r.Rates, err = price.Rates.Rates(); err != nil {
		return Rule{}, fmt.Errorf("rates: %w", err)
	}
	if price.LongRates != nil {
		if r.LongRates, err = price.LongRates.Rates(); err != nil {
			return Rule{}, fmt.Errorf("long rates: %w", err)
		}
		// A search costs the same in a long request.
		r.LongRates.WebSearch = r.Rates.WebSearch
	}
	if r.Multipliers, err = p.multipliers(m.ID); err != nil {
		return Rule{}, err
	}
	return r, nil
}

func (p catalogueProvider) multipliers(model string) ([]Multiplier, error) {
	var multipliers []Multiplier
	for _, m := range p.Multipliers {
		if m.Source == "" || time.Time(m.Date).IsZero() {
			return nil, fmt.Errorf("multiplier %s %q: needs its source and date", m.Dimension, m.Values)
		}
		if len(m.Models) > 0 && !slices.Contains(m.Models, model) {
			continue
		}
		perMille, err := parseDecimal(m.Factor, 3)
		if err != nil {
			return nil, fmt.Errorf("multiplier %s %q: factor %q: %w", m.Dimension, m.Values, m.Factor, err)
		}
		for _, value := range m.Values {
			multipliers = append(multipliers, Multiplier{
				Dimension: m.Dimension,
				Value:     value,
				PerMille:  perMille,
				From:      time.Time(m.EffectiveFrom),
				Until:     time.Time(m.Until),
			})
		}
	}
	return multipliers, nil
}
