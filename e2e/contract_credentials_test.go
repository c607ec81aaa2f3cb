package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// keyPlaces is where a request may have its proxy key, on each provider's
// routes. Anywhere else it is no key: the request is refused for want of one.
var keyPlaces = []struct {
	place                     string
	header, query             string
	openAI, anthropic, gemini bool
}{
	{"Authorization: Bearer", "Authorization: Bearer KEY", "", true, true, true},
	{"authorization: bearer", "authorization: bearer KEY", "", true, true, true},
	{"AUTHORIZATION: BEARER", "AUTHORIZATION: BEARER KEY", "", true, true, true},
	{"x-api-key", "x-api-key: KEY", "", true, true, true},
	{"x-goog-api-key", "x-goog-api-key: KEY", "", true, true, true},
	{"?key=", "", "key=KEY", false, false, true},
	{"among other parameters", "", "a=1&key=KEY&b=%2F", false, false, true},

	{"another parameter", "", "api_key=KEY", false, false, false},
	{"Authorization without a scheme", "Authorization: KEY", "", false, false, false},
	{"Authorization: Basic", "Authorization: Basic KEY", "", false, false, false},
	{"x-api-key with a scheme", "x-api-key: Bearer KEY", "", false, false, false},
	{"Proxy-Authorization", "Proxy-Authorization: Bearer KEY", "", false, false, false},
	{"Cookie", "Cookie: key=KEY", "", false, false, false},
	{"nowhere", "", "", false, false, false},
}

// credentials is what the provider gets instead: its own credential, in its own
// header. TestRequestsReachTheProviderAsSent has all other headers.
var credentials = map[string]http.Header{
	"openai":    {"Authorization": {"Bearer " + providerKey}},
	"anthropic": {"X-Api-Key": {providerKey}},
	"gemini":    {"X-Goog-Api-Key": {providerKey}},
}

// keyPrecedence is which of several keys counts: the first place of the order
// Authorization, x-api-key, x-goog-api-key, ?key= that has a proxy key.
var keyPrecedence = []struct {
	name    string
	headers []string
	query   string
	// counts is the name of the key; or the error, if none does.
	counts string
}{
	{"Authorization before x-api-key", []string{"x-api-key: SECOND", "Authorization: Bearer FIRST"}, "", "first"},
	{"Authorization before x-goog-api-key", []string{"x-goog-api-key: SECOND", "Authorization: Bearer FIRST"}, "", "first"},
	{"Authorization before ?key=", []string{"Authorization: Bearer FIRST"}, "key=SECOND", "first"},
	{"x-api-key before x-goog-api-key", []string{"x-goog-api-key: SECOND", "x-api-key: FIRST"}, "", "first"},
	{"x-api-key before ?key=", []string{"x-api-key: FIRST"}, "key=SECOND", "first"},
	{"x-goog-api-key before ?key=", []string{"x-goog-api-key: FIRST"}, "key=SECOND", "first"},
	{"a token of others is no key", []string{"Authorization: Bearer sk-proj-1234", "x-api-key: FIRST"}, "", "first"},
	{"others' tokens in all headers", []string{"Authorization: Bearer sk-proj-1234", "x-api-key: sk-ant-1234", "x-goog-api-key: AIza1234"}, "key=FIRST", "first"},
	{"an unknown key is a key", []string{"Authorization: Bearer UNKNOWN", "x-api-key: FIRST"}, "", "invalid proxy key"},
}

// testCredentials tries all places, and all orders, with the sandbox's echo of
// what arrived.
func (c *contract) testCredentials(t *testing.T) {
	g := c.healthy
	key := g.createKey(t, "first", nil).Key
	second := g.createKey(t, "second", nil).Key
	fill := strings.NewReplacer("KEY", key, "FIRST", key, "SECOND", second, "UNKNOWN", unknownKey)

	for _, tt := range keyPlaces {
		for provider, accepted := range map[string]bool{"openai": tt.openAI, "anthropic": tt.anthropic, "gemini": tt.gemini} {
			t.Run(tt.place+"/"+provider, func(t *testing.T) {
				t.Parallel()
				a := g.echo(t, provider, fill.Replace(tt.query), fill.Replace(tt.header))
				if !accepted {
					a.checkRefused(t, mustFindCheck(t, "missing proxy key"))
					return
				}
				a.checkEcho(t, credentials[provider], withoutKey(tt.query))
				if strings.Contains(string(a.body), key) {
					t.Error("the proxy key reached the provider")
				}
			})
		}
	}
	for _, tt := range keyPrecedence {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var headers []string
			for _, h := range tt.headers {
				headers = append(headers, fill.Replace(h))
			}
			a := g.echo(t, "gemini", fill.Replace(tt.query), headers...)
			if tt.counts == "invalid proxy key" {
				a.checkRefused(t, mustFindCheck(t, tt.counts))
				return
			}
			a.checkEcho(t, credentials["gemini"], withoutKey(tt.query))
			if row := g.mustAudit(t, a.header.Get("X-Request-Id")); row.KeyName != tt.counts {
				t.Errorf("the key %q counts, want %q", row.KeyName, tt.counts)
			}
		})
	}
	t.Run("a path of nobody's, without a key", func(t *testing.T) {
		res, body := g.send(t, "", http.MethodGet, "/unknown/v1/models", nil, nil)
		if res.Header.Get("X-Gateway-Error") != "" || len(body) != 0 {
			t.Errorf("the gateway answered %q instead of the next handler", body)
		}
	})
}

// echo asks a provider's echo, with headers as in HTTP.
func (n *node) echo(t *testing.T, provider, query string, headers ...string) answer {
	t.Helper()
	path := map[string]string{"openai": "/v1/echo", "anthropic": "/v1/echo", "gemini": "/v1beta/echo"}[provider]
	r := proxyRequest{method: http.MethodGet, provider: provider, path: path + "?" + query, header: http.Header{}}
	for _, h := range headers {
		if name, value, ok := strings.Cut(h, ": "); ok {
			r.header[name] = []string{value} // in the case that it is written in
		}
	}
	a, err := r.send(t.Context(), n.url)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// checkEcho fails the test unless these credentials, and none else, arrived,
// and the query without the key.
func (a answer) checkEcho(t *testing.T, credentials http.Header, query string) {
	t.Helper()
	var arrived sandbox.Echo
	if err := json.Unmarshal(a.body, &arrived); err != nil || a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	got := http.Header{}
	for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Proxy-Authorization", "Cookie"} {
		if values := arrived.Headers.Values(name); len(values) > 0 {
			got[name] = values
		}
	}
	if diff := gocmp.Diff(credentials, got); diff != "" {
		t.Errorf("credentials that arrived (-want +got):\n%s", diff)
	}
	if arrived.Query != query {
		t.Errorf("the query %q arrived, want %q", arrived.Query, query)
	}
}

// withoutKey is a query of the tables as the provider must get it.
func withoutKey(query string) string {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(part, "="); name != "key" && part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}
