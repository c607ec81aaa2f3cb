package caddymodule

import (
	"fmt"
	"hash/fnv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Price is the market rate of a model.
type Price struct {
	// Provider is the provider's name.
	Provider string `json:"provider"`
	// Model is the model's id. It stands for its dated snapshots too; a
	// trailing * stands for anything.
	Model string `json:"model"`
	metering.RateCard
}

func (a *App) provisionPrices() error {
	var err error
	if a.Discount != "" {
		if a.discount, err = metering.ParseDiscount(a.Discount); err != nil {
			return fmt.Errorf("discount: %w", err)
		}
	}
	catalogue, err := metering.Catalogue()
	if err != nil {
		return err
	}
	rules := make([]metering.Rule, 0, len(a.Prices))
	for _, p := range a.Prices {
		rates, err := p.Rates()
		if err != nil {
			return fmt.Errorf("price of %s %s: %w", p.Provider, p.Model, err)
		}
		rules = append(rules, metering.Rule{
			ID:       p.ruleID(),
			Provider: p.Provider,
			Models:   []metering.Match{metering.Match(p.Model)},
			Rates:    rates,
			Source:   "configuration",
		})
	}
	a.book, err = metering.NewBook(catalogue, rules)
	return err
}

// ruleID names the price with its rates, so that audit rows tell those that
// were priced before a change of the configuration from those after it.
func (p *Price) ruleID() string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%q", p.RateCard)
	return fmt.Sprintf("config/%s/%s@%08x", p.Provider, p.Model, h.Sum32())
}

func (a *App) parsePrice(d *caddyfile.Dispenser) error {
	p := new(Price)
	if !d.Args(&p.Provider, &p.Model) {
		return d.Err("want: price <provider> <model> { ... }")
	}
	if err := noMore(d); err != nil {
		return err
	}
	rates := map[string]*string{
		"input": &p.Input, "input_audio": &p.InputAudio, "input_image": &p.InputImage,
		"cache_read": &p.CacheRead, "cache_read_audio": &p.CacheReadAudio,
		"cache_write": &p.CacheWrite, "cache_write_long": &p.CacheWriteLong,
		"output": &p.Output, "output_audio": &p.OutputAudio, "output_image": &p.OutputImage,
		"web_search_per_1k": &p.WebSearchPer1K,
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		rate, ok := rates[d.Val()]
		if !ok {
			return d.Errf("unrecognized rate %q: there are %s", d.Val(), namesOf(rates))
		}
		if err := oneArg(d, rate); err != nil {
			return err
		}
		if amount, err := metering.ParseUSD(*rate); err != nil || amount < 0 {
			return d.Errf("rate %q is not a decimal amount of USD of at least 0", *rate)
		}
	}
	if _, err := p.Rates(); err != nil {
		return d.Errf("price of %s %s: %v", p.Provider, p.Model, err)
	}
	a.Prices = append(a.Prices, p)
	return nil
}
