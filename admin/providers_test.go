package admin

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/caddymodule"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestProvidersAreListed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	c.do(http.MethodGet, "/v1/providers", "").want(t, http.StatusOK, `"data":[]`)
	g.providers = []caddymodule.ProviderStatus{
		{Name: "keyless", Protocol: metering.OpenAI, BaseURL: "http://127.0.0.1:1/v1", Breaker: "closed", Outcomes: map[string]int{}},
		{
			Name: "openai", Protocol: metering.OpenAI, BaseURL: "https://api.openai.com/v1", Configured: true,
			Breaker: "open", Consecutive: 10, OpenedAt: day(1, 12), RetryAt: day(1, 12).Add(30 * time.Second),
			Requests: 12, Failures: 10, Outcomes: map[string]int{"ok": 2, "server_error": 10},
			Credentials: []caddymodule.CredentialStatus{
				{Label: "default", Weight: 1, Requests: 7, Failures: 3},
				{Label: "team", Weight: 3, RestingUntil: day(1, 13), Reason: "rate_limited", Requests: 20, Failures: 1},
			},
		},
	}
	c.do(http.MethodGet, "/v1/providers", "").want(t, http.StatusOK,
		`"name":"keyless","protocol":"openai","base_url":"http://127.0.0.1:1/v1","configured":false,`+
			`"breaker":{"state":"closed","consecutive_failures":0,"opened_at":null,"retry_at":null}`,
		`"credentials":[]`,
		`"breaker":{"state":"open","consecutive_failures":10,"opened_at":"2026-11-01T12:00:00Z","retry_at":"2026-11-01T12:00:30Z"}`,
		`"last_minute":{"requests":12,"failures":10,"outcomes":{"ok":2,"server_error":10}}`,
		`"credentials":[{"label":"default","weight":1,"resting_until":null,"reason":null,"requests":7,"failures":3},`+
			`{"label":"team","weight":3,"resting_until":"2026-11-01T13:00:00Z","reason":"rate_limited","requests":20,"failures":1}]`)
}
