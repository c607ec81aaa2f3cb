package oidc

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
	"github.com/caddy-llm-gateway/gateway/billing"
)

func newProvider(t *testing.T) (*Provider, *oidctest.Issuer) {
	t.Helper()
	issuer := oidctest.New(t)
	return New(Config{
		Issuer: issuer.URL, ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret,
		Audiences: []string{oidctest.ClientID, "https://api.example.com"}, Scopes: []string{"openid"},
		EmailClaim: "email", ClockSkew: time.Minute,
	}), issuer
}

func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func TestTokensThatAreAccepted(t *testing.T) {
	t.Parallel()
	p, issuer := newProvider(t)
	ada := billing.Identity{Issuer: issuer.URL, Subject: "ada", Email: "ada@example.com", Name: "Ada"}
	nameless, kelvin, spaced := ada, ada, ada
	nameless.Email = ""
	// Neither is the address that it would be in lower case, or trimmed.
	kelvin.Email, spaced.Email = "\u212aim@example.com", "\u00a0ada@example.com"
	for name, test := range map[string]struct {
		changes oidctest.Claims
		want    billing.Identity
	}{
		"plain":                             {nil, ada},
		"of several audiences":              {oidctest.Claims{"aud": []string{"other", "https://api.example.com"}}, ada},
		"expired within the clock skew":     {oidctest.Claims{"exp": in(-30 * time.Second)}, ada},
		"not yet valid within the skew":     {oidctest.Claims{"nbf": in(30 * time.Second), "iat": in(30 * time.Second)}, ada},
		"verified in text":                  {oidctest.Claims{"email_verified": "true"}, ada},
		"address in upper case":             {oidctest.Claims{"email": " Ada@Example.COM "}, ada},
		"address not verified":              {oidctest.Claims{"email_verified": false}, nameless},
		"address not said to be verified":   {oidctest.Claims{"email_verified": nil}, nameless},
		"verified by something like true":   {oidctest.Claims{"email_verified": 1}, nameless},
		"address with a Kelvin sign":        {oidctest.Claims{"email": "\u212aim@example.com"}, kelvin},
		"address after a no-break space":    {oidctest.Claims{"email": "\u00a0ada@example.com"}, spaced},
		"address that no store could keep":  {oidctest.Claims{"email": "a\x00@example.com"}, nameless},
		"address of a megabyte":             {oidctest.Claims{"email": strings.Repeat("a", 9000) + "@example.com"}, nameless},
		"address that is a list":            {oidctest.Claims{"email": []string{"ada@example.com"}}, nameless},
		"name that is not a text":           {oidctest.Claims{"name": 7}, billing.Identity{Issuer: ada.Issuer, Subject: "ada", Email: ada.Email}},
		"issued with fractions of a second": {oidctest.Claims{"iat": 1.5, "exp": float64(in(time.Minute)) + 0.5}, ada},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _, err := p.Identify(t.Context(), issuer.Token(test.changes))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddressesThatTheProviderDoesNotVerify(t *testing.T) {
	t.Parallel()
	p, issuer := newProvider(t)
	token := issuer.Token(oidctest.Claims{"email_verified": nil, "mail": "countess@example.com"})
	for _, test := range []struct {
		claim string
		allow bool
		want  string
	}{
		{"email", false, ""},
		{"email", true, "ada@example.com"},
		{"mail", true, "countess@example.com"},
	} {
		p.config.EmailClaim, p.config.AllowUnverifiedEmail = test.claim, test.allow
		got, _, err := p.Identify(t.Context(), token)
		if err != nil || got.Email != test.want {
			t.Errorf("claim %s, allowed %t: %q, %v", test.claim, test.allow, got.Email, err)
		}
	}
	// What is verified is the claim email, not another.
	p.config.EmailClaim, p.config.AllowUnverifiedEmail = "mail", false
	got, _, err := p.Identify(t.Context(), issuer.Token(oidctest.Claims{"mail": "countess@example.com"}))
	if err != nil || got.Email != "" {
		t.Errorf("another claim: %q, %v", got.Email, err)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	p, issuer := newProvider(t)
	stranger := oidctest.New(t)
	payload := func(changes oidctest.Claims) []byte {
		part := strings.Split(issuer.Token(changes), ".")[1]
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	key := issuer.Key()
	public := key.Public()
	der, err := x509.MarshalPKIXPublicKey(public.Key)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(secret []byte) string {
		return oidctest.Sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: public.KeyID}}, payload(nil))
	}
	good := issuer.Token(nil)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	none := b64([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	impostor := stranger.Key()
	impostor.KeyID = public.KeyID
	notice := b64([]byte(`{"alg":"ES256","kid":"`+public.KeyID+`","typ":"logout+jwt"}`)) + "." + parts[1] + "." + parts[2]
	for name, test := range map[string]struct{ token, want string }{
		"expired":                       {issuer.Token(oidctest.Claims{"exp": in(-2 * time.Minute)}), "the token has expired"},
		"expired long ago":              {issuer.Token(oidctest.Claims{"exp": 1}), "the token has expired"},
		"never expires":                 {issuer.Token(oidctest.Claims{"exp": nil}), "does not say when it expires"},
		"expires at a text":             {issuer.Token(oidctest.Claims{"exp": "tomorrow"}), "malformed"},
		"not yet valid":                 {issuer.Token(oidctest.Claims{"nbf": in(2 * time.Minute)}), "not valid yet"},
		"not valid before a text":       {issuer.Token(oidctest.Claims{"nbf": "tomorrow"}), "malformed"},
		"from the future":               {issuer.Token(oidctest.Claims{"iat": in(2 * time.Minute)}), "not valid yet"},
		"valid in an eternity":          {issuer.Token(oidctest.Claims{"nbf": 1e18}), "not valid yet"},
		"of another audience":           {issuer.Token(oidctest.Claims{"aud": "other"}), "another audience"},
		"of no audience":                {issuer.Token(oidctest.Claims{"aud": nil}), "another audience"},
		"of a part of an audience":      {issuer.Token(oidctest.Claims{"aud": "gate"}), "another audience"},
		"of another issuer":             {stranger.Token(nil), "another issuer"},
		"says that it is ours":          {stranger.Token(oidctest.Claims{"iss": issuer.URL}), "the signature of the token is wrong"},
		"issuer with a slash":           {issuer.Token(oidctest.Claims{"iss": issuer.URL + "/"}), "another issuer"},
		"no issuer":                     {issuer.Token(oidctest.Claims{"iss": nil}), "another issuer"},
		"no subject":                    {issuer.Token(oidctest.Claims{"sub": nil}), "names no subject"},
		"subject with a NUL":            {issuer.Token(oidctest.Claims{"sub": "a\x00"}), "names no subject"},
		"alg none":                      {none, "is not signed"},
		"alg nOnE":                      {b64([]byte(`{"alg":"nOnE"}`)) + "." + parts[1] + "." + parts[2], "is not signed"},
		"no alg":                        {b64([]byte(`{}`)) + "." + parts[1] + "." + parts[2], "an algorithm that is not accepted"},
		"signature cut off":             {parts[0] + "." + parts[1] + ".", "is not signed"},
		"signature of another":          {parts[0] + "." + parts[1] + "." + strings.Split(issuer.Token(oidctest.Claims{"sub": "eve"}), ".")[2], "the signature of the token is wrong"},
		"signature of nothing":          {parts[0] + "." + parts[1] + "." + b64([]byte("x")), "the signature of the token is wrong"},
		"payload replaced":              {parts[0] + "." + b64(bytes.Replace(payload(nil), []byte(`"ada"`), []byte(`"eve"`), 1)) + "." + parts[2], "the signature of the token is wrong"},
		"HS256 with the public key":     {mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "an algorithm that is not accepted"},
		"HS256 with the key as JSON":    {mac(jwk), "an algorithm that is not accepted"},
		"key of a stranger, known name": {oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: impostor}, payload(nil)), "the signature of the token is wrong"},
		"key that nobody knows": {
			oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: impostor.Key, KeyID: "who"}}, payload(nil)),
			"a key that the issuer does not have",
		},
		"notice of a logout": {notice, "neither an ID token nor an access token"},
		"notice without a type": {
			issuer.Token(oidctest.Claims{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}),
			"neither an ID token nor an access token",
		},
		"two megabytes": {parts[0] + "." + strings.Repeat("A", 2<<20) + "." + parts[2], "larger than 16 KiB"},
		"no token":      {"a.b.c", "not a signed JWT"},
		"five parts":    {good + ".x.y", "not a signed JWT"},
		"empty parts":   {"..", "not a signed JWT"},
		"null":          {b64([]byte("null")) + "." + b64([]byte("null")) + ".x", "not a signed JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who, _, err := p.Identify(t.Context(), test.token)
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok || !strings.Contains(refusal.Reason, test.want) {
				t.Fatalf("%+v, error %v, want %q", who, err, test.want)
			}
			for _, secret := range []string{"ada", "example.com", issuer.URL} {
				if strings.Contains(refusal.Reason, secret) {
					t.Errorf("%q tells of %s", refusal.Reason, secret)
				}
			}
		})
	}
}

