// Package admin is the management API: proxy keys, usage, the audit trail,
// credits and the proof of the books, under /v1. The operations and their
// OpenAPI document come from the same Go types; one file holds one noun.
package admin

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/admin/oidc"
	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/caddymodule"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Gateway is what the management API needs of the running gateway.
type Gateway interface {
	Store() billing.Store
	// Verify proves the books.
	Verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error)
	// Flush returns when all that is settled so far is posted to the store.
	Flush(ctx context.Context) error
	// KeyChanged makes the next request on this node see a changed key.
	KeyChanged(k billing.Key)
	// OrganizationChanged makes the next request on this node see an
	// organization's changed settings.
	OrganizationChanged(org billing.Organization)
	// ProjectChanged makes the next request on this node see a project's changed
	// settings.
	ProjectChanged(p billing.Project)
	// WeekStart is the day that weeks start on in organizations that have not
	// chosen one.
	WeekStart() billing.WeekStart
	// Held is the sum of the organization's open holds on this node.
	Held(org string) billing.Money
	// Providers tells how this node sees the providers, by name.
	Providers() []caddymodule.ProviderStatus
	// Packages are the credit packages for sale, in the order of the
	// configuration.
	Packages() []billing.Package
	// Purchaser sells them; nil if billing is not configured.
	Purchaser() billing.Purchaser
	// AdminToken is the operator's token of the configuration; "" if it has none.
	AdminToken() string
	// OIDC is the configuration of single sign-on; nil if there is none.
	OIDC() *caddymodule.OIDC
	// Logger receives what goes wrong inside and is not told to the client.
	Logger() *slog.Logger
}

// nouns are the first path segments under /v1 that belong to this API. The
// others there, /v1/chat/completions and /v1/models, are proxy routes.
var nouns = []string{
	"account", "audit", "auth", "billing", "budget", "changes", "flush", "invitations", "keys", "ledger", "members", "nodes",
	"openapi.json", "operator-tokens", "organizations", "projects", "providers", "usage",
}

const openAPIPath = "/v1/openapi.json"

// Handles tells whether the request's path belongs to the management API, be
// it a route or not.
func Handles(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	noun, _, _ := strings.Cut(rest, "/")
	return ok && slices.Contains(nouns, noun)
}

// New returns the management API of a gateway. Every answer is JSON, errors
// and unknown paths included.
func New(g Gateway) http.Handler {
	a := &api{gateway: g, mux: http.NewServeMux(), guards: make(map[string]guard), now: time.Now}
	// Many people may have one address.
	a.wrong = &addressLimit{every: time.Second, burst: 100, now: a.clock}
	a.strays = &addressLimit{every: time.Second, burst: 100, now: a.clock}
	a.logins = &addressLimit{every: 2 * time.Second, burst: 30, now: a.clock}
	if settings := g.OIDC(); settings != nil {
		a.oidc = newSignOn(settings)
	}
	a.huma = humago.New(a.mux, a.config())
	a.registerAccount()
	a.registerOrganizations()
	a.registerMembers()
	a.registerInvitations()
	a.registerKeys()
	a.registerUsage()
	a.registerAudit()
	a.registerChanges()
	a.registerBilling()
	a.registerBudget()
	a.registerProjects()
	a.registerLedger()
	a.registerNodes()
	a.registerProviders()
	a.registerOperatorTokens()
	a.registerLogin()
	a.registerSession()
	a.registerOpenAPI()
	return a
}

func newSignOn(settings *caddymodule.OIDC) *oidc.Provider {
	return oidc.New(oidc.Config{
		Issuer:               settings.Issuer,
		ClientID:             settings.ClientID,
		ClientSecret:         settings.ClientSecret,
		Audiences:            settings.Audience,
		Scopes:               settings.Scopes,
		EmailClaim:           settings.EmailClaim,
		AllowUnverifiedEmail: settings.AllowUnverifiedEmail,
		LogoutRedirectURL:    settings.LogoutRedirectURL,
		ClockSkew:            time.Duration(settings.ClockSkew),
	})
}

