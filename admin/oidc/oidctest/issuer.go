// Package oidctest is an OpenID Connect provider for tests, which lets everybody
// in and errs as it is told to.
package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// The client that the provider knows.
const (
	ClientID     = "gateway"
	ClientSecret = "client-secret"
)

// Claims are what a token says.
type Claims = map[string]any

// Issuer is a provider.
type Issuer struct {
	URL string

	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	key    jose.JSONWebKey
	serial int
	away   bool
	user   Claims
	// userinfo keeps the e-mail address out of tokens.
	userinfo bool
	// told is what that one says, in the place of the user's claims.
	told  string
	codes map[string]url.Values // the requests that they answer
	asked map[string]int        // by path
}

// New returns a provider with one key. Ada logs in there.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{
		t: t, codes: make(map[string]url.Values), asked: make(map[string]int),
		user: Claims{"sub": "ada", "email": "ada@example.com", "email_verified": true, "name": "Ada"},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /keys", i.keys)
	mux.HandleFunc("GET /authorize", i.authorize)
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("GET /userinfo", i.tellUser)
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.asked[r.URL.Path]++
		if i.away {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.server.Close)
	i.URL = i.server.URL
	i.Rotate()
	return i
}

// Rotate replaces the key that tokens are signed with.
func (i *Issuer) Rotate() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serial++
	i.key = jose.JSONWebKey{Key: private, KeyID: fmt.Sprint("key-", i.serial), Algorithm: string(jose.ES256), Use: "sig"}
}

// SetAway makes the provider fail, or answer again.
func (i *Issuer) SetAway(away bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away = away
}

// SetUser changes who logs in.
func (i *Issuer) SetUser(c Claims) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.user = c
}

// TellByUserinfo makes the provider tell of e-mail addresses at its userinfo
// endpoint alone. Its tokens go on to say that one is verified.
func (i *Issuer) TellByUserinfo() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.userinfo = true
}

// TellText makes the userinfo endpoint answer a text.
func (i *Issuer) TellText(text string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.told = text
}

// Asked is how often a path was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// Key is the key that tokens are signed with.
func (i *Issuer) Key() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.key
}

// Token is a token of the user's for the gateway, with other claims as given; nil
// takes one away.
func (i *Issuer) Token(changes Claims) string {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.sign(changes)
}

func (i *Issuer) sign(changes Claims) string {
	i.t.Helper()
	c := i.claims(changes)
	text, err := json.Marshal(c)
	if err != nil {
		i.t.Fatal(err)
	}
	return Sign(i.t, jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, text)
}

func (i *Issuer) claims(changes Claims) Claims {
	now := time.Now().Unix()
	c := Claims{"iss": i.URL, "aud": ClientID, "iat": now, "exp": now + 300}
	maps.Copy(c, i.user)
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// Sign signs a token.
func Sign(t testing.TB, key jose.SigningKey, payload []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, Claims{
		"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize",
		"token_endpoint": i.URL + "/token", "userinfo_endpoint": i.URL + "/userinfo",
		"end_session_endpoint": i.URL + "/logout",
	})
}

func (i *Issuer) keys(w http.ResponseWriter, _ *http.Request) {
	answer(w, Claims{"keys": []any{i.key.Public(), Claims{"kty": "unknown", "kid": "other"}}})
}

func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	code := rand.Text()
	i.codes[code] = q
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || q.Get("client_id") != ClientID || q.Get("code_challenge_method") != "S256" || q.Get("response_type") != "code" {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {i.URL}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	code := r.FormValue("code")
	asked, ok := i.codes[code]
	delete(i.codes, code)
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if !ok || id != ClientID || secret != ClientSecret || r.FormValue("redirect_uri") != asked.Get("redirect_uri") ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant"}`))
		return
	}
	changes := Claims{"nonce": asked.Get("nonce")}
	if i.userinfo {
		changes["email"], changes["email_verified"] = nil, true
	}
	answer(w, Claims{"access_token": "access", "token_type": "Bearer", "id_token": i.sign(changes)})
}

func (i *Issuer) tellUser(w http.ResponseWriter, _ *http.Request) {
	if i.told == "" {
		answer(w, i.user)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(i.told))
}

func answer(w http.ResponseWriter, c Claims) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c)
}
