package e2e

import (
	"net/http"
	"testing"
	"time"
)

// TestIdentityProviderIsAway starts a gateway while its identity provider is
// away, and stops that provider again and again.
func TestIdentityProviderIsAway(t *testing.T) {
	t.Parallel()
	p := startPortal(t, "", providerConfig{})
	p.invite(t, "sub-olga", "owner")
	const away = "the identity provider does not answer"
	old := p.provider.issue(t, gatewayClient, "sub-olga", gatewayAudience).IDToken

	p.provider.stop()
	newBrowser(t, "sub-olga").visit(t, p.loginURL("/v1/account")).want(t, http.StatusServiceUnavailable, away)
	p.bearer(t, old, http.MethodGet, "/v1/account", "").want(t, http.StatusServiceUnavailable, away)
	p.bearer(t, adminToken, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"operator"`)

	p.provider.start(t)
	p.awaitProvider(t)
	b, _ := p.logIn(t, "sub-olga")
	first := p.provider.issue(t, gatewayClient, "sub-olga", gatewayAudience).IDToken
	p.bearer(t, first, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"owner"`)

	// What is known goes on without the provider, and only that.
	late, callback := p.beginLogin(t, "sub-olga")
	p.provider.stop()
	b.visit(t, p.url+"/v1/account").want(t, http.StatusOK, `"role":"owner"`)
	p.bearer(t, first, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"owner"`)
	late.visit(t, callback.String()).want(t, http.StatusServiceUnavailable, away)
	if p.cookie(t, late, sessionCookie) != "" {
		t.Error("there is a session of a login that nobody has confirmed")
	}

	// It comes back with other keys: tokens of these work at once, and those of
	// the old ones no longer.
	p.provider.start(t)
	second := p.provider.issue(t, gatewayClient, "sub-olga", gatewayAudience).IDToken
	p.bearer(t, second, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"owner"`)
	p.bearer(t, first, http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "key that the issuer does not have")
	p.logIn(t, "sub-olga")
}

// awaitProvider returns when the gateway has noticed that its provider is back.
func (p portal) awaitProvider(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		b := newBrowser(t, "sub-olga")
		b.stopAt = p.provider.issuer
		if b.visit(t, p.loginURL("/")).status == http.StatusFound {
			return
		}
	}
	t.Fatal("the gateway does not see that the provider is back after 20 s")
}
