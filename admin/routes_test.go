package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestHandlesItsOwnPathsOnly(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/v1/account": true, "/v1/keys": true, "/v1/keys/": true, "/v1/keys/x/y/z": true, "/v1/openapi.json": true,
		"/v1/usage": true, "/v1/audit/x": true, "/v1/billing": true, "/v1/billing/purchase": true, "/v1/budget": true, "/v1/budgets": false, "/v1/flush": true,
		"/v1/ledger/verify": true, "/v1/organizations": true, "/v1/organizations/x/adjustments": true, "/v1/members/x": true,
		"/v1/chat/completions": false, "/v1/models": false, "/v1": false, "/v1/": false, "/": false, "/v1/keysx": false,
		"/v2/keys": false, "/openai/v1/keys": false, "/keys": false, "/V1/keys": false,
	} {
		if got := Handles(httptest.NewRequest(http.MethodGet, path, nil)); got != want {
			t.Errorf("Handles(%s) = %t, want %t", path, got, want)
		}
	}
}

func TestEveryRouteBelongsToTheAPI(t *testing.T) {
	t.Parallel()
	for _, route := range documentedRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		if r := httptest.NewRequest(method, path, nil); !Handles(r) {
			t.Errorf("Handles refuses %s", route)
		}
	}
}

func TestOnlyTheOperatorTokenOpensTheAPI(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	secret := billing.NewSecret()
	for name, c := range map[string]struct {
		token, authorization, header string
		want                         string
	}{
		"none":                {testToken, "", "", "missing operator token"},
		"no token":            {testToken, "Bearer ", "", "missing operator token"},
		"other scheme":        {testToken, "Basic " + testToken, "", "missing operator token"},
		"bare":                {testToken, testToken, "", "missing operator token"},
		"wrong":               {testToken, "Bearer wrong", "", "wrong operator token"},
		"prefix":              {testToken, "Bearer " + testToken[:5], "", "wrong operator token"},
		"longer":              {testToken, "Bearer " + testToken + "x", "", "wrong operator token"},
		"other case":          {testToken, "Bearer " + strings.ToUpper(testToken), "", "wrong operator token"},
		"proxy key":           {testToken, "Bearer " + secret, "", "a proxy key does not open the management API"},
		"token in x-api-key":  {testToken, "", "X-Api-Key", "missing operator token"},
		"no token configured": {"", "Bearer ", "", "no operator access"},
		"empty is configured": {"", "", "", "no operator access"},
		"any, none set":       {"", "Bearer x", "", "no operator access"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newClient(t, &testGateway{store: g.store, token: c.token})
			api.header = http.Header{}
			if c.authorization != "" {
				api.header.Set("Authorization", c.authorization)
			}
			if c.header != "" {
				api.header.Set(c.header, testToken)
			}
			for _, route := range documentedRoutes(t) {
				method, path, _ := strings.Cut(route, " ")
				if path == openAPIPath || path == webhookPath {
					continue
				}
				a := api.do(method, path, "").want(t, http.StatusUnauthorized, c.want)
				if c.token != "" {
					a.lacks(t, c.token, secret)
				}
				if a.header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s: no WWW-Authenticate header", route)
				}
			}
		})
	}
}

func TestSchemeOfTheTokenIsCaseInsensitive(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t)).with("Authorization", "bearer  "+testToken)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
}

