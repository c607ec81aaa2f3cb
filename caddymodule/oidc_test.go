package caddymodule

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"
)

func TestOIDCDefaults(t *testing.T) {
	t.Setenv("TEST_ISSUER", "https://id.example.com")
	got := &OIDC{Issuer: "{env.TEST_ISSUER}", ClientID: "gateway"}
	if err := got.provision(caddy.NewReplacer()); err != nil {
		t.Fatal(err)
	}
	want := &OIDC{
		Issuer: "https://id.example.com", ClientID: "gateway", Audience: []string{"gateway"},
		Scopes: []string{"openid", "email", "profile"}, EmailClaim: "email", ClockSkew: caddy.Duration(time.Minute),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestOIDCThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config OIDC
		want   string
	}{
		"no issuer":             {OIDC{ClientID: "x"}, "is not a URL"},
		"issuer in the clear":   {OIDC{Issuer: "http://id.example.com", ClientID: "x"}, "is not an https URL"},
		"issuer with a user":    {OIDC{Issuer: "https://a@id.example.com", ClientID: "x"}, "is not a URL"},
		"no audience":           {OIDC{Issuer: "https://id.example.com"}, "client_id or audience"},
		"audience not set":      {OIDC{Issuer: "https://id.example.com", Audience: []string{"{env.NOT_SET_AT_ALL}"}}, "client_id or audience"},
		"not OpenID Connect":    {OIDC{Issuer: "https://id.example.com", ClientID: "x", Scopes: []string{"email"}}, "openid is needed"},
		"clocks far apart":      {OIDC{Issuer: "https://id.example.com", ClientID: "x", ClockSkew: caddy.Duration(time.Hour)}, "clock_skew"},
		"redirect in the clear": {OIDC{Issuer: "https://id.example.com", ClientID: "x", RedirectURL: "http://gateway.example/"}, "redirect_url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.config.provision(caddy.NewReplacer())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	for _, local := range []string{"http://localhost:8080", "http://127.0.0.1:3000/realm", "http://[::1]:3000"} {
		o := OIDC{Issuer: local, ClientID: "x"}
		if err := o.provision(caddy.NewReplacer()); err != nil {
			t.Error(err)
		}
	}
}
