package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func (a *App) parseProvider(d *caddyfile.Dispenser) error {
	var name string
	if !d.Args(&name) {
		return d.ArgErr()
	}
	if err := noMore(d); err != nil {
		return err
	}
	if err := checkProviderName(name); err != nil {
		return d.WrapErr(err)
	}
	if a.Providers[name] != nil {
		return d.Errf("provider %q is configured twice", name)
	}
	p := new(Provider)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := p.parseOption(d); err != nil {
			return err
		}
	}
	if p.Protocol == "" && known[name].protocol == "" {
		return d.Errf("provider %q needs a protocol: openai, anthropic or gemini", name)
	}
	if p.BaseURL == "" && known[name].protocol == "" {
		return d.Errf("provider %q needs a base_url", name)
	}
	if p.TransportRaw != nil && p.ConnectTimeout != 0 {
		return d.WrapErr(errConnectTimeout)
	}
	if a.Providers == nil {
		a.Providers = make(map[string]*Provider)
	}
	a.Providers[name] = p
	return nil
}

func (p *Provider) parseOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "protocol":
		var protocol string
		if err := oneArg(d, &protocol); err != nil {
			return err
		}
		switch p.Protocol = metering.Protocol(protocol); p.Protocol {
		case metering.OpenAI, metering.Anthropic, metering.Gemini:
			return nil
		}
		return d.Errf("unknown protocol %q: use openai, anthropic or gemini", protocol)
	case "base_url":
		return oneArg(d, &p.BaseURL)
	case "api_key":
		if slices.ContainsFunc(p.Credentials, func(c *Credential) bool { return c.Label == defaultCredential }) {
			return d.Errf("credential %q is configured twice: it is the api_key", defaultCredential)
		}
		return oneArg(d, &p.APIKey)
	case "credential":
		return p.parseCredential(d)
	case "free_route":
		patterns := d.RemainingArgs()
		if len(patterns) == 0 {
			return d.ArgErr()
		}
		p.FreeRoutes = append(p.FreeRoutes, patterns...)
		return nil
	case "transport":
		return p.parseTransport(d)
	}
	if ours, err := p.Patience.parseOption(d); ours {
		return err
	}
	return d.Errf("unrecognized provider option %q: there are %s, %s", d.Val(), providerOptions, namesOf(p.timeouts()))
}

func (p *Provider) parseTransport(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	if p.TransportRaw != nil {
		return d.Err("transport is given twice")
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
	if err != nil {
		return err
	}
	p.TransportRaw = caddyconfig.JSONModuleObject(module, "protocol", name, nil)
	return nil
}
