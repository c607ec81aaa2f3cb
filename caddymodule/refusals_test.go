package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestRefusals(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	good := n.key(t, nil)
	limited := func(change func(*billing.Key)) string { return n.key(t, change) }
	none := metering.Money(0)
	revoked := limited(func(k *billing.Key) { k.RevokedAt = time.Now(); k.ExpiresAt = time.Now() })
	expired := limited(func(k *billing.Key) { k.ExpiresAt = time.Now(); k.AllowedIPs = []string{"10.0.0.1"} })
	elsewhere := limited(func(k *billing.Key) { k.AllowedIPs = []string{"10.0.0.0/8", "2001:db8::1"} })
	openaiOnly := limited(func(k *billing.Key) { k.AllowedProviders = []string{"openai"} })
	mini := limited(func(k *billing.Key) { k.AllowedModels = []string{"gpt-4o-mini", "gpt-5*"} })
	rated := limited(func(k *billing.Key) { k.RateLimitRPM = 1; k.UsageLimit = &none })
	spent := limited(func(k *billing.Key) { k.UsageLimit = &none })
	for _, test := range []struct {
		name, method, path, key, body string
		headers                       []string
		status                        int
		want                          string
	}{
		{"provider that nobody knows", "POST", "/nope/v1/x", good, hello, nil, 400, "unknown provider"},
		{"no key", "POST", chat, "", hello, nil, 401, "missing proxy key"},
		{"somebody else's credential", "POST", chat, "sk-1234", hello, nil, 401, "missing proxy key"},
		{"malformed key", "POST", chat, "sk-proxy-xyz", hello, nil, 401, "invalid proxy key"},
		{"unknown key", "POST", chat, unknownKey, hello, nil, 401, "invalid proxy key"},
		{"revoked, also expired", "POST", chat, revoked, hello, nil, 403, "key_revoked"},
		{"expired, also from elsewhere", "POST", chat, expired, hello, nil, 403, "key_expired"},
		{"from elsewhere", "POST", chat, elsewhere, hello, nil, 403, "ip_blocked"},
		{"from elsewhere, to no provider", "POST", "/keyless/chat/completions", elsewhere, hello, nil, 403, "ip_blocked"},
		{"provider without credential", "POST", "/keyless/chat/completions", openaiOnly, hello, nil, 400, "provider not configured"},
		{"provider not for this key", "POST", messages, openaiOnly, "{", nil, 403, "provider_not_allowed"},
		{"model not for this key", "POST", chat, mini, hello, nil, 403, "model_not_allowed"},
		{"no model, with a limited key", "POST", "/openai/v1/batches", mini, "{}", nil, 403, "model_not_allowed"},
		{"model in the path, not for this key", "POST", "/gemini/v1beta/models/gemini-2.5-pro:generateContent", mini, "{", nil, 403, "model_not_allowed"},
		{"malformed JSON", "POST", chat, good, `{"model":`, nil, 400, "invalid request body"},
		{"model twice", "POST", chat, good, `{"model":"gpt-4o-mini","model":"gpt-4o","messages":[]}`, nil, 400, "invalid request body"},
		{"empty body", "POST", chat, good, "", nil, 400, "invalid request body"},
		{"large body", "POST", chat, good, `{"model":"` + strings.Repeat("x", 200<<10) + `"}`, nil, 413, "request body too large"},
		{"path that resolves elsewhere", "POST", "/openai/v1/files/%2e%2e/chat/completions", good, hello, nil, 400, "invalid request path"},
		{"path with an escaped slash after the provider", "POST", "/openai%2Fv1%2Fchat/completions", good, hello, nil, 400, "invalid request path"},
		{"path with an escaped slash after the version", "POST", "/openai/v1%2Fchat/completions", good, hello, nil, 400, "invalid request path"},
		{"path with an escaped version", "GET", "/openai/%76%31/models", good, "", nil, 400, "invalid request path"},
		{"path with a key", "GET", "/openai/v1/models/" + unknownKey, good, "", nil, 400, "invalid request path"},
		{"path with an escaped key", "GET", "/openai/v1/models/%73k-proxy%2d" + unknownKey[9:], good, "", nil, 400, "invalid request path"},
		{"free at OpenAI, not at another", "POST", "/local/moderations", good, `{"model":"m","input":"x"}`, nil, 400, "model not priced"},
		{"upload that is free at OpenAI", "POST", "/local/files", good, "x", []string{"Content-Type", "text/plain"}, 400, "model not priced"},
		{"no model, free at OpenAI only", "POST", "/local/conversations", mini, "{}", nil, 403, "model_not_allowed"},
		{"model without a price", "POST", chat, good, fmt.Sprintf(helloTo, "gpt-99"), nil, 400, "model not priced"},
		{"endpoint without a price", "POST", "/openai/v1/images/generations", good, `{"model":"dall-e-3"}`, nil, 400, "model not priced"},
		{"background response", "POST", "/openai/v1/responses", good, `{"model":"gpt-4o","input":"x","background":true}`, nil, 400, "model not priced"},
		{"key spend used up", "POST", chat, spent, hello, nil, 403, "spend_exceeded"},
		{"first of a minute", "POST", chat, rated, hello, nil, 403, "spend_exceeded"},
		{"second of a minute", "POST", chat, rated, hello, nil, 429, "rate_limited"},
		{"more than the credits", "POST", chat, good, strings.Replace(hello, "{", `{"max_tokens":1000000,`, 1), nil, 403, "insufficient_credits"},
		{"provider that is away", "POST", "/unreachable/chat/completions", good, hello, nil, 502, "upstream request failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := n.do(t, test.method, test.path, test.key, test.body, test.headers...)
			var got struct{ Error, Message string }
			if err := json.Unmarshal([]byte(read(t, res)), &got); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != test.status || got.Error != test.want {
				t.Errorf("answer %d %q, want %d %q", res.StatusCode, got.Error, test.status, test.want)
			}
			if got := res.Header.Get("X-Gateway-Error"); got != test.want {
				t.Errorf("X-Gateway-Error %q, want %q", got, test.want)
			}
			if (test.status == 429) != (res.Header.Get("Retry-After") != "") {
				t.Errorf("status %d with Retry-After %q", test.status, res.Header.Get("Retry-After"))
			}
			if (test.want == "model not priced") != (got.Message != "") {
				t.Errorf("%q with message %q", test.want, got.Message)
			}
			id := res.Header.Get("X-Request-Id")
			if id == "" {
				t.Error("no X-Request-Id")
			}
			if test.status == 401 || test.want == "unknown provider" {
				return // nobody's request
			}
			if row := n.row(t, id); row.Status != test.status || row.Error != test.want || row.Cost != 0 {
				t.Errorf("audit row has status %d, error %q, cost %s", row.Status, row.Error, row.Cost)
			}
		})
	}
	if served := n.sandbox.Totals(); served.Requests != 0 {
		t.Errorf("the provider was sent %d refused requests", served.Requests)
	}
}

