package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// What clients leave behind is in docs/prices.md as a table; this is its proof.
//
//nolint:tparallel // Caddy has one configuration at a time; the subtests share it.
func TestClientThatLeavesIsChargedWhatIsKnown(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	// 1000 x $2.50 + 60 x $10 at gpt-4o; 1000 x $1 + 60 x $5 at claude-haiku.
	sized := []string{"X-Sandbox-Prompt", "1000", "X-Sandbox-Completion", "60", "X-Sandbox-Chunks", "8"}
	const exact, exactClaude = 3_100_000, 1_300_000
	claudeStream := strings.Replace(claude, "{", `{"stream":true,`, 1)
	for _, test := range []struct {
		name, path, body string
		script           []string
		source           metering.Source
		// least and most are what may be charged.
		least, most metering.Money
	}{
		{"before the headers of an answer", chat, hello, []string{"X-Sandbox-Fail", "slow_headers", "X-Sandbox-First-Delay", "600ms"},
			metering.SourceDrained, exact, exact},
		{"before the headers of a stream", chat, stream, []string{"X-Sandbox-Fail", "slow_headers", "X-Sandbox-First-Delay", "600ms"},
			metering.SourceDrained, exact, exact},
		{"before the first event of a stream", messages, claudeStream, []string{"X-Sandbox-First-Delay", "600ms"},
			metering.SourceDrained, exactClaude, exactClaude},
		{"in the middle of a stream", chat, stream, []string{"X-Sandbox-Delay", "100ms"}, metering.SourceDrained, exact, exact},
		{"in the middle of a stream of Anthropic", messages, claudeStream, []string{"X-Sandbox-Delay", "100ms"},
			metering.SourceDrained, exactClaude, exactClaude},
		{"before an answer that never comes", chat, hello, []string{"X-Sandbox-Fail", "stall"}, metering.SourceEstimated, 1, 100_000},
		{"before a stream that never comes", chat, stream, []string{"X-Sandbox-Fail", "stall"}, metering.SourceEstimated, 1, 100_000},
		// Two pieces of eight bytes, and a prompt whose size nobody told.
		{"in a stream that falls silent", chat, stream, []string{"X-Sandbox-Fail", "stall", "X-Sandbox-Fail-After", "2"},
			metering.SourceEstimated, 40_001, 140_000},
		// The provider has told the prompt.
		{"in a stream of Anthropic that falls silent", messages, claudeStream, []string{"X-Sandbox-Fail", "stall", "X-Sandbox-Fail-After", "2"},
			metering.SourcePartial, 1_020_000, 1_020_000},
		{"in a stream that breaks off", messages, claudeStream, []string{"X-Sandbox-Delay", "200ms", "X-Sandbox-Fail", "reset", "X-Sandbox-Fail-After", "4"},
			metering.SourcePartial, 1_040_000, 1_040_000},
		{"from an answer of nothing", chat, hello, []string{"X-Sandbox-First-Delay", "600ms", "X-Sandbox-Prompt", "0", "X-Sandbox-Completion", "0"},
			metering.SourceDrained, 0, 0},
		{"from a stream of nothing", chat, stream, []string{"X-Sandbox-First-Delay", "600ms", "X-Sandbox-Prompt", "0", "X-Sandbox-Completion", "0", "X-Sandbox-Content", "Hello"},
			metering.SourceDrained, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n.leave(t, 250*time.Millisecond, test.path, key, test.body, append(append([]string{"User-Agent", test.name}, sized...), test.script...)...)
			row := n.rowOf(t, test.name)
			if row.UsageSource != test.source || row.Error != "client disconnected" {
				t.Errorf("source %s, error %q; want %s", row.UsageSource, row.Error, test.source)
			}
			if row.Cost < test.least || row.Cost > test.most {
				t.Errorf("charged %s, want %s to %s", row.Cost, test.least, test.most)
			}
		})
	}
}

// leave sends a request and goes away after a while.
func (n *node) leave(t *testing.T, after time.Duration, path, key, body string, headers ...string) {
	t.Helper()
	ctx, leave := context.WithTimeout(t.Context(), after)
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "POST", n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if path == messages {
		req.Header.Set("Anthropic-Version", "2023-06-01")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_, _ = io.Copy(io.Discard, res.Body) // until the time is over
		res.Body.Close()
	}
}

func TestExplicitZeroIsZero(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for _, body := range []string{hello, stream} {
		res := n.do(t, "POST", chat, key, body, "X-Sandbox-Prompt", "0", "X-Sandbox-Completion", "0", "X-Sandbox-Content", "Hello")
		read(t, res)
		if row := n.row(t, res.Header.Get("X-Request-Id")); row.UsageSource != metering.SourceProvider || row.Cost != 0 || row.Error != "" {
			t.Errorf("source %s, cost %s, error %q", row.UsageSource, row.Cost, row.Error)
		}
	}
}

func TestClientThatLeavesBeforeItHasAskedIsNotCharged(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nUser-Agent: half\r\nContent-Length: 1000\r\n\r\n%s", chat, key, hello)
	conn.Close()
	row := n.rowOf(t, "half")
	if row.Cost != 0 || row.UsageSource != metering.SourceNone || row.Error != "invalid request body" || row.Attempts != 0 {
		t.Errorf("row %+v", row)
	}
	if requests := n.sandbox.Totals().Requests; requests != 0 {
		t.Errorf("the provider got %d requests", requests)
	}
}

