package caddymodule

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestOpenBreakersDoNotFillTheBooks refuses more requests than have audit rows
// in a minute.
func TestOpenBreakersDoNotFillTheBooks(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	n.app.engine.clock.Store(new(func() time.Time { return time.Date(2026, 11, 23, 12, 0, 30, 0, time.UTC) }))
	n.freeze()
	breaker := n.app.Providers["openai"].state.Breaker
	for range 10 {
		pass, _, _ := breaker.Allow()
		breaker.Record(pass, upstream.ServerError)
	}
	key := n.key(t, nil)
	for range maxRefusedRows + 20 {
		if res := n.do(t, "POST", chat, key, hello); res.StatusCode != 503 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	if err := n.app.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := n.app.Store().Requests(t.Context(), billing.DefaultOrganization, billing.Filter{}, billing.Page{Limit: 100})
	if err != nil || len(rows) != maxRefusedRows {
		t.Errorf("%d rows (%v), want %d", len(rows), err, maxRefusedRows)
	}
	if held := n.app.Held(billing.DefaultOrganization); held != 0 {
		t.Errorf("%s are still held", held)
	}
}

// TestTimeThatIsUsedUpIsNotTheNextTargetsFault lets the first target of a route
// use up the time of the request.
func TestTimeThatIsUsedUpIsNotTheNextTargetsFault(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}, "total_timeout 300ms\n}\nroute slow {\nodd/gpt-4o\nopenai/gpt-4o\n}\ntotal_timeout 300ms\nprovider other {\nprotocol openai\nbase_url http://127.0.0.1:1")
	n.buy(t, metering.USD)
	res := n.do(t, "POST", unifiedPath, n.key(t, nil), `{"model":"slow","messages":[]}`)
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if res.StatusCode != 502 || row.Attempts != 1 || row.Provider != "odd" || row.Cost != 0 {
		t.Errorf("status %d after %d attempts, the last at %s, cost %s", res.StatusCode, row.Attempts, row.Provider, row.Cost)
	}
	if s := n.statusOf(t, "openai"); s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestFirstByteIsAwaitedOnce has a provider that sends headers in time, and
// nothing after them.
func TestFirstByteIsAwaitedOnce(t *testing.T) {
	const limit = 600 * time.Millisecond
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(limit / 2)
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		time.Sleep(limit * 3 / 4)
		io.WriteString(w, "data: [DONE]\n\n")
	}, "first_byte_timeout 600ms", "retries 0")
	n.buy(t, metering.USD)
	res := n.do(t, "POST", oddChat, n.key(t, nil), stream)
	if row := n.row(t, res.Header.Get("X-Request-Id")); res.StatusCode != 502 || row.AttemptLog[0].Error != "timed out" {
		t.Errorf("status %d, attempts %+v", res.StatusCode, row.AttemptLog)
	}
}
