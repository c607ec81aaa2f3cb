package oidc

import (
	"errors"
	"fmt"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
)

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
			who, err := p.Identify(t.Context(), oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: issuer.Key()}, []byte(payload)))
			if err == nil && who.Subject != "mallory" {
				t.Errorf("is taken for %q", who.Subject)
			}
			if refused := errors.As(err, new(*Refusal)); refused == (name == "as it should be" || name == "an upper-case own") {
				t.Errorf("%v", err)
			}
		})
	}
}
