package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// startBefore runs a gateway whose provider "odd" is what the sandbox never
// is, and speaks OpenAI's protocol.
func startBefore(t *testing.T, odd http.HandlerFunc, options ...string) *node {
	t.Helper()
	upstream := httptest.NewServer(odd)
	t.Cleanup(upstream.Close)
	return start(t, fmt.Sprintf(`provider odd {
			protocol openai
			api_key provider-secret
			base_url %s/v1
			%s
		}
		price odd gpt-4o {
			input 1
			output 1
		}`, upstream.URL, strings.Join(options, "\n")))
}

const oddChat = "/odd/chat/completions"

func TestFreeRoutesMakeEndpointsOfOtherProvidersFree(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") },
		"free_route /moderations /conversations*")
	for _, test := range []struct {
		name, method, path string
		limited            bool
		status             int
	}{
		{"named", "POST", "/odd/moderations", false, 200},
		{"named by a pattern", "POST", "/odd/v1/conversations/c/items", false, 200},
		{"named, without a model, with a limited key", "POST", "/odd/conversations", true, 200},
		{"not named", "POST", "/odd/files", false, 400},
		{"reading", "GET", "/odd/files", false, 200},
		{"deleting", "DELETE", "/odd/files/f", false, 200},
	} {
		key := n.key(t, func(k *billing.Key) {
			if test.limited {
				k.AllowedModels = []string{"gpt-4o"}
			}
		})
		res := n.do(t, test.method, test.path, key, `{}`)
		body := read(t, res)
		if res.StatusCode != test.status {
			t.Errorf("%s: status %d, want %d: %s", test.name, res.StatusCode, test.status, body)
		}
		if row := n.row(t, res.Header.Get("X-Request-Id")); row.Cost != 0 || row.UsageSource != metering.SourceNone {
			t.Errorf("%s: cost %s, source %s", test.name, row.Cost, row.UsageSource)
		}
		if test.status == 400 && !strings.Contains(body, "free_route /files") {
			t.Errorf("%s: the answer does not name the option: %s", test.name, body)
		}
	}
}

