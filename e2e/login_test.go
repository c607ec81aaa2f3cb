package e2e

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// TestBrowserLogin logs in at a gateway with a browser, works there, and logs
// out.
func TestBrowserLogin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]providerConfig{
		"e-mail address in the token":          {},
		"e-mail address at the userinfo route": {claimsApart: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEachStore(t, func(t *testing.T, storage string) {
				p := startPortal(t, storage, c)
				t.Run("invitation", p.testInvitation)
				t.Run("request to the provider", p.testAuthorizeRequest)
				t.Run("cookies", p.testCookies)
				t.Run("forged requests", p.testForgedRequests)
				t.Run("another login", p.testSecondLogin)
				t.Run("logout", p.testLogout)
			})
		})
	}
}

// testInvitation checks that who is invited joins at the first login, by the
// name that the provider knows.
func (p portal) testInvitation(t *testing.T) {
	var invited, joined struct {
		Status string  `json:"status"`
		Name   *string `json:"name"`
	}
	member := "/v1/members/" + p.invite(t, "sub-olga", "owner")
	p.must(t, http.MethodGet, member, nil, &invited)
	if invited.Status != "invited" || invited.Name != nil {
		t.Errorf("before the login: %+v", invited)
	}
	p.logIn(t, "sub-olga")
	p.must(t, http.MethodGet, member, nil, &joined)
	if joined.Status != "joined" || joined.Name == nil || *joined.Name != people["sub-olga"].Name {
		t.Errorf("after the login: %+v", joined)
	}
}

// testAuthorizeRequest checks what the provider is asked: for a code, with PKCE
// by S256, without any secret in the browser.
func (p portal) testAuthorizeRequest(t *testing.T) {
	b := newBrowser(t, "sub-olga")
	b.visit(t, p.loginURL("/v1/account")).want(t, http.StatusOK, `"role":"owner"`)
	asked := b.at(t, "/auth").url.Query()
	for name, want := range map[string]string{
		"response_type": "^code$", "client_id": "^" + gatewayClient + "$", "redirect_uri": "^" + regexp.QuoteMeta(p.url+callbackPath) + "$",
		"code_challenge_method": "^S256$", "code_challenge": "^[A-Za-z0-9_-]{43}$", "scope": `\bopenid\b.*\bemail\b`,
		"state": "^.{22,}$", "nonce": "^.{22,}$", "client_secret": "^$", "code_verifier": "^$",
	} {
		if got := asked.Get(name); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	again := newBrowser(t, "sub-olga")
	again.visit(t, p.loginURL("/v1/account"))
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if asked.Get(name) == again.at(t, "/auth").url.Query().Get(name) {
			t.Errorf("two logins have the same %s", name)
		}
	}
}

// testCookies checks that no script and no other site gets at the cookies, and
// that the one of the login goes when that is over.
func (p portal) testCookies(t *testing.T) {
	b, _ := p.logIn(t, "sub-olga")
	for path, name := range map[string]string{"/v1/auth/login": loginCookie, callbackPath: sessionCookie} {
		c := b.at(t, path).cookie(name)
		if c == nil {
			t.Fatalf("%s sets no cookie", path)
		}
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge <= 0 || len(c.Value) < 43 {
			t.Errorf("the cookie is %s", c)
		}
	}
	if p.cookie(t, b, loginCookie) != "" {
		t.Error("the cookie of the login stays")
	}

	// Where browsers come by https, they must not send the cookies otherwise.
	behindTLS := startGateway(t, config{
		upstream: "http://127.0.0.1:1", extra: p.provider.block("redirect_url https://gateway.test" + callbackPath),
	})
	c := newBrowser(t, "sub-olga")
	c.visit(t, behindTLS.url+"/v1/auth/login")
	if cookie := c.at(t, "/v1/auth/login").cookie("__Host-" + loginCookie); cookie == nil || !cookie.Secure || !cookie.HttpOnly {
		t.Errorf("behind TLS the cookie is %v", cookie)
	}
}

