package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// freeze makes all that is known about providers go by a clock that only moves
// when it is told to.
func (n *node) freeze() (advance func(time.Duration)) {
	var nanos atomic.Int64
	nanos.Store(time.Now().UnixNano())
	registry := upstream.NewRegistry(func() time.Time { return time.Unix(0, nanos.Load()) }, n.app.engine.breakerChanged)
	for _, p := range n.app.Providers {
		p.connect(registry)
	}
	return func(d time.Duration) { nanos.Add(int64(d)) }
}

// statusOf is how the node sees a provider.
func (n *node) statusOf(t *testing.T, provider string) ProviderStatus {
	t.Helper()
	for _, s := range n.app.ProviderStatus() {
		if s.Name == provider {
			return s
		}
	}
	t.Fatalf("no provider %s", provider)
	return ProviderStatus{}
}

func TestBreakerKeepsRequestsFromAProviderThatIsDown(t *testing.T) {
	n := start(t, "retries 0")
	n.buy(t, metering.USD)
	advance := n.freeze()
	key := n.key(t, nil)
	poor := n.key(t, func(k *billing.Key) { k.UsageLimit = new(billing.Money) })
	// ask returns the status, and checks that an open breaker sends nothing.
	ask := func(want int, script ...string) {
		t.Helper()
		before := n.sandbox.Totals().Requests
		res := n.do(t, "POST", chat, key, hello, script...)
		row := n.row(t, res.Header.Get("X-Request-Id"))
		if res.StatusCode != want || row.Status != want {
			t.Fatalf("status %d, in the row %d, want %d", res.StatusCode, row.Status, want)
		}
		sent := n.sandbox.Totals().Requests - before
		if own := read(t, res) == `{"error":"provider temporarily unavailable"}`; own != (want == 503) || own == (sent == 1) {
			t.Errorf("status %d, %d requests sent, the answer is the gateway's own: %v", want, sent, own)
		}
		if want != 503 {
			return
		}
		if row.Cost != 0 || row.UsageSource != metering.SourceNone || row.Attempts != 0 || row.Error != "provider temporarily unavailable" {
			t.Errorf("charged %s by %s in %d attempts, error %q", row.Cost, row.UsageSource, row.Attempts, row.Error)
		}
		if got := res.Header.Get("Retry-After"); got == "" || got == "0" {
			t.Errorf("Retry-After %q", got)
		}
	}
	fail := []string{"X-Sandbox-Status", "500"}
	for range 9 {
		ask(500, fail...)
	}
	ask(429, "X-Sandbox-Status", "429") // ends the row of failures
	ask(500, fail...)
	if s := n.statusOf(t, "openai"); s.Breaker != "closed" || s.Consecutive != 1 || s.Requests != 11 || s.Failures != 10 || s.Outcomes["rate_limited"] != 1 {
		t.Errorf("status %+v", s)
	}
	for range 9 {
		ask(500, fail...)
	}
	ask(503)
	if res := n.do(t, "POST", chat, poor, hello); res.StatusCode != 403 {
		t.Errorf("status %d of a key without money, which is checked first", res.StatusCode)
	}
	if res := n.do(t, "POST", messages, key, claude); res.StatusCode != 200 {
		t.Errorf("status %d of another provider", res.StatusCode)
	}
	if s := n.statusOf(t, "openai"); s.Breaker != "open" || s.RetryAt.Sub(s.OpenedAt) != 30*time.Second {
		t.Errorf("status %+v", s)
	}
	advance(30 * time.Second)
	ask(500, fail...) // the probe
	ask(503)
	advance(30 * time.Second)
	// A probe whose client leaves without having learned anything.
	n.leave(t, 100*time.Millisecond, chat, key, hello, "User-Agent", "probe", "X-Sandbox-Fail", "stall")
	n.rowOf(t, "probe")
	if s := n.statusOf(t, "openai"); s.Breaker != "half_open" {
		t.Errorf("status %+v", s)
	}
	ask(200)
	ask(200)
	if s := n.statusOf(t, "openai"); s.Breaker != "closed" || !s.OpenedAt.IsZero() {
		t.Errorf("status %+v", s)
	}
}