func TestErrorsHaveTheShapeThatTheSDKsParse(t *testing.T) {
	n := start(t, "error_format provider")
	key := n.key(t, nil)
	for _, test := range []struct{ path, body, want string }{
		{chat, hello, `{"error":{"code":"insufficient_credits","message":"insufficient_credits","param":null,"type":"permission_error"}}`},
		{messages, claude, `{"error":{"code":"insufficient_credits","message":"insufficient_credits","type":"permission_error"},"type":"error"}`},
		{"/gemini/v1beta/models/gemini-2.5-pro:generateContent", `{"contents":[]}`, `{"error":{"code":403,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"insufficient_credits"}],"message":"insufficient_credits","status":"PERMISSION_DENIED"}}`},
		{"/local/chat/completions", `{`, `{"error":{"code":"invalid request body","message":"invalid request body","param":null,"type":"invalid_request_error"}}`},
	} {
		res := n.do(t, "POST", test.path, key, test.body)
		if diff := cmp.Diff(test.want, read(t, res)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.path, diff)
		}
		if res.Header.Get("X-Gateway-Error") == "" {
			t.Errorf("%s: no X-Gateway-Error", test.path)
		}
	}
}

func TestUnpricedPolicies(t *testing.T) {
	for _, test := range []struct {
		policy string
		cost   bool
		rule   string
	}{{"ceiling", true, "ceiling/openai"}, {"record", false, ruleUnpriced}} {
		t.Run(test.policy, func(t *testing.T) {
			n := start(t, "unpriced "+test.policy)
			n.buy(t, 100*metering.USD)
			key := n.key(t, nil)
			for _, path := range []string{chat, "/openai/v1/images/generations"} {
				res := n.do(t, "POST", path, key, fmt.Sprintf(helloTo, "gpt-99"))
				row := n.row(t, res.Header.Get("X-Request-Id"))
				if res.StatusCode != 200 && path == chat || (row.Cost > 0) != (test.cost && res.StatusCode == 200) || row.PriceRuleID != test.rule {
					t.Errorf("%s: status %d, cost %s, rule %q", path, res.StatusCode, row.Cost, row.PriceRuleID)
				}
			}
		})
	}
}
