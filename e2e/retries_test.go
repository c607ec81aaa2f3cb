package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// TestProviderThatFailsIsAskedAgain lets the sandbox fail once under each
// request: the client sees one whole answer, the books one charge.
func TestProviderThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := sandbox.New()
		g := startGateway(t, config{storage: storage, upstream: serve(t, provider), extra: "first_byte_timeout 500ms\nidle_timeout 500ms"})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "patient", nil).Key
		const whole, stream = `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}]}`, `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hello"}]}`
		for i, tt := range []struct {
			name, body, script string
			want               string // status and error of the attempt that failed
		}{
			{"reset", whole, "Fail: reset", "null connection reset"},
			{"reset of a stream", stream, "Fail: reset", "null connection reset"},
			{"half an answer", whole, "Fail: reset, Fail-After: 1", "200 connection reset"},
			{"half an answer, then silence", whole, "Fail: stall, Fail-After: 1", "200 timed out"},
			{"silence", stream, "Fail: stall", "null timed out"},
			{"overloaded", whole, "Status: 529", "529 null"},
			{"rate limited stream", stream, "Status: 429", "429 null"},
		} {
			header := map[string]string{
				"Content-Type": "application/json", "X-Sandbox-Id": fmt.Sprint("case-", i), "X-Sandbox-Fail-Times": "1",
				"X-Sandbox-Prompt": "700", "X-Sandbox-Completion": "60",
			}
			for pair := range strings.SplitSeq(tt.script, ", ") {
				name, value, _ := strings.Cut(pair, ": ")
				header["X-Sandbox-"+name] = value
			}
			before := provider.Totals()
			res, body := g.send(t, key, http.MethodPost, "/openai/v1/chat/completions", strings.NewReader(tt.body), header)
			if res.StatusCode != http.StatusOK || tt.body == stream && !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
				t.Errorf("%s: status %d, %s", tt.name, res.StatusCode, body)
			}
			id := res.Header.Get("X-Request-Id")
			g.checkBooked(t, id, charge{
				provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions", streaming: tt.body == stream,
				used: tokens{input: 700, output: 60},
			})
			if diff := cmp.Diff([]string{tt.want, "200 null"}, g.attempts(t, id)); diff != "" {
				t.Errorf("%s: attempts (-want +got):\n%s", tt.name, diff)
			}
			if complete := provider.Totals().Complete - before.Complete; complete != 1 {
				t.Errorf("%s: the provider gave %d whole answers", tt.name, complete)
			}
		}
		var providers list[struct {
			Name    string
			Breaker struct{ State string }
		}]
		g.must(t, http.MethodGet, "/v1/providers", nil, &providers)
		if len(providers.Data) != 3 || providers.Data[2].Name != "openai" || providers.Data[2].Breaker.State != "closed" {
			t.Errorf("providers %+v", providers.Data)
		}
		g.checkBooksBalance(t)
	})
}

// TestRouteFallsBack asks an SDK's way for a route whose first target cannot be
// reached.
func TestRouteFallsBack(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := sandbox.New()
		g := startGateway(t, config{storage: storage, upstream: serve(t, provider), extra: `provider gone {
			protocol openai
			api_key {env.PROVIDER_KEY}
			base_url http://127.0.0.1:1/v1
		}
		price gone gpt-4o {
			input 20
			output 80
		}
		route fast {
			gone/gpt-4o
			openai/gpt-4o
		}`})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "routed", map[string]any{"allowed_models": []string{"fast"}}).Key
		for _, stream := range []bool{false, true} {
			res, body := g.send(t, key, http.MethodPost, "/v1/chat/completions",
				strings.NewReader(fmt.Sprintf(`{"model":"fast","stream":%v,"messages":[{"role":"user","content":"hello"}]}`, stream)),
				map[string]string{"Content-Type": "application/json", "X-Sandbox-Prompt": "700", "X-Sandbox-Completion": "60"})
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d, %s", res.StatusCode, body)
			}
			id := res.Header.Get("X-Request-Id")
			g.checkBooked(t, id, charge{
				provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions", streaming: stream,
				used: tokens{input: 700, output: 60},
			})
			if diff := cmp.Diff([]string{"null connection failed", "200 null"}, g.attempts(t, id)); diff != "" {
				t.Errorf("attempts (-want +got):\n%s", diff)
			}
		}
		g.checkBooksBalance(t)
	})
}

// attempts are the statuses and errors of a request's attempts.
func (g *gateway) attempts(t *testing.T, requestID string) []string {
	t.Helper()
	var row struct {
		Attempts   int
		AttemptLog []struct {
			Status *int
			Error  *string
		} `json:"attempt_log"`
	}
	g.must(t, http.MethodGet, "/v1/audit/"+requestID, nil, &row)
	var list []string
	for _, a := range row.AttemptLog {
		status, err := "null", "null"
		if a.Status != nil {
			status = fmt.Sprint(*a.Status)
		}
		if a.Error != nil {
			err = *a.Error
		}
		list = append(list, status+" "+err)
	}
	if row.Attempts != len(list) {
		t.Errorf("%d attempts, %d in the log", row.Attempts, len(list))
	}
	return list
}
