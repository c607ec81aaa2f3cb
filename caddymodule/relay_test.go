package caddymodule

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestUsageEventIsHiddenFromThoseWhoDidNotAsk(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	asking := strings.Replace(stream, "{", `{"stream_options":{"include_usage":true},`, 1)
	for _, test := range []struct {
		name, body string
		want       bool
	}{{"did not ask", stream, false}, {"asked", asking, true}} {
		res := n.do(t, "POST", chat, key, test.body)
		body := read(t, res)
		if got := strings.Contains(body, `"choices":[],"usage":{`); got != test.want {
			t.Errorf("client that %s: usage event sent: %v\n%s", test.name, got, body)
		}
		if !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("client that %s: stream has no end", test.name)
		}
		if row := n.row(t, res.Header.Get("X-Request-Id")); row.UsageSource != metering.SourceProvider || row.Cost == 0 || !row.Streaming {
			t.Errorf("client that %s: row %+v", test.name, row)
		}
	}
}

func TestUnmeteredAnswersPassAsTheyCome(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, `{"error":{"message":"overloaded"}}`)
	z.Close()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", r.Header.Get("X-Encoding"))
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write(packed.Bytes())
	}))
	defer upstream.Close()
	n := new(node)
	n.load(t, t.TempDir(), upstream.URL, "")
	defer caddy.Stop()
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	// The transport undoes gzip, having asked for it, and nothing else.
	for encoding, want := range map[string]string{"gzip": `{"error":{"message":"overloaded"}}`, "x-gzip": packed.String(), "br": packed.String()} {
		res := n.do(t, "POST", chat, key, hello, "X-Encoding", encoding)
		if got := read(t, res); got != want || res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d, body %q, want %q", encoding, res.StatusCode, got, want)
		}
	}
}

func TestStreamArrivesEventByEvent(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	res := n.do(t, "POST", chat, n.key(t, nil), stream, "X-Sandbox-Chunks", "3", "X-Sandbox-Delay", "300ms")
	lines := bufio.NewReader(res.Body)
	var last time.Time
	gaps := 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		if !strings.HasPrefix(line, "data: {") {
			continue
		}
		if now := time.Now(); !last.IsZero() && now.Sub(last) > 150*time.Millisecond {
			gaps++
		}
		last = time.Now()
	}
	if gaps < 2 {
		t.Errorf("saw %d pauses between events that the provider sent 300 ms apart", gaps)
	}
}

func TestWhatGoesWrongUpstreamIsRelayedAndMarked(t *testing.T) {
	n := start(t, "")
	n.buy(t, 100*metering.USD) // the large event alone looks like 25
	key := n.key(t, nil)
	long := []string{"X-Sandbox-Prompt", "100", "X-Sandbox-Completion", "60", "X-Sandbox-Chunks", "6", "X-Sandbox-Fail-After", "3"}
	for _, test := range []struct {
		name, path, body string
		script           []string
		status           int
		broken           bool
		source           metering.Source
		err              string
		free             bool
	}{
		{"error status", chat, hello, []string{"X-Sandbox-Status", "529"}, 529, false, metering.SourceNone, "", true},
		{"reset before the answer", chat, hello, []string{"X-Sandbox-Fail", "reset"}, 502, false, metering.SourceNone, "upstream request failed", true},
		{"reset in a stream", chat, stream, append(long, "X-Sandbox-Fail", "reset"), 200, true, metering.SourceEstimated, "upstream response broke off", false},
		{"cut stream", chat, stream, append(long, "X-Sandbox-Fail", "truncate"), 200, false, metering.SourceEstimated, "", false},
		{"error in a stream after text", chat, stream, append(long, "X-Sandbox-Fail", "error"), 200, false, metering.SourceEstimated, "upstream error in response", false},
		{"error first in a stream", chat, stream, []string{"X-Sandbox-Fail", "error", "X-Sandbox-Fail-After", "0"}, 200, false, metering.SourceNone, "upstream error in response", true},
		{"broken event in a stream", chat, stream, append(long, "X-Sandbox-Fail", "broken_sse"), 200, false, metering.SourceProvider, "", false},
		{"large event", chat, stream, append(long, "X-Sandbox-Fail", "big_line", "X-Sandbox-Text-Bytes", "10000000"), 200, false, metering.SourceProvider, "", false},
		{"reset in an anthropic stream", messages, strings.Replace(claude, "{", `{"stream":true,`, 1),
			append(long, "X-Sandbox-Fail", "reset"), 200, true, metering.SourcePartial, "upstream response broke off", false},
		{"answer without usage", chat, hello, []string{"X-Sandbox-Fail", "no_usage"}, 200, false, metering.SourceEstimated, "", false},
		{"empty answer", chat, hello, []string{"X-Sandbox-Fail", "empty"}, 200, false, metering.SourceEstimated, "", false},
		{"web page", chat, hello, []string{"X-Sandbox-Fail", "html"}, 200, false, metering.SourceEstimated, "", false},
		{"compressed unasked", chat, hello, []string{"X-Sandbox-Gzip", "1"}, 200, false, metering.SourceProvider, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := n.do(t, "POST", test.path, key, test.body, test.script...)
			_, err := io.ReadAll(res.Body)
			if res.StatusCode != test.status || (err != nil) != test.broken {
				t.Errorf("status %d, body ended with %v; want %d, broken: %v", res.StatusCode, err, test.status, test.broken)
			}
			row := n.row(t, res.Header.Get("X-Request-Id"))
			if row.UsageSource != test.source || row.Error != test.err || row.Status != test.status {
				t.Errorf("row: source %s, error %q, status %d; want %s, %q, %d",
					row.UsageSource, row.Error, row.Status, test.source, test.err, test.status)
			}
			if (row.Cost == 0) != test.free {
				t.Errorf("cost %s, free: %v", row.Cost, test.free)
			}
		})
	}
}

// rowOf waits for the audit row of a request that can only be told by its
// user agent.
func (n *node) rowOf(t *testing.T, userAgent string) billing.Settlement {
	t.Helper()
	for range 200 {
		rows, err := n.app.Store().Requests(t.Context(), billing.DefaultOrganization, billing.Filter{}, billing.Page{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if row.UserAgent == userAgent {
				return row
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no row of %q", userAgent)
	return billing.Settlement{}
}
