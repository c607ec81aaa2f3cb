package sandbox

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// family is one generating endpoint.
type family struct {
	name   string
	call   call
	stream bool
	// start is what a stream must have sent before its first chunk.
	start string
	// fault is in a stream that reports an error, end in a complete one.
	fault, end string
}

func families() []family {
	const gemini = "/v1beta/models/gemini-2.5-flash:"
	return []family{
		{"chat", call{path: chatPath, body: chatBody}, false, "", "", ""},
		{"responses", call{path: "/v1/responses", body: inputBody}, false, "", "", ""},
		{"messages", call{path: "/v1/messages", body: messagesBody}, false, "", "", ""},
		{"gemini", call{path: gemini + "generateContent", body: geminiBody}, false, "", "", ""},
		{"chat stream", call{path: chatPath, body: streaming(chatBody)}, true, `"role":"assistant"`, `"server_error"`, "[DONE]"},
		{"completions stream", call{path: "/v1/completions", body: streaming(promptBody)}, true, "", `"server_error"`, "[DONE]"},
		{"responses stream", call{path: "/v1/responses", body: streaming(inputBody)}, true, "response.in_progress", "response.failed", "response.completed"},
		{"messages stream", call{path: "/v1/messages", body: streaming(messagesBody)}, true, "message_start", "overloaded_error", "message_stop"},
		{"gemini events", call{path: gemini + "streamGenerateContent?alt=sse", body: geminiBody}, true, "", "UNAVAILABLE", "finishReason"},
		{"gemini array", call{path: gemini + "streamGenerateContent", body: geminiBody}, true, "", "UNAVAILABLE", "finishReason"},
	}
}

// wordsIn counts the words of the default text that are chunks of a body.
func wordsIn(body []byte) int {
	n := 0
	for _, word := range []string{"The", " books", " balance:", " every", " token", " is"} {
		if bytes.Contains(body, []byte(`"`+word+`"`)) {
			n++
		}
	}
	return n
}

func TestFailures(t *testing.T) {
	t.Parallel()
	type want struct {
		err              error // of reading, nil for a clean end
		status           int   // as seen by the client
		complete, failed bool
		words            int // of a stream; -1 for all
		fault, end       bool
	}
	tests := []struct {
		name          string
		headers       []string
		stream, whole *want
	}{
		{
			"reset at once", []string{"X-Sandbox-Fail: reset"},
			&want{err: syscall.ECONNRESET, failed: true}, &want{err: syscall.ECONNRESET, failed: true},
		},
		{
			"reset after two chunks", []string{"X-Sandbox-Fail: reset", "X-Sandbox-Fail-After: 2", "X-Sandbox-Delay: 20ms"},
			&want{err: syscall.ECONNRESET, status: 200, words: 2}, nil,
		},
		{"truncate", []string{"X-Sandbox-Fail: truncate"}, &want{status: 200, words: 1}, &want{status: 200}},
		{"truncate before any chunk", []string{"X-Sandbox-Fail: truncate", "X-Sandbox-Fail-After: 0"}, &want{status: 200}, &want{status: 200}},
		{"truncate after all chunks", []string{"X-Sandbox-Fail: truncate", "X-Sandbox-Fail-After: 99"}, &want{status: 200, words: -1}, &want{status: 200}},
		{"error", []string{"X-Sandbox-Fail: error", "X-Sandbox-Fail-After: 3"}, &want{status: 200, words: 3, fault: true}, &want{status: 500, failed: true}},
		{"broken event", []string{"X-Sandbox-Fail: broken_sse"}, &want{status: 200, words: -1, complete: true, end: true}, &want{status: 400, failed: true}},
		{"no usage", []string{"X-Sandbox-Fail: no_usage"}, &want{status: 200, words: -1, complete: true, end: true}, &want{status: 200, complete: true}},
		{"empty", []string{"X-Sandbox-Fail: empty"}, &want{status: 200, failed: true}, &want{status: 200, failed: true}},
		{"html", []string{"X-Sandbox-Fail: html"}, &want{status: 200, failed: true}, &want{status: 200, failed: true}},
		{"html of a gateway", []string{"X-Sandbox-Fail: html", "X-Sandbox-Status: 502"}, &want{status: 502, failed: true}, &want{status: 502, failed: true}},
		{"status", []string{"X-Sandbox-Status: 429", "X-Sandbox-Retry-After: 7"}, &want{status: 429, failed: true}, &want{status: 429, failed: true}},
	}
	for _, test := range tests {
		for _, f := range families() {
			w := test.whole
			if f.stream {
				w = test.stream
			}
			if w == nil {
				continue
			}
			t.Run(test.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				c := f.call
				c.headers = test.headers
				got := l.do(t, c)
				if !errors.Is(got.err, w.err) || got.status != w.status {
					t.Fatalf("status %d and error %v, want %d and %v: %s", got.status, got.err, w.status, w.err, got.body)
				}
				l.settle(t)
				s := l.sole(t)
				if s.Complete != w.complete || s.Failed != w.failed || s.Status != w.status {
					t.Errorf("recorded %+v", s)
				}
				if w.failed && s.Usage != (metering.Usage{}) {
					t.Errorf("charged a failure: %+v", s.Usage)
				}
				if !f.stream || w.failed {
					return
				}
				wantWords, wantOutput := w.words, int64(w.words)
				if w.words < 0 {
					wantWords, wantOutput = 6, defaultUsage.Output
				}
				// A reset may take with it what was not yet read.
				if n := wordsIn(got.body); n != wantWords && w.err == nil {
					t.Errorf("%d words arrived, want %d: %s", n, wantWords, got.body)
				}
				if s.Usage.Output != wantOutput || s.Usage.Input != 5 {
					t.Errorf("recorded usage %+v, want %d words", s.Usage, wantOutput)
				}
				text := string(got.body)
				if strings.Contains(text, f.end) != w.end || strings.Contains(text, f.fault) != w.fault || !strings.Contains(text, f.start) {
					t.Errorf("body %s", text)
				}
			})
		}
	}
}

