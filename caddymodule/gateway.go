package caddymodule

import (
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves the proxy routes of the gateway: /openai/*, /anthropic/*,
// /gemini/* and /<name>/* of each further provider. Other paths go to the
// next handler. It needs the app `llm_gateway`.
type Handler struct {
	app *App
	log AccessLog
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.llm_gateway",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := FindApp(ctx)
	if err != nil {
		return err
	}
	h.app = app
	h.log = NewAccessLog(ctx)
	return nil
}

// ServeHTTP is the whole life of a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	var c *call
	w, logged := h.log.guard(w, r)
	defer func() { logged(c) }()
	c, refused := h.app.newCall(w, r)
	if c == nil {
		return next.ServeHTTP(w, r)
	}
	c.expose()
	defer observeRequest(c)
	if refused != nil {
		c.refuse(refused)
		return nil
	}
	if err := c.engine.acquire(r.Context()); err != nil {
		c.refuse(refuseLedger.because(err))
		return nil
	}
	defer c.engine.release()
	defer c.endQuotas()
	if refused := c.serve(); refused != nil {
		c.refuse(refused)
	}
	if c.abort {
		panic(http.ErrAbortHandler) // the provider's answer broke off, so this one does
	}
	return nil
}

// serve takes the request through all checks to the provider and back.
func (c *call) serve() *refusal {
	for _, step := range [...]func() *refusal{
		c.authenticate,
		c.read,
		c.priceTargets,
		c.takeRate,
		c.authorize,
	} {
		if refused := step(); refused != nil {
			return refused
		}
	}
	defer c.settle()
	defer c.closeUpstream()
	if refused := c.send(); refused != nil {
		return refused
	}
	c.relay()
	return nil
}

// findPrice finds the rule that prices the request. Unknown is not zero: what
// has no price follows the operator's policy.
func (c *call) findPrice() *refusal {
	if c.free() {
		c.endpoint.Billing = metering.Free
		return nil
	}
	if c.endpoint.Billing == metering.Metered && !c.request.Background {
		if rule, ok := c.app.book.Find(c.row.Provider, c.model, c.row.At); ok {
			c.rule = rule
			return nil
		}
	}
	switch c.app.Unpriced {
	case unpricedCeiling:
		c.rule, _ = c.app.book.Ceiling(c.row.Provider)
		return nil
	case unpricedRecord:
		c.unpriced = true
		return nil
	default:
		refused := refuseUnpriced
		refused.help = c.unpricedHelp()
		return &refused
	}
}

// unpricedHelp says how to make a refused request possible.
func (c *call) unpricedHelp() string {
	switch {
	case c.request.Background:
		return "The cost of a background response is not known when it is answered. " +
			"Send it without background, or set `unpriced ceiling` in the llm_gateway options."
	case c.endpoint.Billing == metering.Metered && c.model == "":
		return "The request names no model, so it has no price."
	case c.endpoint.Billing == metering.Metered:
		return fmt.Sprintf("The model %q of provider %s has no price. Add one, in USD per million tokens, "+
			"to the llm_gateway options of the Caddyfile:\n"+
			"price %s %s {\n\tinput 1.00\n\toutput 2.00\n}",
			c.row.Model, c.row.Provider, c.row.Provider, c.row.Model)
	default:
		return fmt.Sprintf("What a request to this endpoint of provider %s costs is not known to the gateway, "+
			"even if it is free at another provider of the same protocol. If it costs nothing, "+
			"add `free_route %s` to the options of provider %s; or set `unpriced ceiling` or `unpriced record`.",
			c.row.Provider, c.path, c.row.Provider)
	}
}

// refuse answers the client with an error of the gateway's own. Refusals of
// requests with a valid key have an audit row, too, within bounds.
func (c *call) refuse(refused *refusal) {
	c.row.Status = refused.status
	switch {
	case refused.status >= http.StatusInternalServerError && c.r.Context().Err() == nil:
		c.app.requestLog.Warn(refused.text, zap.String("request_id", c.row.RequestID),
			zap.String("provider", c.row.Provider), zap.Error(errors.Unwrap(refused)))
	case refused.cause != nil: // be it that the client has left: nothing is wrong then
		c.app.requestLog.Debug(refused.text, zap.String("request_id", c.row.RequestID), zap.NamedError("cause", refused.cause))
	}
	refusalsTotal.WithLabelValues(c.row.Provider, refused.text).Inc()
	c.engine.events.limitReached(c, refused)
	if c.row.Error == "" { // else it was sent, and is settled
		c.row.Error, c.row.Latency = refused.text, c.elapsed()
		if c.key != nil && c.engine.refused.take(c.key.ID, maxRefusedRows, c.engine.now()) {
			c.engine.record(&c.row)
		}
	}
	if c.key != nil && !c.rated {
		c.lookAtRates()
	}
	refused.write(c.w, c.errorProtocol())
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
