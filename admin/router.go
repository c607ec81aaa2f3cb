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
	health := caddymodule.Health{Refusing: errNotRunning.Err}
	if app := caddymodule.Running(); app != nil {
		health = app.Health(r.Context())
	}
	return answerReady(w, health)
}

// readiness is the answer of ready.
type readiness struct {
	Ready bool `json:"ready"`
	// Reason is why not.
	Reason string `json:"reason,omitempty"`
	*vitals
}

// vitals are "ok", or what is wrong. They are not known before the books are
// open.
type vitals struct {
	Store          string  `json:"store"`
	Journal        string  `json:"journal"`
	Leases         string  `json:"leases"`
	Unposted       int     `json:"unposted"`
	UnpostedOldest float64 `json:"unposted_oldest_seconds"`
}

// answerReady answers 200 if requests are served, and 503 if they are refused.
func answerReady(w http.ResponseWriter, h caddymodule.Health) error {
	answer := readiness{Ready: h.Refusing == nil}
	if h.Opened {
		answer.vitals = &vitals{
			Store: describe(h.Store), Journal: describe(h.Journal), Leases: describe(h.Leases),
			Unposted: h.Unposted, UnpostedOldest: h.Oldest.Seconds(),
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		answer.Reason = h.Refusing.Error()
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(w).Encode(answer)
}

func describe(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
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
