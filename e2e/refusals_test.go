package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestBadRequestsAreRefused sends what must not reach a provider, and must
// cost nothing.
func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		g := startGateway(t, config{
			storage: storage, upstream: provider.url,
			extra: "max_body 1MiB\n\t\tprovider spare {\n\t\t\tprotocol openai\n\t\t\tbase_url " + provider.url + "\n\t\t}",
		})
		g.buyCredits(t, "starter")
		good := g.createKey(t, "good", nil)
		narrow := g.createKey(t, "narrow", map[string]any{
			"allowed_providers": []string{"openai"}, "allowed_models": []string{"gpt-4o*"},
		})
		elsewhere := g.createKey(t, "elsewhere", map[string]any{"allowed_ips": []string{"192.0.2.0/24"}})
		limited := g.createKey(t, "limited", map[string]any{"usage_limit_dollars": "0.000001", "usage_limit_reset": "daily"})

		const chat = "/openai/v1/chat/completions"
		const hello = `{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}`
		tests := map[string]struct {
			path, key, body string
			status          int
			message         string
		}{
			"no key":                      {chat, "", hello, 401, "missing proxy key"},
			"the operator's token":        {chat, adminToken, hello, 401, "missing proxy key"},
			"an unknown key":              {chat, "sk-proxy-" + strings.Repeat("f", 64), hello, 401, "invalid proxy key"},
			"another address":             {chat, elsewhere.Key, hello, 403, "ip_blocked"},
			"a provider without a key":    {"/spare/v1/chat/completions", good.Key, hello, 400, "provider not configured"},
			"a provider not allowed":      {"/anthropic/v1/messages", narrow.Key, `{"model": "claude-haiku-4-5", "max_tokens": 1, "messages": []}`, 403, "provider_not_allowed"},
			"a model not allowed":         {chat, narrow.Key, strings.Replace(hello, "gpt-4o", "gpt-5-mini", 1), 403, "model_not_allowed"},
			"OpenAI, half a body":         {chat, good.Key, hello[:40], 400, "invalid request body"},
			"OpenAI, not JSON":            {chat, good.Key, "model=gpt-4o", 400, "invalid request body"},
			"OpenAI, no body":             {chat, good.Key, "", 400, "invalid request body"},
			"Anthropic, half a body":      {"/anthropic/v1/messages", good.Key, `{"model": "claude-haiku-4-5"`, 400, "invalid request body"},
			"Gemini, half a body":         {"/gemini/v1beta/models/gemini-2.5-flash:generateContent", good.Key, `{"contents": [`, 400, "invalid request body"},
			"a model without a price":     {chat, good.Key, strings.Replace(hello, "gpt-4o", "gpt-unheard-of", 1), 400, "model not priced"},
			"more than the key may spend": {chat, limited.Key, hello, 403, "spend_exceeded"},
			"a body above the limit":      {chat, good.Key, hello + strings.Repeat(" ", 2<<20), 413, "request body too large"},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				before := provider.hits.Load()
				res, body := g.send(t, tt.key, http.MethodPost, tt.path, strings.NewReader(tt.body),
					map[string]string{"Content-Type": "application/json"})
				var answer struct {
					Error string `json:"error"`
				}
				if err := json.Unmarshal(body, &answer); err != nil {
					t.Errorf("body %q is not the error shape: %v", body, err)
				}
				if res.StatusCode != tt.status || answer.Error != tt.message {
					t.Errorf("got %d %q, want %d %q", res.StatusCode, answer.Error, tt.status, tt.message)
				}
				if got := res.Header.Get("X-Gateway-Error"); got != tt.message {
					t.Errorf("X-Gateway-Error = %q, want %q", got, tt.message)
				}
				if provider.hits.Load() != before {
					t.Error("the request reached the provider")
				}
				g.checkNotCharged(t, res.Header.Get("X-Request-Id"))
			})
		}
		t.Run("a proxy key on a management route", func(t *testing.T) {
			if res, _ := g.send(t, good.Key, http.MethodGet, "/v1/account", nil, nil); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("status %d, want 401", res.StatusCode)
			}
		})
		g.checkBooksBalance(t)
	})
}
