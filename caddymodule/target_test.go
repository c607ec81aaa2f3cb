package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// startRouted runs a gateway with two more providers, of which b is three
// times as dear as a, and with routes to them.
func startRouted(t *testing.T, routes string) *node {
	t.Helper()
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	t.Cleanup(upstream.Close)
	var options strings.Builder
	for name, price := range map[string]int{"a": 1, "b": 3} {
		fmt.Fprintf(&options, "provider %[1]s {\nprotocol openai\napi_key provider-secret\nbase_url %[2]s/v1\n}\n"+
			"price %[1]s gpt-4o* {\ninput %[3]d\noutput %[3]d\n}\n", name, upstream.URL, price)
	}
	n.load(t, t.TempDir(), upstream.URL, options.String()+routes)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestModelsLeadToProviders(t *testing.T) {
	n := startRouted(t, "route fast {\na/gpt-4o-mini\n}")
	n.buy(t, metering.USD)
	all := n.key(t, nil)
	onlyB := n.key(t, func(k *billing.Key) { k.AllowedProviders = []string{"b"} })
	mini := n.key(t, func(k *billing.Key) { k.AllowedModels = []string{"gpt-4o-mini"} })
	ofA := n.key(t, func(k *billing.Key) { k.AllowedModels = []string{"a/*"} })
	fast := n.key(t, func(k *billing.Key) { k.AllowedModels = []string{"fast"} })
	none := metering.Money(0)
	spent := n.key(t, func(k *billing.Key) { k.UsageLimit = &none })
	for _, test := range []struct {
		name, model, key string
		want             string // provider and model, or an error
	}{
		{"provider and model", "a/gpt-4o", all, "a gpt-4o"},
		{"another provider", "openai/gpt-4o", all, "openai gpt-4o"},
		{"inferred", "gpt-4o", all, "openai gpt-4o"},
		{"route", "fast", all, "a gpt-4o-mini"},
		{"model for this key", "b/gpt-4o-mini", mini, "b gpt-4o-mini"},
		{"target for this key", "a/gpt-4o", ofA, "a gpt-4o"},
		{"route for this key", "fast", fast, "a gpt-4o-mini"},
		{"route to a model for this key", "fast", mini, "a gpt-4o-mini"},
		{"no key", "a/gpt-4o", "", "401 missing proxy key"},
		{"unknown key", "nope/x", unknownKey, "401 invalid proxy key"},
		{"no model", "", all, "400 model must use provider/model format"},
		{"model that nobody knows", "large", all, "400 model must use provider/model format"},
		{"provider that nobody knows", "nope/gpt-4o", all, "400 model must use provider/model format"},
		{"no name after the provider", "a/", all, "400 model must use provider/model format"},
		{"provider without credential", "keyless/gpt-4o", onlyB, "400 provider not configured"},
		{"provider not for this key", "a/gpt-4o", onlyB, "403 provider_not_allowed"},
		{"model not for this key", "a/gpt-4o", mini, "403 model_not_allowed"},
		{"model not for this key, that nobody knows", "large", mini, "403 model_not_allowed"},
		{"target not for this key", "b/gpt-4o", ofA, "403 model_not_allowed"},
		{"another protocol", "anthropic/claude-haiku-4-5", all, "400 provider not supported in unified mode"},
		{"another protocol, inferred", "claude-haiku-4-5", all, "400 provider not supported in unified mode"},
		{"another protocol by its other name", "google/gemini-2.5-pro", all, "400 provider not supported in unified mode"},
		{"model without a price", "a/other", all, "400 model not priced"},
		{"key spend used up", "a/gpt-4o", spent, "403 spend_exceeded"},
	} {
		body, _ := json.Marshal(map[string]any{"model": test.model, "messages": []any{map[string]any{"role": "user", "content": "Hello"}}})
		res := n.do(t, "POST", unifiedPath, test.key, string(body))
		answer := read(t, res)
		if res.StatusCode != 200 {
			if got := fmt.Sprintf("%d %s", res.StatusCode, res.Header.Get("X-Gateway-Error")); got != test.want {
				t.Errorf("%s: %s, want %s: %s", test.name, got, test.want, answer)
			}
			continue
		}
		row := n.row(t, res.Header.Get("X-Request-Id"))
		served := n.sandbox.Served()
		if got := row.Provider + " " + served[len(served)-1].Model; got != test.want || row.Cost == 0 || row.Attempts != 1 {
			t.Errorf("%s: %s for %s in %d attempts, want %s", test.name, got, row.Cost, row.Attempts, test.want)
		}
	}
	if res := n.do(t, "POST", unifiedPath, all, "{"); res.Header.Get("X-Gateway-Error") != "invalid request body" {
		t.Errorf("malformed JSON: status %d", res.StatusCode)
	}
	if res := n.do(t, "GET", unifiedPath, all, ""); res.StatusCode != http.StatusTeapot {
		t.Errorf("GET: status %d, want the next handler's", res.StatusCode)
	}
}

func TestOnlyTheModelIsReplaced(t *testing.T) {
	var got []byte
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Path", r.URL.RequestURI())
		io.WriteString(w, `{"model":"x","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`)
	})
	n.buy(t, metering.USD)
	const body = " { \"temperature\":0.70, \"model\" : \"odd/gpt-4o\",\n\"messages\":[ ] , \"x\\u0079\":1e2}\n"
	res := n.do(t, "POST", unifiedPath+"?trace=%20", n.key(t, nil), body)
	if want := strings.Replace(body, "odd/", "", 1); string(got) != want || res.Header.Get("X-Path") != "/v1/chat/completions?trace=%20" {
		t.Errorf("the provider got %q at %s, want %q", got, res.Header.Get("X-Path"), want)
	}
	if answer := read(t, res); answer != `{"model":"x","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}` {
		t.Errorf("the client got %s", answer)
	}
}

