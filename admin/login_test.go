package admin

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/caddymodule"
)

// signOn returns a gateway that Ada, who owns acme, can sign in to, and the
// provider that she does so with.
func signOn(t *testing.T) (*testGateway, *oidctest.Issuer) {
	t.Helper()
	g, issuer := newGateway(t), oidctest.New(t)
	g.issuer = issuer
	g.oidc = &caddymodule.OIDC{
		Issuer: issuer.URL, ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret,
		Audience: []string{oidctest.ClientID}, Scopes: []string{"openid", "email"}, EmailClaim: "email",
		ClockSkew: caddy.Duration(time.Minute),
	}
	invite(t, g, otherOrg, "ada@example.com", billing.RoleOwner)
	return g, issuer
}

func invite(t *testing.T, g *testGateway, org, email string, role billing.Role) billing.Member {
	t.Helper()
	m := billing.Member{
		ID: billing.NewID("member", time.Now()), OrganizationID: org, Email: email, Role: role,
		InvitedBy: "test", CreatedAt: time.Now().UTC().Truncate(timeUnit),
	}
	if err := g.store.CreateMember(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// accept has somebody, with a subject at the provider, join by an invitation.
func accept(t *testing.T, g *testGateway, m billing.Member, subject string) {
	t.Helper()
	who := billing.Identity{Issuer: g.issuer.URL, Subject: subject, Email: m.Email}
	if _, err := g.store.AcceptInvitation(t.Context(), who, m.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// browser is a client that keeps cookies, and has no token.
type browser struct {
	client
	cookies map[string]*http.Cookie
	csrf    string
}

func newBrowser(t *testing.T, g *testGateway) *browser {
	t.Helper()
	b := &browser{client: newClient(t, g), cookies: make(map[string]*http.Cookie)}
	b.header = http.Header{}
	return b
}

func (b *browser) do(method, target, body string) answer {
	b.t.Helper()
	c := b.client
	c.header = c.header.Clone()
	for _, cookie := range b.cookies {
		c.header.Add("Cookie", cookie.Name+"="+cookie.Value)
	}
	if b.csrf != "" && method != http.MethodGet {
		c.header.Set(csrfHeader, b.csrf)
	}
	a := c.do(method, target, body)
	for _, cookie := range (&http.Response{Header: a.header}).Cookies() {
		if cookie.MaxAge < 0 {
			delete(b.cookies, cookie.Name)
		} else {
			b.cookies[cookie.Name] = cookie
		}
	}
	return a
}

// atProvider follows a redirect to the provider, and returns where that sends
// the browser back to.
func atProvider(t *testing.T, location string) string {
	t.Helper()
	follow := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, location, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := follow.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	back, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != http.StatusFound {
		t.Fatalf("the provider answers %s: %v", res.Status, err)
	}
	return back.RequestURI()
}

// login logs the browser in.
func (b *browser) login(returnTo string) answer {
	b.t.Helper()
	begun := b.do(http.MethodGet, loginPath+"?return_to="+url.QueryEscape(returnTo), "").want(b.t, http.StatusFound)
	return b.do(http.MethodGet, atProvider(b.t, begun.header.Get("Location")), "")
}

// loggedIn is a browser of Ada's.
func loggedIn(t *testing.T, g *testGateway) *browser {
	t.Helper()
	b := newBrowser(t, g)
	b.login("/").want(t, http.StatusFound)
	b.csrf = *decode[session](t, b.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK)).CSRFToken
	return b
}

func TestLoginInABrowser(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	b := newBrowser(t, g)
	done := b.login("/usage?from=2026-11-01").want(t, http.StatusFound)
	if got := done.header.Get("Location"); got != "/usage?from=2026-11-01" {
		t.Errorf("goes on at %q", got)
	}
	cookie := b.cookies[sessionCookie]
	if cookie == nil || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Secure || cookie.Domain != "" {
		t.Fatalf("the session's cookie is %v", cookie)
	}
	if b.cookies[loginCookie] != nil {
		t.Error("the login's cookie stays")
	}
	who := decode[session](t, b.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK))
	if who.CSRFToken == nil || who.ExpiresAt == nil || time.Until(*who.ExpiresAt) > billing.SessionLifetime {
		t.Errorf("session %+v", who)
	}
	who.CSRFToken, who.ExpiresAt = nil, nil
	want := session{
		Kind: "session", Issuer: &issuer.URL, Subject: new("ada"), Email: new("ada@example.com"), Name: new("Ada"),
		Organizations: []membership{{ID: otherOrg, Name: "Acme Inc.", Role: billing.RoleOwner}},
	}
	if diff := cmp.Diff(want, who); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`, `"role":"owner"`)
}

func TestLoginReturnsToTheGatewayOnly(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	for _, place := range []string{
		"https://evil.example/", "//evil.example/", `/\evil.example`, `\/evil.example`, "evil.example", "javascript:alert(1)",
		"/a\nb", "http:/evil", "\t//evil.example", "/\t/evil.example", "%zz",
	} {
		newBrowser(t, g).do(http.MethodGet, loginPath+"?return_to="+url.QueryEscape(place), "").
			want(t, http.StatusUnprocessableEntity, "query.return_to")
	}
}

func TestLoginThatIsNotTheBrowsers(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	begin := func(b *browser) string {
		return atProvider(t, b.do(http.MethodGet, loginPath, "").want(t, http.StatusFound).header.Get("Location"))
	}
	victim, attacker := newBrowser(t, g), newBrowser(t, g)
	back := begin(attacker)
	victim.do(http.MethodGet, back, "").want(t, http.StatusBadRequest, "another browser")
	begin(victim)
	victim.do(http.MethodGet, back, "").want(t, http.StatusBadRequest, "another browser")
	attacker.do(http.MethodGet, back, "").want(t, http.StatusBadRequest) // it is over

	b := newBrowser(t, g)
	back = begin(b)
	cookie := b.cookies[loginCookie]
	b.do(http.MethodGet, back, "").want(t, http.StatusFound)
	b.cookies[loginCookie] = cookie
	b.do(http.MethodGet, back, "").want(t, http.StatusBadRequest, "this login is over") // once
	for _, query := range []string{"", "?state=x&code=y", "?code=y", "?state=" + billing.NewNonce()} {
		b.do(http.MethodGet, callbackPath+query, "").want(t, http.StatusBadRequest)
	}

	back = begin(b)
	other := strings.Replace(back, "code=", "code=x", 1)
	b.do(http.MethodGet, other, "").want(t, http.StatusUnauthorized, "does not accept the login's code")

	stateOf := func(target string) string {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query().Get("state")
	}
	state := stateOf(begin(b))
	b.do(http.MethodGet, callbackPath+"?error=access_denied&state="+state, "").want(t, http.StatusUnauthorized, "access_denied")
	state = stateOf(begin(b))
	b.do(http.MethodGet, callbackPath+"?code=x&iss=https%3A%2F%2Fother.example&state="+state, "").
		want(t, http.StatusUnauthorized, "another identity provider")
	if b.cookies[sessionCookie] == nil || len(b.cookies) != 2 || issuer.Asked("/token") != 2 {
		t.Errorf("cookies %v, %d codes were exchanged", b.cookies, issuer.Asked("/token"))
	}
}

func TestLoginsInTwoTabs(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := newBrowser(t, g)
	first := b.do(http.MethodGet, loginPath+"?return_to=/a", "").header.Get("Location")
	second := b.do(http.MethodGet, loginPath+"?return_to=/b", "").header.Get("Location")
	cookie := b.cookies[loginCookie]
	b.do(http.MethodGet, atProvider(t, second), "").want(t, http.StatusFound)
	b.cookies[loginCookie] = cookie // both were under way
	if got := b.do(http.MethodGet, atProvider(t, first), "").want(t, http.StatusFound).header.Get("Location"); got != "/a" {
		t.Errorf("goes on at %q", got)
	}
}

func TestLoginOfSomebodyWhoIsNotInvited(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	for want, user := range map[string]oidctest.Claims{
		"ask for an invitation to bob@example.com": {"sub": "bob", "email": "bob@example.com", "email_verified": true},
		"verify your e-mail address":               {"sub": "mallory", "email": "ada@example.com", "email_verified": false},
	} {
		issuer.SetUser(user)
		b := newBrowser(t, g)
		b.login("/").want(t, http.StatusForbidden, want)
		if b.cookies[sessionCookie] != nil {
			t.Error("has a session")
		}
	}
}

func TestLoginAsksForTheAddressThatIsNotInTheToken(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	issuer.TellByUserinfo()
	loggedIn(t, g).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	if issuer.Asked("/userinfo") != 1 {
		t.Error("the provider was not asked")
	}
	issuer.SetUser(oidctest.Claims{"sub": "mallory", "email": "ada@example.com", "email_verified": false})
	newBrowser(t, g).login("/").want(t, http.StatusForbidden, "verify your e-mail address")
	for _, twice := range []string{
		`"email":"mallory@example.com","email":"ada@example.com","email_verified":true`,
		`"email":"ada@example.com","email_verified":false,"email_verified":true`,
	} {
		issuer.TellText(`{"sub":"mallory",` + twice + `}`)
		newBrowser(t, g).login("/").want(t, http.StatusServiceUnavailable, "identity provider")
	}
}

// Google, for one, sends more than the standard names.
func TestLoginIgnoresWhatElseTheProviderSends(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := newBrowser(t, g)
	begun := b.do(http.MethodGet, loginPath, "").want(t, http.StatusFound)
	back := atProvider(t, begun.header.Get("Location"))
	b.do(http.MethodGet, back+"&authuser=0&hd=example.com&prompt=consent", "").want(t, http.StatusFound)
	b.do(http.MethodGet, loginPath+"?authuser=0", "").want(t, http.StatusUnprocessableEntity, "authuser")
}

func TestLoginWhileTheProviderIsAway(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	issuer.SetAway(true)
	a := newBrowser(t, g).do(http.MethodGet, loginPath, "").want(t, http.StatusServiceUnavailable, "identity provider does not answer")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestLoginWithoutAProvider(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	g.oidc = nil
	newBrowser(t, g).do(http.MethodGet, loginPath, "").want(t, http.StatusNotFound, "no login in a browser")
	newClient(t, g).with("Authorization", "Bearer "+issuer.Token(nil)).do(http.MethodGet, "/v1/account", "").
		want(t, http.StatusUnauthorized)
}

func TestCookiesOnHTTPS(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	g.oidc.RedirectURL = "https://gateway.example" + callbackPath
	b := newBrowser(t, g)
	b.login("/").want(t, http.StatusFound)
	cookie := b.cookies["__Host-"+sessionCookie]
	if cookie == nil || !cookie.Secure || !cookie.HttpOnly || cookie.Path != "/" || cookie.Domain != "" {
		t.Fatalf("the session's cookie is %v", cookie)
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	b.cookies = map[string]*http.Cookie{sessionCookie: {Name: sessionCookie, Value: cookie.Value}}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
}

func TestLoginsAreLimited(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := newBrowser(t, g)
	for range 30 {
		b.do(http.MethodGet, loginPath, "").want(t, http.StatusFound)
	}
	a := b.do(http.MethodGet, loginPath, "").want(t, http.StatusTooManyRequests, "too many attempts")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestRedirectURLIsTheCallers(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://gateway.example"+loginPath, http.NoBody)
	w := httptest.NewRecorder()
	New(g).ServeHTTP(w, r)
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil || u.Query().Get("redirect_uri") != "https://gateway.example/v1/auth/callback" {
		t.Errorf("status %d, location %s: %v", w.Code, u, err)
	}
	if !strings.HasPrefix(w.Header().Get("Set-Cookie"), "__Host-"+loginCookie+"=") {
		t.Errorf("cookie %s", w.Header().Get("Set-Cookie"))
	}
}
