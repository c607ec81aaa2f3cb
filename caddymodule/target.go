package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/glob"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// unifiedPath is where requests name their provider in the model.
const unifiedPath = "/v1/chat/completions"

func isUnified(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == unifiedPath
}

// target is one of the places where a request may get its answer.
type target struct {
	provider *Provider
	model    string
	rule     *metering.Rule
	unpriced bool
	body     []byte // nil before it is asked
}

// targets are where a request goes, in this order: to the next one when the
// one before fails. A native request has none but the provider in its path.
type targets struct {
	list []target
	at   int
}

// resolve finds out where a request in unified mode goes, and checks the key
// for it. What it may not use is left out; if nothing is left, it is refused.
func (c *call) resolve() *refusal {
	name := c.model
	list, refused := c.app.findTargets(name)
	switch {
	case refused == &refuseModelFormat && !c.key.allowsModel(name):
		return &refuseModel
	case refused != nil:
		return refused
	}
	for _, step := range []struct {
		keeps   func(target) bool
		refusal *refusal
	}{
		{func(t target) bool { return t.provider.configured() }, &refuseNotConfigured},
		{func(t target) bool { return c.key.allowsProvider(t.provider.name) }, &refuseProvider},
		{func(t target) bool { return c.key.allowsTarget(name, t) }, &refuseModel},
	} {
		list = slices.DeleteFunc(list, func(t target) bool { return !step.keeps(t) })
		if len(list) == 0 {
			return step.refusal
		}
	}
	if list[0].provider.Protocol != metering.OpenAI {
		return &refuseProtocol
	}
	c.targets.list = list
	c.aim(0)
	return nil
}

// allowsTarget tells whether the key may use a target under the name that the
// client asked for, or under its own with or without the provider's.
func (k *proxyKey) allowsTarget(name string, t target) bool {
	return k.allowsModel(name, t.model, t.provider.name+"/"+t.model)
}

// aim turns the request to one of its targets.
func (c *call) aim(i int) {
	if len(c.targets.list) == 0 {
		return
	}
	t := &c.targets.list[i]
	c.targets.at = i
	c.provider, c.row.Provider = t.provider, t.provider.name
	c.rule, c.unpriced = t.rule, t.unpriced
	c.setModel(t.model)
}

// payload is the body that the provider gets: the client's, with the target's
// own name for the model.
func (c *call) payload() []byte {
	if len(c.targets.list) == 0 {
		return c.body
	}
	t := &c.targets.list[c.targets.at]
	if t.body == nil {
		t.body = metering.SetModel(c.body, t.model)
	}
	return t.body
}

// hasNextTarget tells whether there is somebody else to ask.
func (c *call) hasNextTarget() bool { return c.targets.at+1 < len(c.targets.list) }

// priceTargets finds the price of each target. Those without one are left out,
// unless none has one.
func (c *call) priceTargets() *refusal {
	if len(c.targets.list) == 0 {
		return c.findPrice()
	}
	var first *refusal
	var priced []target
	for i := range c.targets.list {
		c.aim(i)
		if refused := c.findPrice(); refused != nil {
			if first == nil {
				first = refused
			}
			continue
		}
		t := c.targets.list[i]
		t.rule, t.unpriced = c.rule, c.unpriced
		priced = append(priced, t)
	}
	if len(priced) == 0 {
		c.aim(0)
		return first
	}
	c.targets.list = priced
	c.aim(0)
	return nil
}

// hasPrice tells whether the request costs something wherever it may be
// answered: a target without a price may have one with a price behind it.
func (c *call) hasPrice() bool {
	return c.rule != nil || slices.ContainsFunc(c.targets.list, func(t target) bool { return t.rule != nil })
}

// dearestClaim is what to hold for a request that has a price, wherever it is
// answered.
func (c *call) dearestClaim() billing.Claim {
	if len(c.targets.list) == 0 {
		return c.claim()
	}
	var dearest billing.Claim
	for i := range c.targets.list {
		if c.aim(i); c.rule == nil {
			continue
		}
		claim := c.claim()
		dearest.Allowances = claim.Allowances
		dearest.Amount, dearest.Least = max(dearest.Amount, claim.Amount), max(dearest.Least, claim.Least)
	}
	c.aim(0)
	return dearest
}

// aliases are other names of providers in a model.
var aliases = map[string]string{"google": "gemini"}