func TestRoutesFallBack(t *testing.T) {
	n := startRouted(t, `route overloaded {
			a/gpt-4o+status=529
			b/gpt-4o
		}
		route limited {
			a/gpt-4o+status=429,retry_after=60
			b/gpt-4o
		}
		route reset {
			a/gpt-4o+fail=reset
			b/gpt-4o
		}
		route half {
			a/gpt-4o+fail=reset,fail_after=1
			b/gpt-4o
		}
		route gone {
			unreachable/gpt-4o
			b/gpt-4o
		}
		route wrong {
			a/gpt-4o+status=400
			b/gpt-4o
		}
		route down {
			a/gpt-4o+status=500
			b/gpt-4o+status=503,retry_after=1
		}
		route unpriced {
			local/unknown
			b/gpt-4o
		}`)
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	onlyB := n.key(t, func(k *billing.Key) { k.AllowedProviders = []string{"b"} })
	for _, test := range []struct {
		name, model, key string
		stream           bool
		status           int
		want             string
	}{
		{"overloaded", "overloaded", key, false, 200, "a 529, b 200"},
		{"overloaded, stream", "overloaded", key, true, 200, "a 529, b 200"},
		{"rate limited", "limited", key, false, 200, "a 429, b 200"},
		{"reset", "reset", key, false, 200, "a 0, b 200"},
		{"reset, stream", "reset", key, true, 200, "a 0, b 200"},
		{"half an answer", "half", key, false, 200, "a 200, b 200"},
		{"unreachable", "gone", key, false, 200, "unreachable 0, b 200"},
		{"not the provider's fault", "wrong", key, false, 400, "a 400"},
		{"all down", "down", key, false, 503, "a 500, b 503, b 503, b 503"},
		{"first target not for this key", "down", onlyB, false, 503, "b 503, b 503, b 503"},
		{"first target without a price", "unpriced", key, false, 200, "b 200"},
	} {
		body := fmt.Sprintf(`{"model":%q,"stream":%v,"messages":[{"role":"user","content":"Hello"}]}`, test.model, test.stream)
		res := n.do(t, "POST", unifiedPath, test.key, body, "X-Sandbox-Prompt", "1000", "X-Sandbox-Completion", "200")
		answer := read(t, res)
		row := n.row(t, res.Header.Get("X-Request-Id"))
		var got []string
		for _, a := range row.AttemptLog {
			got = append(got, fmt.Sprintf("%s %d", a.Provider, a.Status))
		}
		if diff := cmp.Diff(test.want, strings.Join(got, ", ")); diff != "" || res.StatusCode != test.status || res.Header.Get("X-Gateway-Error") != "" {
			t.Errorf("%s: status %d, attempts (-want +got):\n%s%s", test.name, res.StatusCode, diff, answer)
		}
		// b costs three dollars for a million.
		want := metering.Money(0)
		if test.status == 200 {
			want = 3_600_000
		}
		last := row.AttemptLog[len(row.AttemptLog)-1]
		if row.Cost != want || row.Provider != last.Provider || row.Error != "" || row.Status != test.status {
			t.Errorf("%s: charged %s for %s, error %q; want %s for %s", test.name, row.Cost, row.Provider, row.Error, want, last.Provider)
		}
	}
	for range 9 {
		n.do(t, "POST", "/a/chat/completions", key, hello, "X-Sandbox-Status", "503", "X-Sandbox-Retry-After", "9")
	}
	if s := n.statusOf(t, "a"); s.Breaker != "open" {
		t.Fatalf("status %+v", s)
	}
	res := n.do(t, "POST", unifiedPath, key, `{"model":"overloaded","messages":[{"role":"user","content":"Hello"}]}`)
	if row := n.row(t, res.Header.Get("X-Request-Id")); res.StatusCode != 200 || row.Attempts != 1 || row.Provider != "b" {
		t.Errorf("with an open breaker: status %d, %d attempts, by %s", res.StatusCode, row.Attempts, row.Provider)
	}
	v, err := n.app.Store().Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks %+v (%v)", v.Failed(), err)
	}
}