func TestKeysOfTheProvider(t *testing.T) {
	t.Parallel()
	p, issuer := newProvider(t)
	identify := func(token string) error {
		_, _, err := p.Identify(t.Context(), token)
		return err
	}
	before := issuer.Token(nil)
	for range 3 {
		if err := identify(before); err != nil {
			t.Fatal(err)
		}
	}
	if asked := issuer.Asked("/keys"); asked != 1 {
		t.Errorf("asked %d times for its keys", asked)
	}
	issuer.Rotate()
	if err := identify(issuer.Token(nil)); err != nil {
		t.Errorf("with the next key: %v", err)
	}
	if err := identify(before); err == nil {
		t.Error("a key that is no longer there is accepted")
	}

	asked := issuer.Asked("/keys")
	unknown := oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: issuer.Key().Key, KeyID: "who"}},
		[]byte(`{"iss":"`+issuer.URL+`"}`))
	for range 100 {
		if err := identify(unknown); err == nil {
			t.Fatal("a key that nobody knows is accepted")
		}
	}
	if more := issuer.Asked("/keys") - asked; more > 5 {
		t.Errorf("tokens with made-up keys made it ask %d times", more)
	}

	// A key that was taken back is not believed for longer than this.
	issuer.Rotate()
	old := p.now
	p.now = func() time.Time { return old().Add(refreshAfter + time.Second) }
	if err := identify(issuer.Token(oidctest.Claims{"exp": in(time.Hour)})); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

