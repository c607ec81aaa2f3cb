package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

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