// testForgedRequests checks that other sites' pages cannot use the session, and
// that its own can.
func (p portal) testForgedRequests(t *testing.T) {
	b, token := p.logIn(t, "sub-olga")
	_, another := p.logIn(t, "sub-olga")
	for name, r := range map[string]struct {
		header map[string]string
		status int
		says   string
	}{
		"no token":                        {nil, 403, "X-CSRF-Token"},
		"a wrong token":                   {map[string]string{"X-CSRF-Token": strings.Repeat("0", len(token))}, 403, "X-CSRF-Token"},
		"the token of another session":    {map[string]string{"X-CSRF-Token": another}, 403, "X-CSRF-Token"},
		"a form of another site":          {map[string]string{"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}, 403, "another site"},
		"another site that has the token": {map[string]string{"X-CSRF-Token": token, "Sec-Fetch-Site": "cross-site"}, 403, "another site"},
		"a sister site":                   {map[string]string{"X-CSRF-Token": token, "Sec-Fetch-Site": "same-site"}, 403, "another site"},
		"another origin":                  {map[string]string{"X-CSRF-Token": token, "Origin": "https://evil.test"}, 403, "another site"},
		"an own page":                     {map[string]string{"X-CSRF-Token": token, "Sec-Fetch-Site": "same-origin", "Origin": p.url}, 201, "sk-proxy-"},
		"an own page in an old browser":   {map[string]string{"X-CSRF-Token": token, "Origin": p.url}, 201, "sk-proxy-"},
	} {
		t.Run(name, func(t *testing.T) {
			b.send(t, http.MethodPost, p.url+"/v1/keys", `{"name":"a"}`, r.header).want(t, r.status, r.says)
		})
	}
	b.send(t, http.MethodPost, p.url+"/v1/auth/logout", "", nil).want(t, http.StatusForbidden, "X-CSRF-Token")
	b.visit(t, p.url+"/v1/account").want(t, http.StatusOK, `"role":"owner"`)
}

// testSecondLogin checks that a login ends the browser's session before it, and
// takes over no value that the browser came with.
func (p portal) testSecondLogin(t *testing.T) {
	b, _ := p.logIn(t, "sub-olga")
	first := p.cookie(t, b, sessionCookie)
	p.askWith(t, first).want(t, http.StatusOK, `"role":"owner"`)
	b.visit(t, p.loginURL("/v1/account")).want(t, http.StatusOK, `"role":"owner"`)
	if second := p.cookie(t, b, sessionCookie); second == first {
		t.Error("the session's cookie is the same after another login")
	}
	p.askWith(t, first).want(t, http.StatusUnauthorized, "your session has ended")

	planted := strings.Repeat("a1", 32)
	victim := newBrowser(t, "sub-olga")
	site, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	victim.http.Jar.SetCookies(site, []*http.Cookie{{Name: sessionCookie, Value: planted}})
	victim.visit(t, p.loginURL("/v1/account")).want(t, http.StatusOK, `"role":"owner"`)
	p.askWith(t, planted).want(t, http.StatusUnauthorized, "your session has ended")
}

func (p portal) testLogout(t *testing.T) {
	b, token := p.logIn(t, "sub-olga")
	value := p.cookie(t, b, sessionCookie)
	var out struct {
		LogoutURL string `json:"logout_url"`
	}
	b.send(t, http.MethodPost, p.url+"/v1/auth/logout", "", map[string]string{"X-CSRF-Token": token}).decode(t, &out)
	b.visit(t, p.url+"/v1/account").want(t, http.StatusUnauthorized, "")
	if p.cookie(t, b, sessionCookie) != "" {
		t.Error("the session's cookie stays")
	}
	p.askWith(t, value).want(t, http.StatusUnauthorized, "your session has ended")
	if place := b.visit(t, out.LogoutURL); place.status != http.StatusOK || !strings.HasPrefix(out.LogoutURL, p.provider.issuer+"/") {
		t.Errorf("logging out at the provider: %q: %s", out.LogoutURL, place)
	}
}