func TestProviderThatIsAway(t *testing.T) {
	t.Parallel()
	p, issuer := newProvider(t)
	var later time.Duration
	p.now = func() time.Time { return time.Now().Add(later) }
	token := issuer.Token(oidctest.Claims{"exp": in(10 * time.Hour)})
	identify := func() error {
		_, _, err := p.Identify(t.Context(), token)
		return err
	}
	issuer.SetAway(true)
	if err := identify(); !errors.Is(err, ErrAway) {
		t.Fatalf("at first: %v", err)
	}
	if err := identify(); !errors.Is(err, ErrAway) || issuer.Asked("/.well-known/openid-configuration") != 1 {
		t.Errorf("within a second it is asked again: %v", err)
	}
	issuer.SetAway(false)
	later = 2 * tryAgainAfter
	if err := identify(); err != nil {
		t.Fatalf("when it is back: %v", err)
	}
	issuer.SetAway(true)
	later += refreshAfter
	if err := identify(); err != nil {
		t.Errorf("away for a while: %v", err)
	}
	later += staleAfter
	if err := identify(); !errors.Is(err, ErrAway) {
		t.Errorf("away for long: %v", err)
	}
}

func TestProviderThatIsAnother(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	for name, url := range map[string]string{
		"with a slash":   issuer.URL + "/",
		"not there":      issuer.URL + "/realm",
		"nobody listens": "http://127.0.0.1:1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := New(Config{Issuer: url, Audiences: []string{oidctest.ClientID}, EmailClaim: "email"})
			if _, _, err := p.Identify(t.Context(), issuer.Token(oidctest.Claims{"iss": url})); !errors.Is(err, ErrAway) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	endless := bounded{roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: endlessBody{}}, nil
	})}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://id.example", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := endless.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var read bytes.Buffer
	if n, err := read.ReadFrom(res.Body); n != maxDocument || err != nil {
		t.Errorf("read %d bytes: %v", n, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type endlessBody struct{}

func (endlessBody) Read(p []byte) (int, error) { return len(p), nil }
func (endlessBody) Close() error               { return nil }