// TestBrokenEvent checks that exactly one piece of the stream is not JSON.
func TestBrokenEvent(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		if !f.stream || f.name == "gemini array" { // an array is broken as a whole
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			c := f.call
			c.headers = []string{"X-Sandbox-Fail: broken_sse", "X-Sandbox-Fail-After: 2"}
			broken := 0
			for _, e := range events(t, newLab(t).do(t, c).body) {
				if e.data != "[DONE]" && !json.Valid([]byte(e.data)) {
					broken++
				}
			}
			if broken != 1 {
				t.Errorf("%d broken events, want 1", broken)
			}
		})
	}
}

// TestStall checks that a stalled answer lasts until the client goes away,
// and that this is seen.
func TestStall(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		for _, after := range []string{"", "X-Sandbox-Fail-After: 0", "X-Sandbox-Fail-After: 2"} {
			t.Run(f.name+"/"+after, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				c := f.call
				c.headers = []string{"X-Sandbox-Fail: stall"}
				if after != "" {
					c.headers = append(c.headers, after)
				}
				r := l.request(t, c)
				ctx, cancel := context.WithTimeout(r.Context(), 300*time.Millisecond)
				defer cancel()
				res, err := client(t).Do(r.WithContext(ctx))
				if err == nil {
					_, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("error %v, want the client's own deadline", err)
				}
				if (res == nil) != (after == "") {
					t.Errorf("response %v", res)
				}
				totals := l.settle(t)
				if s := l.sole(t); s.Complete || s.Failed != (after == "") || s.Finished.Sub(s.Started) < 200*time.Millisecond {
					t.Errorf("recorded %+v", s)
				}
				if totals.Requests != 1 || totals.Complete != 0 {
					t.Errorf("totals %+v", totals)
				}
			})
		}
	}
}