// TestHoldCoversTheDearestTarget gives a key enough for the cheap target, which
// would answer, and not for the one after it.
func TestHoldCoversTheDearestTarget(t *testing.T) {
	n := startRouted(t, "route both {\na/gpt-4o\nb/gpt-4o\n}")
	n.buy(t, metering.USD)
	body := func(model string) string {
		return fmt.Sprintf(`{"model":%q,"max_tokens":1000,"messages":[{"role":"user","content":"Hello"}]}`, model)
	}
	limit := metering.Money(2_000_000) // a takes 1,000,000 and a little, b three times that
	key := n.key(t, func(k *billing.Key) { k.UsageLimit = &limit })
	for model, want := range map[string]string{"a/gpt-4o": "", "both": "spend_exceeded"} {
		res := n.do(t, "POST", unifiedPath, key, body(model))
		if got := res.Header.Get("X-Gateway-Error"); got != want {
			t.Errorf("%s: status %d, %q, want %q", model, res.StatusCode, got, want)
		}
	}
}

// TestTargetsWithoutAPriceDoNotHideThoseWithOne has a target that is recorded
// without a price in front of one that costs something.
func TestTargetsWithoutAPriceDoNotHideThoseWithOne(t *testing.T) {
	n := startRouted(t, "unpriced record\nroute both {\nunreachable/unknown\nb/gpt-4o\n}")
	n.buy(t, metering.USD)
	poor := n.limited(t, millicent)
	const body = `{"model":"both","max_tokens":1000,"messages":[{"role":"user","content":"Hello"}]}`
	if res := n.do(t, "POST", unifiedPath, poor, body); res.Header.Get("X-Gateway-Error") != "spend_exceeded" {
		t.Errorf("status %d, %q", res.StatusCode, res.Header.Get("X-Gateway-Error"))
	}
	res := n.do(t, "POST", unifiedPath, n.key(t, nil), body)
	if row := n.row(t, res.Header.Get("X-Request-Id")); res.StatusCode != 200 || row.Cost == 0 || row.Attempts != 2 {
		t.Errorf("status %d, cost %s after %d attempts", res.StatusCode, row.Cost, row.Attempts)
	}
}

// TestManyRequestsFallBackAtOnce is for the race detector: attempts that are
// given up must not look at what the request has turned to.
func TestManyRequestsFallBackAtOnce(t *testing.T) {
	n := startRouted(t, "first_byte_timeout 50ms\nroute slow {\na/gpt-4o+fail=stall\nb/gpt-4o\n}")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			res := n.do(t, "POST", unifiedPath, key, `{"model":"slow","messages":[{"role":"user","content":"Hello"}]}`)
			if res.StatusCode != 200 {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
	group.Wait()
}

func TestTargetsThatRequestsNeverReachAreLogged(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		unpriced string
		want     []string
	}{
		{unpricedRefuse, []string{"fast openai/nobody-knows", "slow openai/large"}},
		{unpricedCeiling, nil},
		{unpricedRecord, nil},
	} {
		core, logs := observer.New(zapcore.WarnLevel)
		app := &App{
			Unpriced: test.unpriced, log: zap.New(core),
			Routes: map[string][]string{"slow": {"openai/large"}, "fast": {"openai/gpt-4o", "openai/nobody-knows"}},
		}
		if err := app.provisionPrices(); err != nil {
			t.Fatal(err)
		}
		app.warnOfUnpricedTargets()
		var got []string
		for _, entry := range logs.All() {
			fields := entry.ContextMap()
			got = append(got, fmt.Sprint(fields["route"], " ", fields["target"]))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.unpriced, diff)
		}
	}
}