func TestStreamsAreToldByTheirStartWhateverTheirType(t *testing.T) {
	const events = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n" +
		"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n"
	const whole = `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("X-Type"))
		for _, c := range r.Header.Get("X-Start") {
			fmt.Fprintf(w, "%c", c)
			http.NewResponseController(w).Flush()
		}
		if r.Header.Get("X-Start") != "" {
			io.WriteString(w, "\n")
		}
		if r.Header.Get("X-Whole") != "" {
			io.WriteString(w, whole)
			return
		}
		io.WriteString(w, events)
	})
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for _, test := range []struct {
		name, body string
		headers    []string
		streaming  bool
	}{
		{"events", stream, []string{"X-Type", "text/event-stream"}, true},
		{"type with parameters that do not parse", stream, []string{"X-Type", "Text/Event-Stream; charset"}, true},
		{"the same, unasked", hello, []string{"X-Type", "text/event-stream; charset"}, true},
		{"type of plain text", stream, []string{"X-Type", "text/plain"}, true},
		{"type of JSON", stream, []string{"X-Type", "application/json"}, true},
		{"comment first, alone", stream, []string{"X-Type", "text/plain", "X-Start", ":"}, true},
		{"name first, in pieces", stream, []string{"X-Type", "text/plain", "X-Start", "event: message"}, true},
		{"whole body", hello, []string{"X-Type", "application/json", "X-Whole", "1"}, false},
	} {
		res := n.do(t, "POST", oddChat, key, test.body, test.headers...)
		body := read(t, res)
		if test.streaming && (!strings.Contains(body, "data: {") || !strings.HasSuffix(body, "data: [DONE]\n\n")) {
			t.Errorf("%s: the client got %q", test.name, body)
		}
		if hidden := !strings.Contains(body, `"usage"`); hidden != (test.body == stream) {
			t.Errorf("%s: usage hidden: %v", test.name, hidden)
		}
		row := n.row(t, res.Header.Get("X-Request-Id"))
		if row.UsageSource != metering.SourceProvider || row.Usage.Prompt() != 7 || row.Streaming != test.streaming && test.body == hello {
			t.Errorf("%s: source %s, %d prompt tokens, streaming %v", test.name, row.UsageSource, row.Usage.Prompt(), row.Streaming)
		}
	}
}

func TestBodyTooLargeToMeterIsPaidBeforeItGoesOut(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, _ *http.Request) {
		piece := bytes.Repeat([]byte{' '}, 1<<20)
		for range maxMeteredBody>>20 + 1 {
			w.Write(piece)
		}
	})
	n.buy(t, metering.USD)
	res := n.do(t, "POST", oddChat, n.key(t, nil), hello)
	// Nothing of the body is read, so most of it is still with the gateway.
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if row.UsageSource != metering.SourceEstimated || row.Usage.Output != 4096 || row.Cost == 0 {
		t.Errorf("source %s, %d tokens of output, cost %s", row.UsageSource, row.Usage.Output, row.Cost)
	}
	if size, err := io.Copy(io.Discard, res.Body); err != nil || size != maxMeteredBody+1<<20 {
		t.Errorf("got %d bytes (%v)", size, err)
	}
}

func TestRateIsOnEveryAnswer(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	limit := func(change func(*billing.Key)) string {
		return n.key(t, func(k *billing.Key) {
			k.RateLimitRPM = 3
			change(k)
		})
	}
	mini := limit(func(k *billing.Key) { k.AllowedModels = []string{"gpt-4o-mini"} })
	revoked := limit(func(k *billing.Key) { k.RevokedAt = time.Now() })
	good := limit(func(*billing.Key) {})
	for _, test := range []struct {
		name, key, path, body string
		status                int
		remaining             string
	}{
		{"model not allowed", mini, chat, hello, 403, "3"},
		{"revoked", revoked, chat, hello, 403, "3"},
		{"invalid body", good, chat, "{", 400, "3"},
		{"counted", good, chat, hello, 200, "2"},
		{"invalid body after that", good, chat, "{", 400, "2"},
		{"not priced", good, chat, fmt.Sprintf(helloTo, "gpt-99"), 400, "2"},
		{"free", good, "/openai/v1/moderations", `{"model":"m","input":"x"}`, 200, "1"},
		{"last", good, chat, hello, 200, "0"},
		{"one too many", good, chat, hello, 429, "0"},
		{"invalid body at the end", good, chat, "{", 400, "0"},
	} {
		if test.key == mini {
			inOneMinute()
		}
		res := n.do(t, "POST", test.path, test.key, test.body)
		h := res.Header
		if res.StatusCode != test.status || h.Get("X-RateLimit-Limit") != "3" || h.Get("X-RateLimit-Remaining") != test.remaining {
			t.Errorf("%s: status %d, limit %q, remaining %q; want %d, 3, %s", test.name, res.StatusCode,
				h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), test.status, test.remaining)
		}
		if reset, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64); err != nil || reset < time.Now().Unix() {
			t.Errorf("%s: reset %q", test.name, h.Get("X-RateLimit-Reset"))
		}
	}
}

func TestProviderCannotSpeakForTheGateway(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("X-RateLimit-Limit", "999")
		h.Set("X-RateLimit-Remaining", "998")
		h.Set("X-RateLimit-Reset", "997")
		h.Set("X-RateLimit-Limit-Requests", "996")
		h.Set("X-Request-Id", "theirs")
		h.Set("X-Gateway-Error", "rate_limited")
		h.Set("X-Gateway-Changes", "model")
		io.WriteString(w, "{}")
	})
	names := []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Limit-Requests", "X-Gateway-Error", "X-Gateway-Changes", providerRequestID}
	for _, test := range []struct {
		rpm  int64
		want []string
	}{
		{5, []string{"5", "4", "996", "", "", "theirs"}},
		{0, []string{"999", "998", "996", "", "", "theirs"}},
	} {
		res := n.do(t, "GET", "/odd/models", n.key(t, func(k *billing.Key) { k.RateLimitRPM = test.rpm }), "")
		var got []string
		for _, name := range names {
			got = append(got, res.Header.Get(name))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("limit of %d: %v (-want +got):\n%s", test.rpm, names, diff)
		}
		if len(res.Header.Values("X-Request-Id")) != 1 || res.Header.Get("X-Request-Id") == "theirs" {
			t.Errorf("X-Request-Id %q", res.Header.Values("X-Request-Id"))
		}
	}
}

func TestAccessLogIsOfTheURIBeforeRewrites(t *testing.T) {
	t.Parallel()
	original := httptest.NewRequest("GET", "/before?key="+unknownKey, nil)
	ctx := context.WithValue(t.Context(), caddyhttp.OriginalRequestCtxKey, *original)
	rewritten := httptest.NewRequestWithContext(ctx, "GET", "/after", nil)
	if !exposesCredential(rewritten) {
		t.Error("the key that Caddy would log is not seen")
	}
	if got, want := redact(rewritten).RequestURI, "/before?key=REDACTED"; got != want {
		t.Errorf("URI %q, want %q", got, want)
	}
	if plain := httptest.NewRequest("GET", "/before?monkey=1&page=%20", nil); exposesCredential(plain) {
		t.Error("a request without credentials is taken for one that has some")
	}
}

func TestNothingWithAProxyKeyGoesToTheProvider(t *testing.T) {
	n := start(t, "")
	key := n.key(t, nil)
	tail := unknownKey[len(billing.KeyPrefix):]
	res := n.do(t, "DELETE", "/openai/v1/echo/a?x=%20&k="+key+"&y=%zz&a=1;key="+key+"&e=%73k%2dproxy-"+tail+"&z", key, "",
		"Api-Key", key, "Referer", "http://localhost/?key=sk%2Dproxy-"+tail, "User-Agent", "sdk/1 "+key, key, "1", "X-Kept", "%zz")
	var got sandbox.Echo
	if err := json.Unmarshal([]byte(read(t, res)), &got); err != nil {
		t.Fatal(err)
	}
	if want := "x=%20&y=%zz&z"; got.Query != want {
		t.Errorf("query %q, want %q", got.Query, want)
	}
	want := http.Header{"Authorization": {"Bearer provider-secret"}, "X-Kept": {"%zz"}, "Accept-Encoding": {"gzip"}}
	if diff := cmp.Diff(want, got.Headers); diff != "" {
		t.Errorf("headers at the provider (-want +got):\n%s", diff)
	}
	if row := n.row(t, res.Header.Get("X-Request-Id")); row.UserAgent != redacted {
		t.Errorf("user agent %q is stored", row.UserAgent)
	}
}

func TestRefusedRequestsDoNotFillTheStore(t *testing.T) {
	n := start(t, "")
	key := n.key(t, func(k *billing.Key) { k.RevokedAt = time.Now() })
	from := time.Now()
	for range 2*maxRefusedRows + 10 {
		if res := n.do(t, "POST", chat, key, hello); res.StatusCode != 403 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	minutes := int(time.Now().Unix()/60-from.Unix()/60) + 1
	if err := n.app.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := n.app.Store().Requests(t.Context(), billing.DefaultOrganization, billing.Filter{}, billing.Page{Limit: 400})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < maxRefusedRows || len(rows) > minutes*maxRefusedRows {
		t.Errorf("%d rows in %d minutes, want at most %d each", len(rows), minutes, maxRefusedRows)
	}
	// Another key is not affected, nor are requests that are not refused.
	res := n.do(t, "GET", "/openai/v1/models", n.key(t, nil), "")
	if row := n.row(t, res.Header.Get("X-Request-Id")); row.Status != 200 {
		t.Errorf("status %d", row.Status)
	}
}

// leavingWriter is a client that leaves when it has got what it waits for.
type leavingWriter struct {
	*httptest.ResponseRecorder
	until string
	leave context.CancelFunc
}

func (w *leavingWriter) FlushError() error {
	if strings.HasSuffix(w.Body.String(), w.until) {
		w.leave()
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func TestClientThatLeavesWithTheWholeAnswerHasNotDisconnected(t *testing.T) {
	const events = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n"
	const file = "the whole file"
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			io.WriteString(w, file)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, events)
	})
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for _, test := range []struct{ method, path, body, until, want string }{
		{"GET", "/odd/files/f/content", "", file, ""},
		{"POST", oddChat, stream, events, ""},
	} {
		ctx, leave := context.WithCancel(t.Context())
		w := &leavingWriter{ResponseRecorder: httptest.NewRecorder(), until: test.until, leave: leave}
		n.serve(ctx, t, w, test.method, test.path, key, strings.NewReader(test.body))
		if ctx.Err() == nil {
			t.Errorf("%s: the client got %q", test.path, w.Body)
		}
		if row := n.row(t, w.Header().Get("X-Request-Id")); row.Error != test.want || row.UsageSource == metering.SourceDrained {
			t.Errorf("%s: error %q, source %s", test.path, row.Error, row.UsageSource)
		}
		leave()
	}
}

// serve hands a request to the handler without a connection.
func (n *node) serve(ctx context.Context, t *testing.T, w http.ResponseWriter, method, path, key string, body io.Reader) {
	t.Helper()
	r := httptest.NewRequestWithContext(ctx, method, path, body)
	r.Header.Set("Authorization", "Bearer "+key)
	handler := &Handler{app: n.app}
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := handler.ServeHTTP(w, r, next); err != nil {
		t.Error(err)
	}
}

// leavingReader is a body whose sender leaves after it.
type leavingReader struct {
	io.Reader
	leave context.CancelFunc
}

func (r leavingReader) Read(p []byte) (int, error) {
	r.leave()
	return r.Reader.Read(p)
}

func TestRequestsDoNotFloodTheLog(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	core, logged := observer.New(zapcore.DebugLevel)
	n.app.requestLog = perRequest(zap.New(core))
	begin := time.Now()
	const requests = 100
	for range requests {
		if res := n.do(t, "POST", "/unreachable/chat/completions", key, hello); res.StatusCode != 502 && res.StatusCode != 503 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	most := 10 * (int(time.Since(begin).Seconds()) + 2)
	failed := logged.FilterMessage("upstream request failed").Len() // until the breaker opens
	if lines := logged.FilterMessage("provider temporarily unavailable").Len(); failed == 0 || lines > most {
		t.Errorf("%d lines about %d requests, want 1 to %d", lines, requests, most)
	}
	for range 3 {
		ctx, leave := context.WithCancel(t.Context())
		body := leavingReader{strings.NewReader(hello), leave}
		logged.TakeAll()
		n.app.requestLog = perRequest(zap.New(core)) // one that has not seen too many yet
		n.serve(ctx, t, httptest.NewRecorder(), "POST", "/unreachable/chat/completions", key, body)
		lines := logged.TakeAll()
		if len(lines) != 1 || lines[0].Level != zapcore.DebugLevel {
			t.Errorf("logged of a client that has left: %v, want one line for debugging", lines)
		}
	}
}
