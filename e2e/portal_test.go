package e2e

import (
	"net/http"
	"strings"
	"testing"
)

const (
	// acme is the organization that people log in to.
	acme = "acme"

	sessionCookie = "llm_gateway_session"
	loginCookie   = "llm_gateway_login"
)

// portal is a gateway where people log in with an identity provider.
type portal struct {
	*gateway
	provider *identityProvider
}

// startPortal starts a gateway with an identity provider, and the organization
// acme without members.
func startPortal(t *testing.T, storage string, c providerConfig) portal {
	t.Helper()
	address := freeAddress(t)
	c.gateway = "http://" + address
	provider := startIdentityProvider(t, c)
	g := startGateway(t, config{
		storage: storage, address: address, upstream: "http://127.0.0.1:1", global: trustedProxy, extra: provider.block(""),
	})
	g.must(t, http.MethodPost, "/v1/organizations", map[string]string{"id": acme, "name": "Acme Inc."}, nil)
	return portal{gateway: g.as(acme), provider: provider}
}

// trustedProxy makes a gateway believe the proxy that browsers come through.
const trustedProxy = "servers {\n trusted_proxies static 127.0.0.1/32\n }"

// block is the block of llm_gateway that makes a gateway trust the provider.
func (p *identityProvider) block(options string) string {
	return `oidc {
		issuer ` + p.issuer + `
		client_id ` + gatewayClient + `
		client_secret ` + gatewaySecret + `
		audience ` + gatewayClient + ` ` + gatewayAudience + `
		` + options + `
	}`
}

// loginURL is where a browser begins a login that ends at a path.
func (p portal) loginURL(returnTo string) string {
	return p.url + "/v1/auth/login?return_to=" + returnTo
}

// logIn returns the browser of a person who has logged in, and the token that
// its pages send along.
func (p portal) logIn(t *testing.T, account string) (b *browser, csrfToken string) {
	t.Helper()
	b = newBrowser(t, account)
	landed := b.visit(t, p.loginURL("/v1/auth/session"))
	if landed.status != http.StatusOK || landed.url.Path != "/v1/auth/session" {
		t.Fatalf("%s does not get in: %s", account, landed)
	}
	var session struct {
		CSRFToken string `json:"csrf_token"`
	}
	landed.decode(t, &session)
	if session.CSRFToken == "" {
		t.Fatalf("no token: %s", landed)
	}
	return b, session.CSRFToken
}

// cookie is the value of a cookie that the browser has for the gateway.
func (p portal) cookie(t *testing.T, b *browser, name string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.http.Jar.Cookies(req.URL) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// askWith asks with the value of a session's cookie, without a browser.
func (p portal) askWith(t *testing.T, session string) page {
	t.Helper()
	return p.ask(t, http.MethodGet, "/v1/account", "", map[string]string{"Cookie": sessionCookie + "=" + session})
}

// join invites a person, who accepts, and returns the member's id and a token.
func (p portal) join(t *testing.T, account, role string) (memberID, token string) {
	t.Helper()
	memberID = p.invite(t, account, role)
	token = p.provider.issue(t, gatewayClient, account, gatewayAudience).IDToken
	p.bearer(t, token, http.MethodPost, "/v1/invitations/"+memberID+"/accept", "").want(t, http.StatusOK, `"status":"joined"`)
	return memberID, token
}

// bearer asks with a token, from an address of its own.
func (p portal) bearer(t *testing.T, token, method, path, body string) page {
	t.Helper()
	return p.ask(t, method, path, body, map[string]string{"Authorization": "Bearer " + token, "X-Forwarded-For": newAddress()})
}

func (p portal) ask(t *testing.T, method, path, body string, header map[string]string) page {
	t.Helper()
	if body != "" {
		header["Content-Type"] = "application/json"
	}
	res, text := p.send(t, "", method, path, strings.NewReader(body), header)
	return page{url: res.Request.URL, status: res.StatusCode, header: res.Header, body: string(text)}
}
