package admin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// TestErrorsSayWhatToDo: what is wrong is said in words, and with a remedy.
func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	id := c.createKey(`{"name":"a"}`).ID
	for name, x := range map[string]struct {
		method, target, body string
		status               int
		parts                []string
	}{
		"malformed value":  {http.MethodGet, "/v1/usage?provider=%zz", "", 400, []string{`"location":"query.provider"`, "write % as %25"}},
		"malformed filter": {http.MethodGet, "/v1/audit/export?provider=op%zzenai", "", 400, []string{`"location":"query.provider"`}},
		"malformed name":   {http.MethodGet, "/v1/keys?%zz=a", "", 400, []string{`"location":"query.%zz"`}},
		"semicolon":        {http.MethodGet, "/v1/keys?status=active;q=a", "", 400, []string{`"location":"query.status"`, "%3B"}},
		"two malformed":    {http.MethodGet, "/v1/keys?status=%&q=%", "", 400, []string{`"location":"query.status"`, `"location":"query.q"`}},
		"three groups":     {http.MethodGet, "/v1/usage?group_by=date,key,model", "", 422, []string{"expected at most two", "key_id"}},
		"a long overlap":   {http.MethodPost, "/v1/keys/" + id + "/rotate", `{"overlap_seconds":2592001}`, 422, []string{"2592000, which is 30 days"}},
		"a large limit":    {http.MethodPatch, "/v1/keys/" + id, `{"rate_limit_rpm":1e10}`, 422, []string{`expected number <= 1000000000"`}},
		"an odd id":        {http.MethodPost, "/v1/organizations", `{"id":"Acme","name":"A"}`, 422, []string{"expected string to be of a-z, 0-9, _ and -"}},
		"a name of blanks": {http.MethodPost, "/v1/keys", `{"name":"   "}`, 422, []string{"not only blanks"}},
		"two numbers": {http.MethodPatch, "/v1/keys/" + id, `{"max_concurrent":-3,"usage_limit_dollars":-1,"usage_soft_limit_dollars":null}`, 422, []string{
			`"location":"body.max_concurrent"`, `{"location":"body.usage_limit_dollars","message":"expected an amount of at least 0"}`, "(and 1 more)",
		}},
		"half a character":         {http.MethodPost, "/v1/keys", `{"name":"\ud83d"}`, 400, []string{"surrogate"}},
		"the other half":           {http.MethodPost, "/v1/keys", `{"name":"\ude00\ud83d"}`, 400, []string{"surrogate"}},
		"half and another":         {http.MethodPost, "/v1/keys", `{"name":"\ud83d\u0041"}`, 400, []string{"surrogate"}},
		"a whole character":        {http.MethodPost, "/v1/keys", `{"name":"\\\ud83d\ude00"}`, 201, nil},
		"a backslash, and letters": {http.MethodPost, "/v1/keys", `{"name":"\\ud83d"}`, 201, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := c
			api.t = t
			api.do(x.method, x.target, x.body).want(t, x.status, x.parts...)
		})
	}
}

// TestWhatOnlyTheOperatorMay: nobody is sent to an owner who may not either.
func TestWhatOnlyTheOperatorMay(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	for who, role := range map[string]billing.Role{"dev": billing.RoleDeveloper, "adm": billing.RoleAdmin} {
		m := invite(t, g, otherOrg, who+"@example.com", role)
		credential := bearer(issuer.Token(map[string]any{"sub": who, "email": who + "@example.com", "email_verified": true}))
		joinBy(t, g, m, credential)
		c := newClient(t, g).with(credential[0], credential[1])
		c.do(http.MethodPost, "/v1/organizations/"+otherOrg+"/adjustments", `{"amount_dollars":1,"reason":"x"}`).
			want(t, http.StatusForbidden, "only the operator of the gateway may")
	}
	newClient(t, g).with("Authorization", "Bearer "+issuer.Token(map[string]any{"sub": "nobody", "email": nil})).do(http.MethodGet, "/v1/account", "").
		want(t, http.StatusForbidden, "If this token has no e-mail address, sign in once at /v1/auth/login")
	newClient(t, g).with("Authorization", "Bearer opaque").do(http.MethodGet, "/v1/account", "").
		want(t, http.StatusUnauthorized, "or a signed JWT of your identity provider")
}

// TestInvitationsThatNobodyCanAccept are made, and warned of.
func TestInvitationsThatNobodyCanAccept(t *testing.T) {
	t.Parallel()
	const warning = `"warning":"nobody can sign in to accept it: set oidc in llm_gateway"`
	c := newClient(t, newGateway(t))
	c.do(http.MethodPost, "/v1/members", `{"email":"ann@example.com","role":"viewer"}`).want(t, http.StatusCreated, warning)
	c.do(http.MethodGet, "/v1/members", "").want(t, http.StatusOK, "ann@example.com").lacks(t, "warning")
	c.do(http.MethodPost, "/v1/organizations", `{"name":"A","owner_email":"ann@example.com"}`).want(t, http.StatusCreated, warning)
	c.do(http.MethodPost, "/v1/organizations", `{"name":"B"}`).want(t, http.StatusCreated).lacks(t, "warning")
	g, _ := signOn(t)
	newClient(t, g).do(http.MethodPost, "/v1/members", `{"email":"ann@example.com","role":"viewer"}`).
		want(t, http.StatusCreated).lacks(t, "warning")
}

// TestBrowsersAreShownPages: a person who logs in sees text, and a program JSON.
func TestBrowsersAreShownPages(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	b := loggedIn(t, g)
	show := func(target string) answer {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
		r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
		for _, cookie := range b.cookies {
			r.AddCookie(cookie)
		}
		w := httptest.NewRecorder()
		b.api.ServeHTTP(w, r)
		return answer{status: w.Code, header: w.Header(), body: w.Body.String()}
	}
	a := show(sessionPath).want(t, http.StatusOK, "Signed in", "ada@example.com", "Acme Inc. ("+otherOrg+"): owner")
	if kind, csp := a.header.Get("Content-Type"), a.header.Get("Content-Security-Policy"); kind != "text/html; charset=utf-8" || !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("Content-Type %q, Content-Security-Policy %q", kind, csp)
	}
	show(callbackPath+"?state=x&code=y").want(t, http.StatusBadRequest, "Not signed in", "begun in another browser", loginPath)
	show(loginPath+"?return_to=%3Cb%3E").want(t, http.StatusUnprocessableEntity, "expected a path").lacks(t, "<b>")
	if a := show(loginPath).want(t, http.StatusFound); a.body != "" || !strings.HasPrefix(a.header.Get("Location"), issuer.URL) {
		t.Errorf("Location %q: %s", a.header.Get("Location"), a.body)
	}
	b.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK, `"kind":"session"`)
}