// TestClientLeaves checks what is on the books when a client reads a part of
// a stream.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		if !f.stream {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			c := f.call
			c.headers = []string{"X-Sandbox-Chunks: 1000", "X-Sandbox-Delay: 20ms"}
			res, err := client(t).Do(l.request(t, c))
			if err != nil {
				t.Fatal(err)
			}
			var read []byte
			for buf := make([]byte, 4096); bytes.Count(read, []byte(filler[:7])) < 1; {
				n, err := res.Body.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				read = append(read, buf[:n]...)
			}
			_ = res.Body.Close()
			totals := l.settle(t)
			s := l.sole(t)
			if s.Complete || s.Failed || s.UsageReported || s.Usage.Input != 5 || s.Usage.Output < 1 || s.Usage.Output > 900 {
				t.Errorf("recorded %+v", s)
			}
			if want := (Totals{Requests: 1, Partial: 1, PartialUsage: s.Usage}); totals != want {
				t.Errorf("totals %+v, want %+v", totals, want)
			}
		})
	}
}

func TestFailTimes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		headers []string
		want    []int
	}{
		"status":       {[]string{"X-Sandbox-Status: 503", "X-Sandbox-Fail-Times: 2"}, []int{503, 503, 200, 200}},
		"reset":        {[]string{"X-Sandbox-Fail: reset", "X-Sandbox-Fail-Times: 1"}, []int{0, 200, 200}},
		"slow headers": {[]string{"X-Sandbox-Fail: slow_headers", "X-Sandbox-First-Delay: 1ms", "X-Sandbox-Fail-Times: 1"}, []int{200, 200}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			for _, id := range []string{"one", "two"} {
				var got []int
				for range test.want {
					got = append(got, l.do(t, call{path: chatPath, body: chatBody, headers: append(test.headers, "X-Sandbox-Id: "+id)}).status)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("%s: statuses (-want +got):\n%s", id, diff)
				}
			}
			if served := l.Served(); served[len(served)-1].ScriptID != "two" {
				t.Errorf("recorded %+v", served)
			}
		})
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		headers []string
		// headersAfter and bodyAfter are the least times from the start.
		headersAfter, bodyAfter time.Duration
		early                   bool
	}{
		"first delay comes after the headers": {[]string{"X-Sandbox-First-Delay: 300ms"}, 0, 300 * time.Millisecond, true},
		"slow headers":                        {[]string{"X-Sandbox-First-Delay: 300ms", "X-Sandbox-Fail: slow_headers"}, 300 * time.Millisecond, 300 * time.Millisecond, false},
		"delay between chunks":                {[]string{"X-Sandbox-Chunks: 4", "X-Sandbox-Delay: 100ms"}, 0, 300 * time.Millisecond, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			started := time.Now()
			res, err := client(t).Do(l.request(t, call{path: chatPath, body: streaming(chatBody), headers: test.headers}))
			if err != nil {
				t.Fatal(err)
			}
			headers := time.Since(started)
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			body := time.Since(started)
			if err != nil || headers < test.headersAfter || body < test.bodyAfter {
				t.Errorf("headers after %v, body after %v, %v", headers, body, err)
			}
			if test.early && body-headers < 100*time.Millisecond {
				t.Errorf("headers only after %v of %v", headers, body)
			}
		})
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			c := f.call
			plain := l.do(t, c)
			c.headers = []string{"X-Sandbox-Gzip: 1"}
			packed := l.do(t, c)
			if packed.header.Get("Content-Encoding") != "gzip" {
				t.Fatalf("headers %v", packed.header)
			}
			r, err := gzip.NewReader(bytes.NewReader(packed.body))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			served := l.Served()
			same := slices.Equal(stripIDs(body, served[1]), stripIDs(plain.body, served[0]))
			if !same || !served[1].Complete {
				t.Errorf("unpacked %s\nplain %s", body, plain.body)
			}
		})
	}
}

// stripIDs takes out what differs between two answers.
func stripIDs(body []byte, s Served) []byte {
	_, id, found := strings.Cut(s.ID, "_")
	if !found {
		_, id, found = strings.Cut(s.ID, "-")
	}
	if !found {
		id = s.ID
	}
	body = bytes.ReplaceAll(body, []byte(id), nil)
	for _, key := range []string{`"created":`, `"created_at":`} {
		for i := bytes.Index(body, []byte(key)); i >= 0; i = bytes.Index(body, []byte(key)) {
			end := i + len(key) + len("1795430000")
			body = append(slices.Clone(body[:i]), body[end:]...)
		}
	}
	return body
}