// inferred are the providers of models that are named without one.
var inferred = []struct{ pattern, provider string }{
	{"gpt-*", "openai"}, {"o3", "openai"}, {"o3-*", "openai"}, {"o4-*", "openai"},
	{"claude-*", "anthropic"},
	{"gemini-*", "gemini"},
}

// findTargets returns where a model's name leads: a route's name, a provider
// and its model, or a model alone whose provider is known.
func (a *App) findTargets(name string) ([]target, *refusal) {
	if route := a.Routes[name]; route != nil {
		list := make([]target, len(route))
		for i, text := range route {
			provider, model := splitTarget(text)
			list[i] = target{provider: a.Providers[provider], model: model}
		}
		return list, nil
	}
	provider, model := splitTarget(name)
	if model == "" {
		for _, known := range inferred {
			if glob.Match(known.pattern, name) {
				provider, model = known.provider, name
			}
		}
	}
	_, isKnown := known[provider]
	switch p := a.Providers[provider]; {
	case model == "" || p == nil && !isKnown:
		return nil, &refuseModelFormat
	case p == nil:
		return nil, &refuseNotConfigured
	default:
		return []target{{provider: p, model: model}}, nil
	}
}

// splitTarget cuts "openai/gpt-4o" into the provider's name and the model. The
// model is empty where there is no slash.
func splitTarget(text string) (provider, model string) {
	provider, model, _ = strings.Cut(text, "/")
	if name, ok := aliases[provider]; ok {
		provider = name
	}
	return provider, model
}

// validateRoutes checks that all targets can be asked.
func (a *App) validateRoutes() error {
	for _, name := range slices.Sorted(maps.Keys(a.Routes)) {
		if err := checkRouteName(name); err != nil {
			return err
		}
		if len(a.Routes[name]) == 0 {
			return fmt.Errorf("route %s has no target", name)
		}
		for _, text := range a.Routes[name] {
			if err := a.checkTarget(text); err != nil {
				return fmt.Errorf("route %s: %w", name, err)
			}
		}
	}
	return nil
}

// warnOfUnpricedTargets tells of targets that requests never reach.
func (a *App) warnOfUnpricedTargets() {
	if a.Unpriced != unpricedRefuse {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(a.Routes)) {
		for _, text := range a.Routes[name] {
			provider, model := splitTarget(text)
			if _, priced := a.book.Find(provider, model, time.Now()); !priced {
				a.log.Warn("target has no price: its route leaves it out, until there is a `price` for it",
					zap.String("route", name), zap.String("target", text))
			}
		}
	}
}

func checkRouteName(name string) error {
	if name == "" || strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_", c)
	}) {
		return errors.New("a route's name has lower-case letters, digits, ., - and _ only")
	}
	return nil
}

func (a *App) checkTarget(text string) error {
	name, model := splitTarget(text)
	p := a.Providers[name]
	switch {
	case name == "" || model == "":
		return fmt.Errorf("target %q: want <provider>/<model>", text)
	case p == nil:
		return fmt.Errorf("target %q: there is no provider %q", text, name)
	case p.protocol(name) != metering.OpenAI:
		return fmt.Errorf("target %q: routes can only go to providers of the OpenAI protocol so far", text)
	}
	return nil
}

// routeTarget is a target in a Caddyfile, which can be checked when all
// providers are known.
type routeTarget struct {
	text string
	at   *caddyfile.Dispenser
}

func (a *App) parseRoute(d *caddyfile.Dispenser) error {
	var name string
	if err := oneArg(d, &name); err != nil {
		return err
	}
	if err := checkRouteName(name); err != nil {
		return d.WrapErr(err)
	}
	if a.Routes[name] != nil {
		return d.Errf("route %q is configured twice", name)
	}
	var list []string
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		list = append(list, d.Val())
		a.routeTargets = append(a.routeTargets, routeTarget{d.Val(), caddyfile.NewDispenser([]caddyfile.Token{d.Token()})})
		if err := noMore(d); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return d.Errf("route %q has no target", name)
	}
	if a.Routes == nil {
		a.Routes = make(map[string][]string)
	}
	a.Routes[name] = list
	return nil
}

// checkRouteTargets checks the targets of all routes, at their lines.
func (a *App) checkRouteTargets() error {
	for _, t := range a.routeTargets {
		if err := a.checkTarget(t.text); err != nil {
			t.at.Next()
			return t.at.WrapErr(err)
		}
	}
	return nil
}
