package oidc

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
)

// Some readers take the first of two claims of one name, and others the last.
func TestClaimsThatAreThereTwice(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	p := New(Config{Issuer: issuer.URL, Audiences: []string{oidctest.ClientID}, EmailClaim: "mail", AllowUnverifiedEmail: true})
	rest := fmt.Sprintf(`"iss":%q,"exp":%d,"aud":"gateway","sub":"mallory"`, issuer.URL, time.Now().Add(time.Minute).Unix())
	for _, twice := range []string{
		`"sub":"ada"`, `"s\u0075b":"ada"`, `"aud":"other"`, `"iss":"` + issuer.URL + `"`, `"exp":9999999999`,
		`"azp":"a","azp":"b"`, `"nbf":1,"nbf":2`, `"iat":1,"iat":2`, `"nonce":"a","nonce":"b"`,
		`"email":"a@example.com","email":"b@example.com"`, `"email_verified":false,"email_verified":true`,
		`"mail":"a@example.com","mail":"b@example.com"`,
	} {
		t.Run(twice, func(t *testing.T) {
			t.Parallel()
			for _, payload := range []string{"{" + rest + "," + twice + "}", "{" + twice + "," + rest + "}"} {
				who, _, err := p.Identify(t.Context(), oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: issuer.Key()}, []byte(payload)))
				if refusal, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(refusal.Reason, "a claim is there twice") {
					t.Errorf("%+v, %v", who, err)
				}
			}
		})
	}
}

func TestTokensAreAcceptedUntilTheyExpire(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	p := New(Config{Issuer: issuer.URL, Audiences: []string{oidctest.ClientID}, EmailClaim: "email", ClockSkew: time.Minute})
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	for at, want := range map[float64]time.Time{
		float64(expires.Unix()):       expires.Add(time.Minute),
		float64(expires.Unix()) + 0.5: expires.Add(time.Minute + time.Second/2),
		1e300:                         time.Date(10000, 1, 1, 0, 0, 59, 0, time.UTC),
	} {
		_, until, err := p.Identify(t.Context(), issuer.Token(oidctest.Claims{"exp": at}))
		if err != nil || !until.Equal(want) {
			t.Errorf("expires at %v: accepted until %v, %v", at, until, err)
		}
	}
}

func TestClaimsThatDifferInCase(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	p := New(Config{Issuer: issuer.URL, Audiences: []string{oidctest.ClientID}, EmailClaim: "email"})
	for name, text := range map[string]string{
		"SUB":               `"aud":"gateway","sub":"mallory","SUB":"ada"`,
		"a long s":          `"aud":"gateway","sub":"mallory","ſub":"ada"`,
		"Sub alone":         `"aud":"gateway","Sub":"ada"`,
		"AUD":               `"aud":"another","sub":"mallory","AUD":"gateway"`,
		"as it should be":   `"aud":"gateway","sub":"mallory","Email-Verified":true`,
		"an upper-case own": `"aud":"gateway","sub":"mallory","ROLE":"owner"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			payload := fmt.Sprintf(`{"iss":%q,"exp":%d,%s}`, issuer.URL, time.Now().Add(time.Minute).Unix(), text)
			who, _, err := p.Identify(t.Context(), oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: issuer.Key()}, []byte(payload)))
			if err == nil && who.Subject != "mallory" {
				t.Errorf("is taken for %q", who.Subject)
			}
			if refused := errors.As(err, new(*Refusal)); refused == (name == "as it should be" || name == "an upper-case own") {
				t.Errorf("%v", err)
			}
		})
	}
}