// unsent is a provider that cannot be reached, at least not soon.
type unsent struct{}

func (unsent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, errors.New("no connection")
}

func TestNothingSentIsNothingCharged(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	n.app.Providers["unreachable"].transport = unsent{}
	n.app.Drain = 0
	for _, body := range []string{`{"model":"gpt-4o","messages":[]}`, `{"model":"gpt-4o","stream":true,"messages":[]}`} {
		ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
		w := httptest.NewRecorder()
		n.serve(ctx, t, w, "POST", "/unreachable/chat/completions", key, strings.NewReader(body))
		leave()
		row := n.row(t, w.Header().Get("X-Request-Id"))
		if row.Cost != 0 || row.UsageSource != metering.SourceNone || row.Error != "client disconnected" {
			t.Errorf("cost %s, source %s, error %q", row.Cost, row.UsageSource, row.Error)
		}
	}
}

func TestDrainingStopsWhenTheMoneyIsGone(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.limited(t, millicent)
	// It would go on for two seconds, which is how long it may be drained.
	n.leave(t, 100*time.Millisecond, chat, key, stream, "User-Agent", "poor", "X-Sandbox-Chunks", "400", "X-Sandbox-Delay", "5ms")
	row := n.rowOf(t, "poor")
	if row.Error != "cut off: spend_exceeded" || row.UsageSource != metering.SourceEstimated {
		t.Errorf("error %q, source %s", row.Error, row.UsageSource)
	}
	if row.Cost > millicent || row.Cost < millicent*9/10 {
		t.Errorf("charged %s of %s", row.Cost, millicent)
	}
	n.awaitIdle(t)
	if totals := n.sandbox.Totals(); totals.Partial != 1 {
		t.Errorf("the provider served %+v", totals)
	}
}

// TestStreamsEndCleanlyWithoutAStore takes the store away from a stream that
// needs more money.
func TestStreamsEndCleanlyWithoutAStore(t *testing.T) {
	dir := t.TempDir()
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	defer upstream.Close()
	n.load(t, dir, upstream.URL, "default_max_tokens 16")
	defer caddy.Stop()
	n.buy(t, metering.USD)
	res := n.do(t, "POST", chat, n.limited(t, millicent), stream, "X-Sandbox-Chunks", "2000", "X-Sandbox-Delay", "5ms")
	readUntil(t, res, 5)
	database := filepath.Join(dir, "gateway.db")
	if err := os.Rename(database, database+".away"); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if back := os.Rename(database+".away", database); back != nil {
		t.Fatal(back)
	}
	if err != nil || !strings.HasSuffix(string(body), "data: [DONE]\n\n") || !strings.Contains(string(body), `"finish_reason":"length"`) {
		t.Errorf("the stream ends with %v: %q", err, tailOf(string(body), 300))
	}
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if row.Error != "cut off: ledger unavailable" || row.Cost == 0 || row.Cost > millicent {
		t.Errorf("error %q, cost %s", row.Error, row.Cost)
	}
}

// TestProgressIsJournaled reads what a gateway that dies in the middle of a
// stream would find when it starts again.
func TestProgressIsJournaled(t *testing.T) {
	dir := t.TempDir()
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	defer upstream.Close()
	n.load(t, dir, upstream.URL, "")
	defer caddy.Stop()
	n.buy(t, metering.USD)
	const words = 1000 // of two tokens each
	for _, test := range []struct {
		path, body string
		source     metering.Source
	}{
		{chat, stream, metering.SourceEstimated},
		{"/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", `{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}`, metering.SourcePartial},
	} {
		key := n.key(t, nil)
		res := n.do(t, "POST", test.path, key, test.body, "X-Sandbox-Prompt", "50", "X-Sandbox-Chunks", "2000",
			"X-Sandbox-Fail", "stall", "X-Sandbox-Fail-After", fmt.Sprint(words))
		readUntil(t, res, words)
		row := recovered(t, dir, res.Header.Get("X-Request-Id"))
		if got := row.Usage.Output; got < 2*words-progressEvery-2 || got > 2*words {
			t.Errorf("%s: %d tokens in the journal of the %d that came", test.path, got, 2*words)
		}
		if row.UsageSource != test.source || row.Error != "interrupted" || !row.Recovered || row.Cost < metering.Money(10_000*row.Usage.Output) {
			t.Errorf("%s: row %+v", test.path, row)
		}
		res.Body.Close()
	}
}

// readUntil reads so many events of a stream that then falls silent.
func readUntil(t *testing.T, res *http.Response, events int) {
	t.Helper()
	lines := bufio.NewScanner(res.Body)
	for events > 0 && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			events--
		}
	}
	if events > 0 {
		t.Fatalf("%d events are missing: %v", events, lines.Err())
	}
}

// recovered returns what is in a copy of the journal in dir about a request.
func recovered(t *testing.T, dir, id string) billing.Settlement {
	t.Helper()
	replica := t.TempDir()
	if err := os.CopyFS(replica, os.DirFS(filepath.Join(dir, "journal"))); err != nil {
		t.Fatal(err)
	}
	j, found, err := journal.Open(replica, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, s := range found.Settlements {
		if s.RequestID == id {
			return s
		}
	}
	t.Fatalf("nothing about %s in the journal", id)
	return billing.Settlement{}
}
