package e2e

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
)

// TestLoginRefusals tries to get in, or to get others in, by other ways than the
// login.
func TestLoginRefusals(t *testing.T) {
	t.Parallel()
	p := startPortal(t, "", providerConfig{})
	p.invite(t, "sub-olga", "owner")
	for name, test := range map[string]func(*testing.T){
		"return elsewhere": p.testReturnElsewhere, "callback": p.testCallbackRefusals,
		"people": p.testStrangers, "too often": p.testTooManyLogins,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// testReturnElsewhere checks that a link to the login cannot lead to another
// site afterwards.
func (p portal) testReturnElsewhere(t *testing.T) {
	for _, place := range []string{
		"https://evil.test/", "//evil.test", "///evil.test", `/\evil.test`, `\\evil.test`, "/\t/evil.test", "\n//evil.test", "evil.test",
		"javascript:alert(1)", "https:evil.test", "http:///evil.test", "//olga@evil.test/",
	} {
		b := newBrowser(t, "sub-olga")
		b.visit(t, p.loginURL(url.QueryEscape(place))).want(t, http.StatusUnprocessableEntity, "query.return_to")
		if p.cookie(t, b, sessionCookie) != "" {
			t.Errorf("%q: there is a session", place)
		}
	}
	b := newBrowser(t, "sub-olga")
	landed := b.visit(t, p.loginURL(url.QueryEscape("/v1/audit?limit=7")))
	if landed.want(t, http.StatusOK, `"data"`); landed.url.String() != p.url+"/v1/audit?limit=7" {
		t.Errorf("returned to %s", landed.url)
	}
}

// beginLogin logs in at the provider, and returns the callback that the browser
// is sent to and has not followed.
func (p portal) beginLogin(t *testing.T, account string) (b *browser, callback *url.URL) {
	t.Helper()
	b = newBrowser(t, account)
	b.stopAt = p.url + callbackPath
	callback = b.visit(t, p.loginURL("/v1/account")).url
	if callback.Path != callbackPath || callback.Query().Get("state") == "" {
		t.Fatalf("the provider sends the browser to %s", callback)
	}
	b.stopAt = appRedirect
	return b, callback
}

// testCallbackRefusals comes back from the provider in other ways than it sends
// browsers.
func (p portal) testCallbackRefusals(t *testing.T) {
	over := "this login is over, or was begun in another browser"
	for name, tt := range map[string]struct {
		parameter, value string
		status           int
		says             string
	}{
		"another state":       {"state", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 400, over},
		"no state":            {"state", "", 400, over},
		"another code":        {"code", "a-code-that-was-never-issued", 401, "does not accept the login's code"},
		"no code":             {"code", "", 401, "did not log you in: it has sent no code"},
		"another issuer":      {"iss", "https://evil.test", 401, "another identity provider"},
		"an error beside all": {"error", "access_denied", 401, "did not log you in: access_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			b, callback := p.beginLogin(t, "sub-olga")
			q := callback.Query()
			q.Set(tt.parameter, tt.value)
			callback.RawQuery = q.Encode()
			b.visit(t, callback.String()).want(t, tt.status, tt.says)
			if p.cookie(t, b, sessionCookie) != "" {
				t.Error("there is a session")
			}
		})
	}
	t.Run("replayed", func(t *testing.T) {
		b, callback := p.beginLogin(t, "sub-olga")
		b.visit(t, callback.String()).want(t, http.StatusOK, `"role":"owner"`)
		b.visit(t, callback.String()).want(t, http.StatusBadRequest, over)
		b.visit(t, p.url+"/v1/account").want(t, http.StatusOK, `"role":"owner"`) // the session goes on
	})
	t.Run("in another browser", func(t *testing.T) {
		attacker, callback := p.beginLogin(t, "sub-olga")
		victim, _ := p.beginLogin(t, "sub-olga")
		victim.visit(t, callback.String()).want(t, http.StatusBadRequest, over)
		if p.cookie(t, victim, sessionCookie) != "" {
			t.Error("the victim is logged in as the attacker")
		}
		attacker.visit(t, callback.String()).want(t, http.StatusBadRequest, over) // it was used up
	})
	t.Run("cancelled", func(t *testing.T) {
		newBrowser(t, "").visit(t, p.loginURL("/v1/account")).want(t, http.StatusUnauthorized, "did not log you in: access_denied")
	})
}

// testStrangers sends people to the login whom the provider knows and acme does
// not.
func (p portal) testStrangers(t *testing.T) {
	p.invite(t, "sub-adam", "owner")
	for account, says := range map[string]string{
		"sub-mallory": "have your identity provider verify your e-mail address",
		"sub-norman":  "ask for an invitation",
	} {
		b := newBrowser(t, account)
		b.visit(t, p.loginURL("/v1/account")).want(t, http.StatusForbidden, says)
		if p.cookie(t, b, sessionCookie) != "" {
			t.Errorf("%s has a session", account)
		}
		for _, token := range []string{
			p.provider.issue(t, gatewayClient, account, gatewayAudience).IDToken,
			p.provider.issue(t, appClient, account, gatewayAudience).AccessToken,
		} {
			p.bearer(t, token, http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, says)
		}
	}
	p.logIn(t, "sub-adam") // the invitation is still his
}

// testTooManyLogins checks that logins are limited, for one address.
func (p portal) testTooManyLogins(t *testing.T) {
	b := newBrowser(t, "sub-olga")
	b.stopAt = p.provider.issuer
	var refused page
	for range 100 {
		if refused = b.visit(t, p.loginURL("/")); refused.status != http.StatusFound {
			break
		}
	}
	refused.want(t, http.StatusTooManyRequests, "too many attempts from your address")
	if wait, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
		t.Errorf("Retry-After is %q", refused.header.Get("Retry-After"))
	}
	p.logIn(t, "sub-olga")
}
