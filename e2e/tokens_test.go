package e2e

import (
	"net/http"
	"testing"
)

// TestTokens shows which tokens of a real provider open the management API, and
// that what is made from them does not.
func TestTokens(t *testing.T) {
	t.Parallel()
	p := startPortal(t, "", providerConfig{})
	p.join(t, "sub-vera", "viewer")
	elsewhere := startIdentityProvider(t, providerConfig{gateway: p.url})
	good := p.provider.issue(t, gatewayClient, "sub-vera", gatewayAudience)
	for name, token := range map[string]string{
		"an ID token":     good.IDToken,
		"an access token": good.AccessToken,
		"an access token that another app asks for": p.provider.issue(t, appClient, "sub-vera", gatewayAudience).AccessToken,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.bearer(t, token, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"viewer"`)
			p.bearer(t, token, http.MethodGet, "/v1/auth/session", "").want(t, http.StatusOK, `"kind":"bearer"`)
		})
	}

	refused := map[string]struct{ token, says string }{
		"expired":                       {p.provider.issue(t, staleClient, "sub-vera", gatewayAudience).AccessToken, "expired"},
		"an ID token for another app":   {p.provider.issue(t, appClient, "sub-vera", gatewayAudience).IDToken, "audience"},
		"an access token for elsewhere": {p.provider.issue(t, gatewayClient, "sub-vera", "https://elsewhere.test").AccessToken, "audience"},
		"of another issuer":             {elsewhere.issue(t, gatewayClient, "sub-vera", gatewayAudience).AccessToken, "issuer"},
		"no token at all":               {"a.b.c", "not a signed JWT"},
	}
	forged := map[string]string{
		"alg none":                  "not signed",
		"alg none, old signature":   "not signed",
		"no signature":              "not signed",
		"no third part":             "wrong operator token",
		"another's claims":          "signature of the token is wrong",
		"HS256 with the public key": "algorithm that is not accepted",
		"another key":               "signature of the token is wrong",
		"a key that it brings":      "key that the issuer does not have",
	}
	for kind, genuine := range map[string]string{"ID token": good.IDToken, "access token": good.AccessToken} {
		for name, token := range forgeries(t, genuine, p.provider.key(t)) {
			refused[kind+", "+name] = struct{ token, says string }{token, forged[name]}
		}
	}
	for name, r := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := p.bearer(t, r.token, http.MethodGet, "/v1/account", "")
			answer.want(t, http.StatusUnauthorized, r.says)
			if answer.header.Get("WWW-Authenticate") == "" || r.says == "" {
				t.Errorf("no WWW-Authenticate header, or no reason expected")
			}
		})
	}
}
