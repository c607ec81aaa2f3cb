package admin

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
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

// Handler serves the gateway's management API under /v1, and answers 404 to
// what does not exist there. Other paths go to the next handler. It needs the
// app `llm_gateway`.
type Handler struct {
	app *caddymodule.App
	api http.Handler
	log caddymodule.AccessLog
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
	app, err := caddymodule.FindApp(ctx)
	if err != nil {
		return err
	}
	h.app, h.log = app, caddymodule.NewAccessLog(ctx)
	h.api = New(&gateway{app: h.app, log: ctx.Slogger()})
	return nil
}

// ServeHTTP serves the management API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w, logged := h.log.Guard(w, r)
	defer logged()
	switch {
	case Handles(r):
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		// Caddy would answer with an empty 200, which a client may take for one.
		return answerNoRoute(w)
	default:
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

func answerNoRoute(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, err := io.WriteString(w, `{"error":"no such route"}`)
	return err
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

// giveBackTimeout bounds how long a change of a limit waits for the store to
// take back what was leased under the old one.
const giveBackTimeout = 5 * time.Second

func (g *gateway) Store() billing.Store            { return g.app.Store() }
func (g *gateway) Flush(ctx context.Context) error { return g.app.Flush(ctx) }
func (g *gateway) Held(org string) billing.Money   { return g.app.Held(org) }
func (g *gateway) Purchaser() billing.Purchaser    { return g.app.Purchaser() }
func (g *gateway) AdminToken() string              { return g.app.AdminToken }
func (g *gateway) OIDC() *caddymodule.OIDC         { return g.app.OIDC }
func (g *gateway) Logger() *slog.Logger            { return g.log }
func (g *gateway) WeekStart() billing.WeekStart    { return g.app.WeekStart }

func (g *gateway) Providers() []caddymodule.ProviderStatus { return g.app.ProviderStatus() }

func (g *gateway) Verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	return g.app.Verify(ctx, o)
}

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

func (g *gateway) OrganizationChanged(org billing.Organization) {
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	if err := g.app.OrganizationChanged(ctx, org); err != nil {
		g.log.Warn("leases under the organization's old budget stay with this node", "error", err)
	}
}

func (g *gateway) ProjectChanged(p billing.Project) {
	ctx, cancel := context.WithTimeout(context.Background(), giveBackTimeout)
	defer cancel()
	if err := g.app.ProjectChanged(ctx, p); err != nil {
		g.log.Warn("leases under the project's old budget stay with this node", "error", err)
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
	_ Gateway                     = (*gateway)(nil)
)
