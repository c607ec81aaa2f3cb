package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// lab is a provider behind a real server.
type lab struct {
	*Provider
	url string
}

func newLab(tb testing.TB) lab {
	tb.Helper()
	p := New()
	server := httptest.NewServer(p)
	tb.Cleanup(server.Close)
	return lab{p, server.URL}
}

// call is a request in one of the protocols; headers are "Name: value" lines.
type call struct {
	method, path, body string
	headers            []string
}

func (l lab) request(tb testing.TB, c call) *http.Request {
	tb.Helper()
	method := c.method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(tb.Context(), method, l.url+c.path, strings.NewReader(c.body))
	if err != nil {
		tb.Fatal(err)
	}
	switch {
	case strings.Contains(c.path, "/messages"):
		r.Header.Set("X-Api-Key", "test")
		r.Header.Set("Anthropic-Version", "2023-06-01")
	case strings.Contains(c.path, "/models/") && r.Method == http.MethodPost:
		r.Header.Set("X-Goog-Api-Key", "test")
	default:
		r.Header.Set("Authorization", "Bearer test")
	}
	for _, line := range c.headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
		if value == "" {
			r.Header.Del(name)
		}
	}
	return r
}

// reply is what a client got.
type reply struct {
	status int
	header http.Header
	body   []byte
	// err is how reading ended, nil if it ended well.
	err error
}

// client neither reuses connections nor unpacks gzip, so that each test sees
// its own connection and the bytes on the wire.
func client(tb testing.TB) *http.Client {
	tb.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func (l lab) do(t *testing.T, c call) reply {
	t.Helper()
	res, err := client(t).Do(l.request(t, c))
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return reply{status: res.StatusCode, header: res.Header, body: body, err: err}
}

// sole returns the only record.
func (l lab) sole(t *testing.T) Served {
	t.Helper()
	served := l.Served()
	if len(served) != 1 {
		t.Fatalf("served %d answers, want 1: %+v", len(served), served)
	}
	return served[0]
}

// settle waits until nothing is being served.
func (l lab) settle(t *testing.T) Totals {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		totals := l.Totals()
		if totals.Open == 0 {
			return totals
		}
		if time.Now().After(deadline) {
			t.Fatalf("still open after 10s: %+v", totals)
		}
		time.Sleep(time.Millisecond)
	}
}

// event is one server-sent event.
type event struct{ name, data string }

// events cuts a stream into its events, strictly: each line is a field that
// providers use.
func events(t *testing.T, body []byte) []event {
	t.Helper()
	var all []event
	var e event
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := lines.Text() // without its \n or \r\n
		switch {
		case line == "":
			all = append(all, e)
			e = event{}
		case strings.HasPrefix(line, "event: "):
			e.name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			e.data += line[len("data: "):]
		default:
			t.Fatalf("unexpected line %q", line)
		}
	}
	if e != (event{}) {
		t.Fatalf("stream ends inside an event: %+v", e)
	}
	return all
}

// parse reads JSON into a plain value.
func parse(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %.300s", err, data)
	}
	return v
}

// at follows a path of keys and indexes, nil if it leads nowhere.
func at(v any, path ...any) any {
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[s]
		case int:
			a, _ := v.([]any)
			if s >= len(a) {
				return nil
			}
			v = a[s]
		}
	}
	return v
}

// Requests that a few tests share. Their prompt is 20 bytes: 5 tokens.
const (
	chatBody     = `{"model":"gpt-4o","messages":[{"role":"user","content":"twenty bytes of text"}]}`
	messagesBody = `{"model":"claude-haiku-4-5","max_tokens":1000,"messages":[{"role":"user","content":"twenty bytes of text"}]}`
	geminiBody   = `{"contents":[{"role":"user","parts":[{"text":"twenty bytes of text"}]}]}`
	inputBody    = `{"model":"gpt-4o","input":"twenty bytes of text"}`
	promptBody   = `{"model":"gpt-4o","prompt":"twenty bytes of text"}`
)

// streaming sets stream in a body.
func streaming(body string) string { return `{"stream":true,` + body[1:] }

// defaultUsage is what the requests above cost: the default text has 11 words.
var defaultUsage = metering.Usage{Input: 5, Output: 11}
