package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/caddymodule"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
)

const (
	testToken = "operator-token"
	otherOrg  = "acme"
)

// testGateway is a gateway with a real store, which remembers what the API
// asked of the rest.
type testGateway struct {
	store     billing.Store
	path      string // the store's file
	token     string
	oidc      *caddymodule.OIDC
	issuer    *oidctest.Issuer // of signOn
	packages  []billing.Package
	purchaser billing.Purchaser
	held      map[string]billing.Money
	providers []caddymodule.ProviderStatus
	flush     func(context.Context) error
	log       lockedBuffer

	mu      sync.Mutex
	changed []billing.KeyHash
	orgs    []billing.Organization // that were announced
	// projects that were announced
	projects []billing.Project
	week     billing.WeekStart
}

func (g *testGateway) Store() billing.Store            { return g.store }
func (g *testGateway) Flush(ctx context.Context) error { return g.flush(ctx) }
func (g *testGateway) Held(org string) billing.Money   { return g.held[org] }
func (g *testGateway) Packages() []billing.Package     { return g.packages }
func (g *testGateway) Purchaser() billing.Purchaser    { return g.purchaser }
func (g *testGateway) AdminToken() string              { return g.token }
func (g *testGateway) OIDC() *caddymodule.OIDC         { return g.oidc }
func (g *testGateway) WeekStart() billing.WeekStart    { return g.week }
func (g *testGateway) Logger() *slog.Logger            { return slog.New(slog.NewTextHandler(&g.log, nil)) }

func (g *testGateway) Providers() []caddymodule.ProviderStatus { return g.providers }

func (g *testGateway) Verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	return g.store.Verify(ctx, o)
}

func (g *testGateway) KeyChanged(k billing.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed = append(g.changed, k.Hash)
}

func (g *testGateway) OrganizationChanged(org billing.Organization) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.orgs = append(g.orgs, org)
}

func (g *testGateway) ProjectChanged(p billing.Project) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.projects = append(g.projects, p)
}

// changes returns the keys that were announced since it was last called.
func (g *testGateway) changes() []billing.KeyHash {
	g.mu.Lock()
	defer g.mu.Unlock()
	changed := g.changed
	g.changed = nil
	return changed
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newGateway returns a gateway in development mode, with two organizations
// and an empty ledger.
func newGateway(t testing.TB) *testGateway {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gateway.db")
	store, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	for _, org := range []billing.Organization{
		{ID: billing.DefaultOrganization, Name: "Default", CreatedAt: time.Now()},
		{ID: otherOrg, Name: "Acme Inc.", CreatedAt: time.Now()},
	} {
		if err := store.EnsureOrganization(t.Context(), org); err != nil {
			t.Fatal(err)
		}
	}
	return &testGateway{
		store:     store,
		path:      path,
		token:     testToken,
		packages:  []billing.Package{{ID: "starter", Price: 10e9, Credits: 10e9}, {ID: "team", Price: 90e9, Credits: 100e9}},
		purchaser: billing.DevelopmentPurchaser{Ledger: store},
		flush:     func(context.Context) error { return nil },
	}
}

// client calls the API of a gateway. Each answer must be as the OpenAPI
// document says.
type client struct {
	t       *testing.T
	api     http.Handler
	header  http.Header
	context context.Context //nolint:containedctx // of each request
}

func newClient(t *testing.T, g *testGateway) client {
	t.Helper()
	return client{t: t, api: New(g), context: t.Context(), header: http.Header{"Authorization": {"Bearer " + testToken}}}
}

// with returns a client that also sends a header.
func (c client) with(name, value string) client {
	c.header = c.header.Clone()
	c.header.Set(name, value)
	return c
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (c client) do(method, target, requestBody string) answer {
	c.t.Helper()
	r := httptest.NewRequestWithContext(c.context, method, target, strings.NewReader(requestBody))
	r.Header = c.header.Clone()
	if requestBody != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	c.api.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header(), body: w.Body.String()}
	c.checkForm(r, requestBody, a)
	return a
}

// checkForm checks what holds for every answer.
func (c client) checkForm(r *http.Request, requestBody string, a answer) {
	c.t.Helper()
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := a.header.Get(name); got != want {
			c.t.Errorf("%s %s: %s is %q, want %q", r.Method, r.URL, name, got, want)
		}
	}
	if a.status == http.StatusNoContent || a.status == http.StatusFound || a.status == http.StatusNotModified {
		if a.body != "" {
			c.t.Errorf("%s %s: %d with a body: %s", r.Method, r.URL, a.status, a.body)
		}
	} else if !json.Valid([]byte(a.body)) || a.header.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s %s: not JSON, but %s: %s", r.Method, r.URL, a.header.Get("Content-Type"), a.body)
	}
	if a.status >= 400 {
		var p problem
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Message == "" {
			c.t.Errorf("%s %s: no error in the answer: %s", r.Method, r.URL, a.body)
		}
	}
	if a.status == http.StatusMethodNotAllowed || strings.Contains(a.body, errNoRoute.Message) {
		return // the document knows routes only
	}
	r.Body = io.NopCloser(strings.NewReader(requestBody))
	response := &http.Response{
		StatusCode: a.status, Header: a.header, Request: r, ContentLength: int64(len(a.body)),
		Body: io.NopCloser(strings.NewReader(a.body)),
	}
	specification.check(c.t, r, response)
}

// want fails the test unless the answer has the status and, if it is JSON
// object text, the members of it that are given.
func (a answer) want(t *testing.T, status int, parts ...string) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	for _, part := range parts {
		if !strings.Contains(a.body, part) {
			t.Errorf("answer lacks %s: %s", part, a.body)
		}
	}
	return a
}

// lacks fails the test if a part is in the answer.
func (a answer) lacks(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(a.body, part) {
			t.Errorf("answer has %s: %s", part, a.body)
		}
	}
}

// decode reads the answer as a T.
func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("reading %s: %v", a.body, err)
	}
	return v
}

// specification is the document that the API serves, which does not depend on
// the gateway.
var specification = &document{}

type document struct {
	once      sync.Once
	mu        sync.Mutex
	validator validator.Validator
	text      []byte
	err       error
}

func (d *document) load() error {
	d.once.Do(func() {
		r := httptest.NewRequest(http.MethodGet, openAPIPath, nil)
		w := httptest.NewRecorder()
		New(&testGateway{}).ServeHTTP(w, r)
		d.text = w.Body.Bytes()
		parsed, err := libopenapi.NewDocument(d.text)
		if err != nil {
			d.err = fmt.Errorf("reading the document: %w", err)
			return
		}
		v, errs := validator.NewValidator(parsed)
		if len(errs) > 0 {
			d.err = fmt.Errorf("making a validator: %v", errs)
			return
		}
		d.validator = v
	})
	return d.err
}

// check validates the answer, and the request too if it was accepted.
func (d *document) check(t *testing.T, r *http.Request, response *http.Response) {
	t.Helper()
	if err := d.load(); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok, errs := d.validator.ValidateHttpResponse(r, response); !ok {
		t.Errorf("%s %s: the answer is not as documented: %v", r.Method, r.URL, errs)
	}
	if response.StatusCode >= 300 {
		return
	}
	if ok, errs := d.validator.ValidateHttpRequest(r); !ok {
		t.Errorf("%s %s: accepted, but not as documented: %v", r.Method, r.URL, errs)
	}
}
