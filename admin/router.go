package admin

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/caddymodule"
)

func init() {
	caddy.RegisterModule(Router{})
}

// Router adds the gateway's health checks to Caddy's own admin endpoint,
// which by default only this machine can reach:
//
//	GET  /llm_gateway/health/live   the process runs
//	GET  /llm_gateway/health/ready  requests can be served
//	POST /llm_gateway/flush         returns when all settlements are posted
type Router struct{}

// CaddyModule returns the Caddy module information.
func (Router) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.llm_gateway",
		New: func() caddy.Module { return new(Router) },
	}
}

// Routes returns the routes.
func (Router) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/llm_gateway/health/live", Handler: caddy.AdminHandlerFunc(live)},
		{Pattern: "/llm_gateway/health/ready", Handler: caddy.AdminHandlerFunc(ready)},
		{Pattern: "/llm_gateway/flush", Handler: caddy.AdminHandlerFunc(flush)},
	}
}

var errNotRunning = caddy.APIError{
	HTTPStatus: http.StatusServiceUnavailable,
	Err:        errors.New("the llm_gateway app is not running"),
}

func live(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethod(r, http.MethodGet); err != nil {
		return err
	}
	return answerStatus(w, map[string]any{"status": "live"})
}

func ready(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethod(r, http.MethodGet); err != nil {
		return err
	}
	app := caddymodule.Running()
	if app == nil {
		return errNotRunning
	}
	health, err := app.Ready(r.Context())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	store := "ok"
	if health.Store != nil {
		store = health.Store.Error()
	}
	return answerStatus(w, map[string]any{"status": "ready", "store": store, "unposted": health.Unposted})
}

func flush(w http.ResponseWriter, r *http.Request) error {
	if err := allowMethod(r, http.MethodPost); err != nil {
		return err
	}
	app := caddymodule.Running()
	if app == nil {
		return errNotRunning
	}
	release, err := app.Acquire(r.Context())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	defer release()
	if err := app.Flush(r.Context()); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	return answerStatus(w, map[string]any{"status": "flushed"})
}

func allowMethod(r *http.Request, method string) error {
	if r.Method == method {
		return nil
	}
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("use " + method)}
}

func answerStatus(w http.ResponseWriter, body any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(body)
}

// Interface guard
var _ caddy.AdminRouter = Router{}
