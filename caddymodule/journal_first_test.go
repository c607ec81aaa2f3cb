package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// What an answer cost is in the journal before the client has the bytes that
// tell it: a gateway that dies right then charges it after all.
func TestTheJournalKnowsTheCostBeforeTheClientDoes(t *testing.T) {
	const (
		head  = `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":`
		chunk = head + `[{"index":0,"delta":{"content":"Hi"}}]}` + "\n\n"
		told  = `"prompt_tokens":1000`
		last  = head + `[],"usage":{` + told + `,"completion_tokens":500,"total_tokens":1500}}` + "\n\n"
	)
	release := make(chan struct{})
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, chunk, last)
		_ = http.NewResponseController(w).Flush()
		<-release // the end of the stream does not come yet
		fmt.Fprint(w, "data: [DONE]\n\n")
	})
	defer close(release)
	n.buy(t, metering.USD)
	const body = `{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}`
	res := n.do(t, "POST", oddChat, n.key(t, nil), body)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), told) {
	}
	settled := recovered(t, filepath.Dir(n.app.engine.config.journalDir), res.Header.Get("X-Request-Id"))
	if want := billing.Money(1500 * 1000); settled.Cost != want || settled.UsageSource != metering.SourceProvider {
		t.Errorf("the client has the usage, and the journal a cost of %s from %q; want %s from the provider",
			settled.Cost, settled.UsageSource, want)
	}
}

// answers is a provider's transport that answers with a status and a body.
type answers struct {
	status int
	body   string
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	length := int64(len(a.body))
	if a.status == http.StatusNotModified {
		length = -1
	}
	return &http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: length,
	}, nil
}

// impatient is a client that looks its request up as soon as it has the whole
// answer.
type impatient struct {
	nowhere
	left   int
	lookUp func(id string)
}

func (w *impatient) Write(b []byte) (int, error) {
	w.left -= len(b)
	return len(b), nil
}

func (w *impatient) Flush() {
	if w.left == 0 {
		w.lookUp(w.header.Get("X-Request-Id"))
	}
}

// Who has an answer finds it in the audit trail, be it free.
func TestAnswersAreSettledBeforeTheyEnd(t *testing.T) {
	const list = "/openai/v1/models"
	for name, test := range map[string]struct {
		method, path, body string
		answer             answers
	}{
		"an error":          {"POST", chat, hello, answers{400, `{"error":{"message":"no"}}`}},
		"a long error":      {"POST", chat, hello, answers{400, strings.Repeat("no ", maxPending)}},
		"a list":            {"GET", list, "", answers{200, `{"data":[]}`}},
		"of unknown length": {"GET", list, "", answers{304, ""}},
		"no body":           {"DELETE", list + "/ft:a", "", answers{204, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			h, key := openHandler(t, Storage{Driver: driverSQLite, DSN: filepath.Join(t.TempDir(), "gateway.db")}, test.answer)
			looked := 0
			w := &impatient{nowhere: nowhere{make(http.Header)}, left: len(test.answer.body), lookUp: func(id string) {
				looked++
				if err := h.app.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				row, err := h.app.Store().Request(t.Context(), billing.DefaultOrganization, id)
				if err != nil || row.Status != test.answer.status || row.Cost != 0 || row.Error != "" {
					t.Errorf("row %+v, %v", row, err)
				}
			}}
			r := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
			r.Header.Set("Authorization", "Bearer "+key)
			r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "127.0.0.1"}))
			caddyhttp.NewTestReplacer(r)
			if err := h.ServeHTTP(w, r, nil); err != nil || looked == 0 {
				t.Errorf("looked up %d times (%v)", looked, err)
			}
		})
	}
}
