package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the provider knows.
const (
	// gatewayClient is the gateway, with its secret.
	gatewayClient = "llm-gateway"
	gatewaySecret = "client-secret-for-tests"
	// appClient is another application of the same provider.
	appClient = "another-app"
	// staleClient gets access tokens that have expired an hour ago.
	staleClient = "stale-app"
	// gatewayAudience is the gateway as a resource that access tokens are for.
	gatewayAudience = "https://llm-gateway.test/api"
	// appRedirect is where a test takes codes from; nothing listens there.
	appRedirect = "http://127.0.0.1:1/app"

	callbackPath = "/v1/auth/callback"
)

// person is what the provider says about an account.
type person struct {
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
	Name          string `json:"name"`
}

// people are the provider's accounts, by subject.
var people = map[string]person{
	"sub-olga":  {"olga@acme.test", true, "Olga Owner"},
	"sub-adam":  {"adam@acme.test", true, "Adam Admin"},
	"sub-dora":  {"dora@acme.test", true, "Dora Developer"},
	"sub-frank": {"frank@acme.test", true, "Frank Finance"},
	"sub-vera":  {"vera@acme.test", true, "Vera Viewer"},
	// Mallory says that she is Adam, which the provider has not verified.
	"sub-mallory": {"adam@acme.test", false, "Mallory"},
	// Norman is nobody's member.
	"sub-norman": {"norman@elsewhere.test", true, "Norman Nobody"},
}

// identityProvider is an OpenID provider: js/oidc.mjs.
type identityProvider struct {
	issuer string
	env    string
	cmd    *exec.Cmd
	stderr *bytes.Buffer
}

// providerConfig is what differs between the providers of this suite.
type providerConfig struct {
	// gateway is the URL of the gateway that users log in at; empty for none.
	gateway string
	// claimsApart leaves the e-mail address to the userinfo endpoint.
	claimsApart bool
}

func startIdentityProvider(t *testing.T, c providerConfig) *identityProvider {
	t.Helper()
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	type client struct {
		ID         string   `json:"client_id"`
		Secret     string   `json:"client_secret,omitempty"`
		AuthMethod string   `json:"token_endpoint_auth_method"`
		Redirects  []string `json:"redirect_uris"`
	}
	redirects := []string{appRedirect}
	if c.gateway != "" {
		redirects = append(redirects, c.gateway+callbackPath)
	}
	// Another host name than the gateway's: to browsers it is another site.
	p := &identityProvider{issuer: "http://localhost:" + port}
	env, err := json.Marshal(map[string]any{
		"issuer": p.issuer, "accounts": people, "stale": staleClient, "claimsApart": c.claimsApart,
		"clients": []client{
			{gatewayClient, gatewaySecret, "client_secret_basic", redirects},
			{appClient, "", "none", []string{appRedirect}},
			{staleClient, "", "none", []string{appRedirect}},
		},
	})
	if err != nil {
		t.Fatalf("encode environment: %v", err)
	}
	p.env = string(env)
	p.start(t)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("identity provider said:\n%s", p.stderr)
		}
	})
	return p
}

// start starts the provider, again too: at the same address, with new keys.
func (p *identityProvider) start(t *testing.T) {
	t.Helper()
	p.stderr = new(bytes.Buffer)
	p.cmd = exec.Command(nodeJS(t), filepath.Join("js", "oidc.mjs"))
	p.cmd.Env = append(os.Environ(), "OIDC="+p.env)
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("start the identity provider: %v", err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start the identity provider: %v", err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		p.stop()
		t.Fatalf("the identity provider does not start: %q, %v\n%s", line, err, p.stderr)
	}
}

func (p *identityProvider) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()         // by that signal
}

// issued is what a client was given.
type issued struct {
	IDToken     string `json:"id_token"`
	AccessToken string `json:"access_token"`
}

// issue logs an account in for a client, without the gateway. The access token
// is for the audience.
func (p *identityProvider) issue(t *testing.T, clientID, account, audience string) issued {
	t.Helper()
	verifier := rand.Text() + rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	b := newBrowser(t, account)
	page := b.visit(t, p.issuer+"/auth?"+url.Values{
		"client_id": {clientID}, "redirect_uri": {appRedirect}, "response_type": {"code"}, "scope": {"openid email profile"},
		"resource": {audience}, "state": {"x"}, "nonce": {"y"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	code := page.url.Query().Get("code")
	if code == "" {
		t.Fatalf("no code for %s: %s", clientID, page)
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {appRedirect}, "code_verifier": {verifier},
	}
	if clientID != gatewayClient {
		form.Set("client_id", clientID)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if clientID == gatewayClient {
		req.SetBasicAuth(gatewayClient, gatewaySecret)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var tokens issued
	if err := json.NewDecoder(res.Body).Decode(&tokens); err != nil || tokens.IDToken == "" || tokens.AccessToken == "" {
		t.Fatalf("no tokens for %s: %s, %v", clientID, res.Status, err)
	}
	return tokens
}

// key is the public key that signs the provider's tokens, as a JWK.
type publicKey struct {
	Type string `json:"kty"`
	ID   string `json:"kid"`
	N    string `json:"n"`
	E    string `json:"e"`
}

func (p *identityProvider) key(t *testing.T) publicKey {
	t.Helper()
	res, err := client.Get(p.issuer + "/jwks")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var set struct {
		Keys []publicKey `json:"keys"`
	}
	if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
		t.Fatalf("read the provider's keys: %v", err)
	}
	for _, k := range set.Keys {
		if k.Type == "RSA" {
			return k
		}
	}
	t.Fatalf("no RSA key among %v", set.Keys)
	return publicKey{}
}
