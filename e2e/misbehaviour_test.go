package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestMisbehavingProvider checks that the client gets what a provider sends on
// its bad days, as it came, and that the audit row says so.
func TestMisbehavingProvider(t *testing.T) {
	t.Parallel()
	chunk := `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hi"}}]}` + "\n\n"
	usage := `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}` + "\n\n"
	const done = "data: [DONE]\n\n"
	long := fmt.Sprintf(`data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":%q}}]}`+"\n\n",
		strings.Repeat("x", 10<<20))
	fullUsage := tokens{input: 9, output: 5}

	tests := map[string]struct {
		recording
		// charged is set where the provider's final usage arrived.
		charged *tokens
		// named tells that the audit row must name what went wrong, beside
		// saying that its usage is not the provider's last word.
		named bool
	}{
		"a line of 10 MiB":     {recording: recording{body: []byte(long + usage + done), piece: 64 << 10}, charged: &fullUsage},
		"an event of no JSON":  {recording: recording{body: []byte(chunk + "data: {oops\n\n" + usage + done)}, charged: &fullUsage},
		"a field of no name":   {recording: recording{body: []byte(chunk + "what is this\n\n" + usage + done)}, charged: &fullUsage},
		"an error inside":      {recording: recording{body: []byte(chunk + `data: {"error":{"message":"overloaded","type":"server_error"}}` + "\n\n")}, named: true},
		"a reset in between":   {recording: recording{body: []byte(chunk + chunk), reset: true}, named: true},
		"an end in mid-event":  {recording: recording{body: []byte(chunk + chunk[:40])}},
		"an end before [DONE]": {recording: recording{body: []byte(chunk + usage)}, charged: &fullUsage},
	}
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		g := startGateway(t, config{storage: storage, upstream: provider.url})
		g.buyCredits(t, "large") // a line of 10 MiB looks expensive until the usage comes
		key := g.createKey(t, "unlucky", nil).Key
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				rec := tt.recording
				rec.status, rec.header = http.StatusOK, map[string]string{"Content-Type": "text/event-stream"}
				provider.add(name, rec)
				res, body := g.send(t, key, http.MethodPost, "/openai/v1/chat/completions",
					strings.NewReader(`{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello"}]}`),
					map[string]string{recordingHeader: name, "Content-Type": "application/json"})
				if res.StatusCode != http.StatusOK {
					t.Errorf("status = %d, want the provider's 200", res.StatusCode)
				}
				if !bytes.Equal(body, rec.body) {
					checkBytes(t, body, rec.body)
				}
				id := res.Header.Get("X-Request-Id")
				if tt.charged != nil {
					g.checkBooked(t, id, charge{
						provider: "openai", model: "gpt-4o", endpoint: "chat/completions", streaming: true, used: *tt.charged,
					})
					return
				}
				row := g.mustAudit(t, id)
				if tt.named && row.Error == "" {
					t.Error("the audit row says nothing about what went wrong")
				}
				if row.UsageSource == "provider" {
					t.Error("the audit row claims the provider's final usage, which never came")
				}
			})
		}
		g.checkBooksBalance(t)
	})
}