type api struct {
	gateway Gateway
	huma    huma.API
	mux     *http.ServeMux
	guards  map[string]guard // by the mux's patterns
	// oidc is the identity provider; nil without single sign-on.
	oidc *oidc.Provider
	// wrong limits tokens that are wrong, strays cookies of no session, and logins
	// those that are begun or finished.
	wrong, strays, logins *addressLimit
	accepted              accepted
	// now is the time by which credentials end. Tests set it.
	now     func() time.Time
	exports exports
}

func (a *api) clock() time.Time { return a.now() }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer a.answerPanic(w, r)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")

	if !navigates(r) {
		a.answer(w, r)
		return
	}
	shown := &pageWriter{ResponseWriter: w, status: http.StatusOK}
	a.answer(shown, r)
	if err := shown.send(); err != nil {
		a.gateway.Logger().Debug("writing a page", "error", err)
	}
}

func (a *api) answer(w http.ResponseWriter, r *http.Request) {
	ctx, err := a.authorize(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.dispatch(w, r.WithContext(ctx))
}

// dispatch does the operation, if there is one that the caller may do.
func (a *api) dispatch(w http.ResponseWriter, r *http.Request) {
	if err := a.findRoute(w, r, callerOf(r.Context())); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := checkQuery(r.URL.RawQuery); err != nil {
		a.fail(w, r, err)
		return
	}
	r = r.WithContext(withConditions(r.Context(), r.Header))
	// huma closes bodies, of which it may have read a part. Under Caddy, which
	// wraps them, net/http takes one that is closed for one that was read, and
	// what is left of it for the connection's next request. One that is open it
	// reads to the end, or it closes the connection.
	r.Body = io.NopCloser(r.Body)
	a.mux.ServeHTTP(w, r)
}

// findRoute tells whether there is an operation for the request that the caller
// may do, so that the mux never answers on its own, in plain text or with a
// redirect.
func (a *api) findRoute(w http.ResponseWriter, r *http.Request, c caller) error {
	if path.Clean(r.URL.Path) != r.URL.Path {
		return errNoRoute
	}
	if _, pattern := a.mux.Handler(r); pattern != "" {
		return a.guards[pattern](c)
	}
	var allowed []string
	probe := *r
	for _, probe.Method = range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, pattern := a.mux.Handler(&probe); pattern != "" {
			allowed = append(allowed, probe.Method)
		}
	}
	if len(allowed) == 0 {
		return errNoRoute
	}
	allow := strings.Join(allowed, ", ")
	w.Header().Set("Allow", allow)
	return &problem{
		status:  http.StatusMethodNotAllowed,
		Message: r.Method + " is not allowed here: use " + allow,
	}
}

// checkQuery refuses parameters that cannot be read, which would be as if they
// were not there: a list without its filter.
func checkQuery(query string) error {
	var f faults
	for pair := range strings.SplitSeq(query, "&") {
		if _, err := url.ParseQuery(pair); err != nil {
			name, _, _ := strings.Cut(pair, "=")
			f.add("query."+strings.ToValidUTF8(name, "?"), "cannot be read: write % as %25, and ; as %3B")
		}
	}
	if len(f) == 0 {
		return nil
	}
	return f.problem(http.StatusBadRequest)
}

// fail answers with the error, outside of any operation.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := a.explain(r.Context(), r.Method+" "+r.URL.Path, err)
	w.Header().Set("Content-Type", "application/json")
	if p.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	maps.Copy(w.Header(), p.GetHeaders())
	w.WriteHeader(p.status)
	if err := jsonFormat.Marshal(w, p); err != nil {
		a.gateway.Logger().Debug("writing an error response", "error", err)
	}
}

// answerPanic answers a panic with an error that tells nothing of its cause.
func (a *api) answerPanic(w http.ResponseWriter, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler { //nolint:errorlint // net/http, too, knows it by identity
		panic(cause)
	}
	a.gateway.Logger().Error("panic in the management API",
		"method", r.Method, "path", r.URL.Path, "panic", cause, "stack", string(debug.Stack()))
	a.fail(w, r, errInternal)
}
