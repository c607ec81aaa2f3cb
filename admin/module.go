package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/caddymodule"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("llm_gateway_admin", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("llm_gateway_admin", httpcaddyfile.Before, "reverse_proxy")
}

// Handler serves the gateway's management API under /v1. Other paths go to
// the next handler. It needs the app `llm_gateway`.
type Handler struct {
	app *caddymodule.App
	api http.Handler
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.llm_gateway_admin",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.AppIfConfigured("llm_gateway")
	if err != nil {
		return fmt.Errorf("the llm_gateway_admin handler needs the global option llm_gateway: %w", err)
	}
	h.app = app.(*caddymodule.App)
	h.api = New(&gateway{app: h.app, log: ctx.Slogger()})
	return nil
}

// ServeHTTP serves the management API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !Handles(r) {
		return next.ServeHTTP(w, r)
	}
	release, err := h.app.Acquire(r.Context())
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	defer release()
	h.api.ServeHTTP(w, r)
	return nil
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	llm_gateway_admin [<matcher>]
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// gateway is the running gateway in the form that the API needs.
type gateway struct {
	app *caddymodule.App
	log *slog.Logger
}

// giveBackTimeout bounds how long a change of a key waits for the store to
// take back what was leased under the key's old limit.
const giveBackTimeout = 5 * time.Second

func (g *gateway) Store() billing.Store            { return g.app.Store() }
func (g *gateway) Flush(ctx context.Context) error { return g.app.Flush(ctx) }
func (g *gateway) Held(org string) billing.Money   { return g.app.Held(org) }
func (g *gateway) Purchaser() billing.Purchaser    { return g.app.Purchaser() }
func (g *gateway) AdminToken() string              { return g.app.AdminToken }
func (g *gateway) Logger() *slog.Logger            { return g.log }

func (g *gateway) Packages() []billing.Package {
	packages, err := g.app.Packages()
	if err != nil {
		g.log.Error("packages that were valid are not any more", "error", err)
	}
	return packages
}

func (g *gateway) KeyChanged(k billing.Key) {
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	if err := g.app.KeyChanged(ctx, k); err != nil {
		g.log.Warn("leases under the key's old limit stay with this node", "error", err)
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
	_ Gateway                     = (*gateway)(nil)
)
