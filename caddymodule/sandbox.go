package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

func init() {
	caddy.RegisterModule(Sandbox{})
	httpcaddyfile.RegisterHandlerDirective("llm_gateway_sandbox", parseSandbox)
	httpcaddyfile.RegisterDirectiveOrder("llm_gateway_sandbox", httpcaddyfile.Before, "respond")
}

// sandboxProvider is the one provider of the process, so that a reload keeps
// the counts and all sites add to the same ones.
var sandboxProvider = sandbox.New()

// Sandbox is a scripted model provider for demos and tests. It answers the
// routes of the OpenAI, Anthropic and Gemini APIs without any model behind
// them, and reports what it served at /sandbox/totals and /sandbox/served.
// It answers every request that reaches it, and costs nothing; give it a site
// of its own, which is not reachable from outside.
type Sandbox struct{}

// CaddyModule returns the Caddy module information.
func (Sandbox) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.llm_gateway_sandbox",
		New: func() caddy.Module { return new(Sandbox) },
	}
}

// ServeHTTP answers as a provider.
func (Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	sandboxProvider.ServeHTTP(w, r)
	return nil
}

func parseSandbox(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	var s Sandbox
	return s, s.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	llm_gateway_sandbox
func (Sandbox) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive itself
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("unrecognized subdirective %q", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ caddyhttp.MiddlewareHandler = Sandbox{}
	_ caddyfile.Unmarshaler       = Sandbox{}
)