func TestBreakerThatOpensEndsTheRetries(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for range 9 {
		n.do(t, "POST", chat, key, hello, "X-Sandbox-Status", "503", "X-Sandbox-Retry-After", "9")
	}
	res := n.do(t, "POST", chat, key, hello, "X-Sandbox-Status", "529")
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if res.StatusCode != 529 || row.Attempts != 1 || row.Error != "" || row.Cost != 0 {
		t.Errorf("status %d, %d attempts, error %q, cost %s; want the provider's own answer", res.StatusCode, row.Attempts, row.Error, row.Cost)
	}
	if res.Header.Get("X-Gateway-Error") != "" || !strings.Contains(read(t, res), "error") {
		t.Error("the provider's answer is not passed on")
	}
}

// guarded is a provider that knows its credentials.
func guarded(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	switch secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); secret {
	case "limited":
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusTooManyRequests)
	case "revoked":
		w.WriteHeader(http.StatusUnauthorized)
	case "broken":
		w.WriteHeader(http.StatusBadGateway)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Used", secret)
		io.WriteString(w, `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`)
	}
}

// credentialsOf are the labels and outcomes of a request's attempts.
func (n *node) credentialsOf(t *testing.T, id string) string {
	t.Helper()
	var list []string
	for _, a := range n.row(t, id).AttemptLog {
		list = append(list, fmt.Sprintf("%s %d", a.Credential, a.Status))
	}
	return strings.Join(list, ", ")
}

func TestRefusedCredentialsRest(t *testing.T) {
	n := startBefore(t, guarded, "credential limited limited", "credential revoked revoked", "credential good good", "retries 3")
	n.app.Providers["odd"].secrets = n.app.Providers["odd"].secrets[1:] // without that of the node
	advance := n.freeze()
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	ask := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			res := n.do(t, "POST", oddChat, key, hello)
			got = append(got, n.credentialsOf(t, res.Header.Get("X-Request-Id")))
			if res.StatusCode != 200 {
				t.Errorf("status %d", res.StatusCode)
			}
		}
		slices.Sort(got) // which one is asked first is for the weights to say
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credentials (-want +got):\n%s", diff)
		}
	}
	ask("limited 429, revoked 401, good 200")
	ask("good 200", "good 200", "good 200")
	var rests []string
	status := n.statusOf(t, "odd")
	for _, c := range status.Credentials {
		rests = append(rests, fmt.Sprintf("%s %s %d of %d", c.Label, c.Reason, c.Failures, c.Requests))
	}
	if diff := cmp.Diff([]string{"limited rate_limited 1 of 1", "revoked unauthorized 1 of 1", "good  0 of 4"}, rests); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if b, err := json.Marshal(status); err != nil || strings.Contains(string(b), "provider-secret") {
		t.Errorf("a secret is in the status %s (%v)", b, err)
	}
	advance(time.Minute) // the one that is revoked wakes first
	ask("good 200", "revoked 401, good 200")
}

func TestSingleCredentialIsAlwaysUsed(t *testing.T) {
	n := startBefore(t, guarded, "credential only revoked", "retries 3")
	n.app.Providers["odd"].secrets = n.app.Providers["odd"].secrets[1:]
	n.freeze()
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for range 3 {
		res := n.do(t, "POST", oddChat, key, hello)
		if got := n.credentialsOf(t, res.Header.Get("X-Request-Id")); res.StatusCode != 401 || got != "only 401" {
			t.Errorf("status %d with %s, want the provider's own 401", res.StatusCode, got)
		}
	}
}

func TestEmptyCredentialsAreLeftOut(t *testing.T) {
	n := startBefore(t, guarded, "credential unset {env.GATEWAY_TEST_UNSET}", "credential second good 2")
	var labels []string
	for _, c := range n.statusOf(t, "odd").Credentials {
		labels = append(labels, fmt.Sprint(c.Label, c.Weight))
	}
	if diff := cmp.Diff([]string{"default1", "second2"}, labels); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if s := n.statusOf(t, "keyless"); s.Configured || len(s.Credentials) != 0 {
		t.Errorf("status of a provider without credentials: %+v", s)
	}
}

func TestTotalTimeoutEndsAStreamThatDoesNotEnd(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			io.WriteString(w, ": ping\n\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}, "total_timeout 500ms")
	n.buy(t, metering.USD)
	res := n.do(t, "POST", oddChat, n.key(t, nil), stream)
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the stream ended in good order")
	}
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if row.Error != "upstream timed out" || row.Attempts != 1 || row.AttemptLog[0].Error != "timed out" || row.Status != 200 {
		t.Errorf("row %+v", row)
	}
}
