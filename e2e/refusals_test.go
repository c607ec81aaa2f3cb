package e2e

import (
	"net/http"
	"testing"
)

// testRefusals tries what else deserves an error of the table.
func (c *contract) testRefusals(t *testing.T) {
	body := func(text string) func(*proxyRequest) { return func(r *proxyRequest) { r.body = text } }
	tests := map[string]struct {
		protocol string
		situation
		error string
	}{
		"the operator's token":             {"openai", situation{request: withKey(adminToken)}, "missing proxy key"},
		"a provider's own key":             {"openai", situation{request: withKey("sk-proj-0123456789")}, "missing proxy key"},
		"half a key":                       {"openai", situation{request: withKey(unknownKey[:40])}, "invalid proxy key"},
		"an unknown provider, bad key":     {"openai", situation{request: together(toProvider("unknown"), withKey(unknownKey))}, "unknown provider"},
		"only the trusted proxy's address": {"openai", situation{change: fields{"allowed_ips": []string{"127.0.0.1"}}}, "ip_blocked"},
		"another model of the provider":    {"openai", situation{change: fields{"allowed_models": []string{"gpt-4o", "claude-*"}}}, "model_not_allowed"},
		"not JSON":                         {"openai", situation{request: body("model=gpt-4o")}, "invalid request body"},
		"no body":                          {"openai", situation{request: body("")}, "invalid request body"},
		"a list":                           {"openai", situation{request: body("[]")}, "invalid request body"},
		"the model twice":                  {"openai", situation{request: body(`{"model": "gpt-4o-mini", "model": "gpt-4o", "messages": []}`)}, "invalid request body"},
		"a limit that is no number":        {"anthropic", situation{request: body(`{"model": "claude-haiku-4-5", "max_tokens": "all", "messages": []}`)}, "invalid request body"},
		"more than the key may spend":      {"openai", situation{key: fields{"usage_limit_dollars": "0.000001"}}, "spend_exceeded"},
		"more than the budget":             {"openai", situation{organization: fields{"max_dollars": "0.000001"}}, "budget_exceeded"},
		"a key's limit before a budget":    {"openai", situation{key: fields{"usage_limit_dollars": "0.000001"}, organization: fields{"max_dollars": "0.000001"}}, "spend_exceeded"},
		"a background response of a key":   {"openai", situation{request: together(func(r *proxyRequest) { r.path = "/v1/responses" }, body(`{"model": "gpt-4o-mini", "input": "hello", "background": true}`))}, "model not priced"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := mustFindCheck(t, tt.error)
			a, err := c.ask(t.Context(), marked(goodRequests[tt.protocol]), tt.situation)
			if err != nil {
				t.Fatal(err)
			}
			a.checkRefused(t, want)
			c.checkAuditRow(t, a, want)
		})
	}
	t.Run("the client's address behind a trusted proxy is allowed", func(t *testing.T) {
		a, err := c.ask(t.Context(), goodRequests["openai"], situation{change: fields{"allowed_ips": []string{"192.0.2.0/24"}}})
		if err != nil || a.status != http.StatusOK {
			t.Errorf("status %d: %s: %v", a.status, a.body, err)
		}
	})
	t.Run("a proxy key on a management route", func(t *testing.T) {
		key := c.healthy.createKey(t, "elsewhere", nil)
		if res, _ := c.healthy.send(t, key.Key, http.MethodGet, "/v1/account", nil, nil); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d, want 401", res.StatusCode)
		}
	})
	t.Run("the operator's token on a proxy route that is free", func(t *testing.T) {
		if res, _ := c.healthy.send(t, adminToken, http.MethodGet, "/openai/v1/models", nil, nil); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d, want 401", res.StatusCode)
		}
	})
}