func TestAccountIsThatOfTheNamedOrganization(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.held = map[string]billing.Money{otherOrg: 7}
	c := newClient(t, g)
	c.with(organizationHeader, otherOrg).do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
		want(t, http.StatusCreated)

	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK,
		`"organization":{"id":"default","name":"Default"}`, `"role":"operator"`, `"balance_nanos":0`, `"held_nanos":0`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK,
		`"organization":{"id":"acme","name":"Acme Inc."}`, `"role":"operator"`, `"balance_nanos":10000000000`, `"held_nanos":7`)
	for _, unknown := range []string{"nobody", "Default", "' OR 1=1 --", "\xff", "a\x00b", strings.Repeat("x", 10_000)} {
		c.with(organizationHeader, unknown).do(http.MethodGet, "/v1/account", "").
			want(t, http.StatusNotFound, "no such organization").lacks(t, "default")
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, path := range []string{
		"/v1/keys/", "/v1/keys/a/b", "/v1/keys/a/turn", "/v1/usage/x", "/v1/billing", "/v1/ledger", "/v1/keys//usage",
		"/v1/keys/../account", "/v1/keys/%2e%2e/account", "/v1/keys/a%2F..%2Fb", "/v1/openapi.json/x", "/v1/openapi.json/",
	} {
		c.do(http.MethodGet, path, "").want(t, http.StatusNotFound, `"error":"no such route: see /v1/openapi.json"`)
	}
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, x := range []struct{ method, path, allow string }{
		{http.MethodPut, "/v1/keys", "GET, POST"},
		{http.MethodDelete, "/v1/keys", "GET, POST"},
		{http.MethodPost, "/v1/keys/x", "GET, PATCH, DELETE"},
		{http.MethodGet, "/v1/keys/x/revoke", "POST"},
		{http.MethodDelete, "/v1/budget", "GET, PUT"},
		{http.MethodGet, "/v1/flush", "POST"},
		{http.MethodPut, "/v1/organizations/x", "GET, PATCH"},
		{http.MethodGet, "/v1/organizations/x/adjustments", "POST"},
		{http.MethodPost, "/v1/members/x", "GET, PATCH, DELETE"},
		{http.MethodHead, "/v1/flush", "POST"},
		{http.MethodOptions, "/v1/account", "GET"},
		{"PURGE", "/v1/openapi.json", "GET"},
	} {
		a := c.do(x.method, x.path, "").want(t, http.StatusMethodNotAllowed, x.method+" is not allowed here: use "+x.allow)
		if got := a.header.Get("Allow"); got != x.allow {
			t.Errorf("%s %s: Allow is %q, want %q", x.method, x.path, got, x.allow)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	long := `{"name":"` + strings.Repeat("x", maxBody-len(`{"name":""}`)) + `"}`
	for name, x := range map[string]struct {
		method, target, body string
		status               int
		parts                []string
	}{
		"no body":             {http.MethodPost, "/v1/keys", "", 400, []string{"request body is required"}},
		"not JSON":            {http.MethodPost, "/v1/keys", "{name", 400, []string{"the request body is not JSON", `"location":"body"`}},
		"two values":          {http.MethodPost, "/v1/keys", `{"name":"a"}{"name":"b"}`, 400, []string{"more than one value"}},
		"trailing text":       {http.MethodPost, "/v1/keys", `{"name":"a"} x`, 400, []string{"not JSON"}},
		"not UTF-8":           {http.MethodPost, "/v1/keys", "{\"name\":\"\xff\"}", 400, []string{"not valid UTF-8"}},
		"null":                {http.MethodPost, "/v1/keys", `null`, 422, []string{`"location":"body"`}},
		"list":                {http.MethodPatch, "/v1/keys/x", `[]`, 422, []string{`"location":"body"`}},
		"unknown field":       {http.MethodPost, "/v1/keys", `{"name":"a","usage_limit":5}`, 422, []string{`"location":"body.usage_limit"`, "unexpected property"}},
		"unknown patch field": {http.MethodPatch, "/v1/keys/x", `{"status":"active"}`, 422, []string{`"location":"body.status"`}},
		"unknown parameter":   {http.MethodGet, "/v1/usage?group_by=key", "", 422, []string{`"location":"query.group_by"`, "unknown query parameter"}},
		"unknown on account":  {http.MethodGet, "/v1/account?x=1", "", 422, []string{`"location":"query.x"`}},
		"unknown on delete":   {http.MethodDelete, "/v1/keys/x?force=1", "", 422, []string{`"location":"query.force"`}},
		"limit of 0":          {http.MethodGet, "/v1/keys?limit=0", "", 422, []string{`"location":"query.limit"`}},
		"limit of 501":        {http.MethodGet, "/v1/audit?limit=501", "", 422, []string{`"location":"query.limit"`}},
		"limit of text":       {http.MethodGet, "/v1/keys?limit=ten", "", 422, []string{`"location":"query.limit"`}},
		"body of 1 MiB":       {http.MethodPost, "/v1/keys", long, 422, []string{`"location":"body.name"`}},
		"body above 1 MiB":    {http.MethodPost, "/v1/keys", long + " ", 413, []string{"larger than 1 MiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := c
			api.t = t
			api.do(x.method, x.target, x.body).want(t, x.status, x.parts...)
		})
	}
	c.with("Content-Type", "application/x-www-form-urlencoded").do(http.MethodPost, "/v1/keys", "name=a").
		want(t, http.StatusUnsupportedMediaType, "send the body as application/json")
}

func TestErrorsAboutAHostileBodyStaySmall(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	var fields []string
	for i := range 1500 {
		fields = append(fields, `"`+strings.Repeat("x", i%1000)+string(rune('a'+i%26))+`":0`)
	}
	a := c.do(http.MethodPost, "/v1/keys", "{"+strings.Join(fields, ",")+"}").want(t, http.StatusUnprocessableEntity)
	if len(a.body) > 10_000 {
		t.Errorf("the answer has %d bytes", len(a.body))
	}
	a = c.do(http.MethodPost, "/v1/keys", `{"name":"a","`+strings.Repeat("é", 100_000)+`":0}`).want(t, http.StatusUnprocessableEntity)
	if len(a.body) > 2_000 {
		t.Errorf("the answer about one field has %d bytes", len(a.body))
	}
}

func TestFailuresInsideAreLoggedAndNotTold(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.flush = func(context.Context) error { return errors.New("disk /secret/path is full") }
	c := newClient(t, g)
	c.do(http.MethodPost, "/v1/flush", "").want(t, http.StatusInternalServerError, "internal error").
		lacks(t, "disk", "secret")
	if !strings.Contains(g.log.String(), "flushing: disk /secret/path is full") {
		t.Errorf("the log does not tell the cause: %s", g.log.String())
	}
}

func TestUnreachableStoreIsSaidToBeAway(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	if err := g.store.Close(); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusServiceUnavailable, "the database does not answer").
		lacks(t, "sql", "closed")
	if !strings.Contains(g.log.String(), "reading the account") {
		t.Errorf("the log does not tell the cause: %s", g.log.String())
	}
}

// panickyPurchaser stands for a defect.
type panickyPurchaser struct{ cause any }

func (p panickyPurchaser) Purchase(context.Context, billing.Order) (billing.Receipt, error) {
	panic(p.cause)
}

func TestPanicIsAnInternalError(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.purchaser = panickyPurchaser{"secret state"}
	newClient(t, g).do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
		want(t, http.StatusInternalServerError, "internal error").
		lacks(t, "secret", "goroutine")
	if log := g.log.String(); !strings.Contains(log, "secret state") || !strings.Contains(log, "panickyPurchaser") {
		t.Errorf("the log does not tell the cause: %s", log)
	}
}

func TestAbortedHandlerStaysAborted(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.purchaser = panickyPurchaser{http.ErrAbortHandler}
	c := newClient(t, g)
	defer func() {
		if cause := recover(); cause != http.ErrAbortHandler { //nolint:errorlint // net/http, too, knows it by identity
			t.Errorf("the panic is %v, want http.ErrAbortHandler", cause)
		}
	}()
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`)
}
