package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// inOneMinute waits for the next minute if what is to be in one might not be.
func inOneMinute() {
	if left := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)); left < 5*time.Second {
		time.Sleep(left)
	}
}

func (n *node) limitOrganization(t *testing.T, rpm int64) {
	t.Helper()
	_, err := n.app.Store().UpdateOrganization(t.Context(), billing.DefaultOrganization, func(o *billing.Organization) error {
		o.RateLimitRPM = rpm
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wants checks headers: names and values in turn, where "" is none.
func wants(t *testing.T, what string, h http.Header, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := h.Get(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s: %s is %q, want %q", what, pairs[i], got, pairs[i+1])
		}
	}
}

func TestOrganizationRateIsSharedByItsKeys(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	n.limitOrganization(t, 3)
	plain := n.key(t, nil)
	rated := n.key(t, func(k *billing.Key) { k.RateLimitRPM = 2 })
	inOneMinute()
	for i, step := range []struct {
		key       string
		status    int
		refused   string
		remaining string // of the organization
		scope     string
		own       string // remaining, of the key
	}{
		{plain, 200, "", "2", "", ""},
		{rated, 200, "", "1", "", "1"},
		{rated, 200, "", "0", "", "0"},
		{rated, 429, "rate_limited", "0", "", "0"}, // first of the two that are short
		{plain, 429, "organization_rate_limited", "0", "organization", ""},
	} {
		res := n.do(t, "POST", chat, step.key, hello)
		what := fmt.Sprintf("request %d", i+1)
		if res.StatusCode != step.status {
			t.Errorf("%s: status %d, want %d", what, res.StatusCode, step.status)
		}
		wants(t, what, res.Header, "X-Gateway-Error", step.refused, "X-RateLimit-Org-Limit", "3",
			"X-RateLimit-Org-Remaining", step.remaining, "X-RateLimit-Scope", step.scope, "X-RateLimit-Remaining", step.own)
		if wait, _ := strconv.Atoi(res.Header.Get("Retry-After")); (step.status == 429) != (wait > 0 && wait <= 60) {
			t.Errorf("%s: Retry-After %q", what, res.Header.Get("Retry-After"))
		}
	}
}

func TestTokensAreReservedAndCorrected(t *testing.T) {
	n := start(t, "")
	n.buy(t, 100*metering.USD)
	key := n.key(t, func(k *billing.Key) { k.RateLimitTPM = 1000 })
	send := func(maxTokens int, headers ...string) *http.Response {
		body := hello
		if maxTokens > 0 {
			body = strings.Replace(hello, "{", fmt.Sprintf(`{"max_tokens":%d,`, maxTokens), 1)
		}
		return n.do(t, "POST", chat, key, body, headers...)
	}

	inOneMinute()
	res := send(800, "X-Sandbox-Prompt", "40", "X-Sandbox-Completion", "60")
	read(t, res)
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	res = n.do(t, "GET", "/openai/v1/models", key, "") // free: uses none, and tells
	wants(t, "after 100 tokens", res.Header, "X-RateLimit-Tokens-Limit", "1000", "X-RateLimit-Tokens-Remaining", "900")

	res = send(950)
	wants(t, "more than is left", res.Header, "X-Gateway-Error", "token_rate_limited", "X-RateLimit-Tokens-Remaining", "900")
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || strings.Contains(read(t, res), "message") {
		t.Errorf("more than is left: status %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	res = send(5000)
	var got struct{ Error, Message string }
	if err := json.Unmarshal([]byte(read(t, res)), &got); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 429 || got.Error != "token_rate_limited" || !strings.Contains(got.Message, "rate_limit_tpm") {
		t.Errorf("more than the limit: status %d, %+v", res.StatusCode, got)
	}
	// Without max_tokens it is a guess, of 4096, that is content with less. The
	// answer uses more than the minute has.
	read(t, send(0, "X-Sandbox-Prompt", "40", "X-Sandbox-Completion", "2000"))
	res = send(1)
	wants(t, "used up", res.Header, "X-Gateway-Error", "token_rate_limited", "X-RateLimit-Tokens-Remaining", "0")
	if answer := read(t, send(0)); !strings.Contains(answer, "send max_tokens") {
		t.Errorf("used up, without max_tokens: %s", answer)
	}
}

func TestRefusedSpendUsesNoTokensAndIsNotOpen(t *testing.T) {
	n := start(t, "")
	none := metering.Money(0)
	key := n.key(t, func(k *billing.Key) {
		k.UsageLimit, k.RateLimitRPM, k.RateLimitTPM, k.MaxConcurrent = &none, 5, 5000, 1
	})
	inOneMinute()
	for i := range 5 {
		res := n.do(t, "POST", chat, key, hello)
		wants(t, fmt.Sprint(i), res.Header, "X-Gateway-Error", "spend_exceeded", "X-RateLimit-Remaining", strconv.Itoa(4-i))
	}
	wants(t, "counted", n.do(t, "POST", chat, key, hello).Header, "X-Gateway-Error", "rate_limited", "X-RateLimit-Tokens-Remaining", "5000")
}

func TestOpenRequestsAreLimited(t *testing.T) {
	var open atomic.Int64
	finish := make(chan struct{})
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		switch r.Header.Get("X-Case") {
		case "torn":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "{}")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "slow":
			<-finish
		}
		io.WriteString(w, `{}`)
	})
	n.buy(t, metering.USD)
	key := n.key(t, func(k *billing.Key) { k.MaxConcurrent = 2 })
	refused := func(what string) {
		t.Helper()
		res := n.do(t, "POST", oddChat, key, hello)
		wants(t, what, res.Header, "X-Gateway-Error", "concurrency_limited", "Retry-After", "1")
		if res.StatusCode != 429 {
			t.Errorf("%s: status %d", what, res.StatusCode)
		}
	}
	send := func(ctx context.Context, kind string) (status int) {
		req, err := http.NewRequestWithContext(ctx, "POST", n.url+oddChat, strings.NewReader(hello))
		if err != nil {
			t.Error(err)
			return 0
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("X-Case", kind)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return 0 // broken off, or left
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body) // may be broken off, too
		return res.StatusCode
	}
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan int, 2)
	for _, ctx := range []context.Context{ctx, t.Context()} {
		go func() { done <- send(ctx, "slow") }()
	}
	await(t, func() bool { return open.Load() == 2 })
	refused("while two are open")
	leave() // the gateway goes on to read the answer, and the request stays open
	<-done
	refused("after the client of one has left")
	close(finish)
	<-done
	await(t, func() bool { return open.Load() == 0 })
	for _, kind := range []string{"torn", "good", "torn", "torn", "good"} { // each ends
		await(t, func() bool { return send(t.Context(), kind) != 429 })
	}
	await(t, func() bool { return send(t.Context(), "good") == 200 })
}

// await waits until something is so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come true")
		}
	}
}

func TestPerMinuteIsBounded(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 1, 12, 0, 30, 0, time.UTC)
	const most = 60
	var p perMinute
	for i := range 2 * most {
		if p.take("a", most, noon.Add(time.Duration(i)*time.Millisecond)) != (i < most) {
			t.Fatalf("time %d in a minute", i+1)
		}
	}
	if !p.take("b", most, noon) || p.take("a", most, noon.Add(-time.Minute)) || !p.take("a", most, noon.Add(time.Minute)) {
		t.Error("ids and minutes are not apart")
	}
}
