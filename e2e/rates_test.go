package e2e

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// Two gateways on one database: of 200 requests in a minute exactly the 60 of
// the key's limit are served, and the rest is told when to come again.
func TestRateIsExactAcrossGateways(t *testing.T) {
	t.Parallel()
	storage, upstream := "postgres "+pgtest.DSN(t), serve(t, sandbox.New())
	gateways := []*gateway{
		startGateway(t, config{storage: storage, upstream: upstream}),
		startGateway(t, config{storage: storage, upstream: upstream}),
	}
	gateways[0].buyCredits(t, "large")
	for name, to := range map[string]func(i int) int{
		"split":      func(i int) int { return i % 2 },
		"all on one": func(int) int { return 0 },
	} {
		key := gateways[0].createKey(t, name, map[string]any{"rate_limit_rpm": 60}).Key
		waitForRoom(15 * time.Second)
		var (
			mu     sync.Mutex
			counts = make(map[int]int)
			group  sync.WaitGroup
		)
		for i := range 200 {
			group.Go(func() {
				status := gateways[to(i)].askAtRate(t, key)
				mu.Lock()
				defer mu.Unlock()
				counts[status]++
			})
		}
		group.Wait()
		if counts[http.StatusOK] != 60 || counts[http.StatusTooManyRequests] != 140 {
			t.Errorf("%s: answers by status: %v, want 60 of 200 and 140 of 429", name, counts)
		}
	}
}

// waitForRoom returns in a calendar minute that has so much left.
func waitForRoom(d time.Duration) {
	if left := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)); left < d {
		time.Sleep(left)
	}
}

// askAtRate sends a request with a key of 60 requests a minute, checks what the
// answer says about that, and returns its status.
func (g *gateway) askAtRate(t *testing.T, key string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+"/openai/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o-mini","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}`))
	if err != nil {
		t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	h := res.Header
	remaining, err := strconv.Atoi(h.Get("X-RateLimit-Remaining"))
	if err != nil || remaining < 0 || remaining > 59 || h.Get("X-RateLimit-Limit") != "60" {
		t.Errorf("limit %q, remaining %q", h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"))
	}
	reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
	if until := time.Until(time.Unix(reset, 0)); err != nil || reset%60 != 0 || until <= 0 || until > time.Minute {
		t.Errorf("reset %q", h.Get("X-RateLimit-Reset"))
	}
	if res.StatusCode != http.StatusTooManyRequests {
		return res.StatusCode
	}
	wait, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || wait < 1 || wait > 60 || remaining != 0 || string(body) != `{"error":"rate_limited"}` {
		t.Errorf("refused with Retry-After %q, %d remaining: %s", h.Get("Retry-After"), remaining, body)
	}
	return res.StatusCode
}
