package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRecordedAnswers replays recorded answers of all providers, cut into
// pieces, and compares what the client gets byte by byte, and what is booked.
func TestRecordedAnswers(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		traces := provider.loadTraces(t)
		g := startGateway(t, config{storage: storage, upstream: provider.url, extra: recordUnpriced + compatible(provider.url)})
		g.buyCredits(t, "large")
		key := g.createKey(t, "recorded", nil).Key
		for _, name := range slices.Sorted(maps.Keys(traces)) {
			t.Run(name, func(t *testing.T) {
				tr := traces[name]
				res, body := g.replay(t, key, name, tr)
				if res.StatusCode != tr.Status {
					t.Errorf("status = %d, want the provider's %d", res.StatusCode, tr.Status)
				}
				if got := res.Header.Get("Content-Type"); got != tr.ContentType {
					t.Errorf("Content-Type = %q, want the provider's %q", got, tr.ContentType)
				}
				checkBytes(t, body, provider.decoded(t, name))
				checkCounts(t, g.mustAudit(t, res.Header.Get("X-Request-Id")), tr)
			})
		}
		g.checkBooksBalance(t)
	})
}

// recordUnpriced lets requests through whose price is not known.
const recordUnpriced = "unpriced record\n"

// compatible configures a further provider that speaks OpenAI's protocol.
func compatible(url string) string {
	return "provider openai-compat {\nprotocol openai\nbase_url " + url + "/v1\napi_key {env.PROVIDER_KEY}\n}\n"
}

// TestHiddenUsageEvent checks the one difference between what the provider
// sends and what the client gets: the usage that only the gateway asked for.
func TestHiddenUsageEvent(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		traces := provider.loadTraces(t)
		g := startGateway(t, config{storage: storage, upstream: provider.url})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "did not ask", nil).Key

		const name = "oa_chat_stream_usage.sse"
		tr := traces[name]
		tr.Request = json.RawMessage(`{"model": "gpt-4o", "stream": true}`)
		res, body := g.replay(t, key, name, tr)

		var want []byte
		hidden := 0
		for event := range strings.SplitAfterSeq(string(provider.decoded(t, name)), "\n\n") {
			if strings.Contains(event, `"choices":[]`) {
				hidden++
				continue
			}
			want = append(want, event...)
		}
		if hidden != 1 {
			t.Fatalf("the recording has %d usage events, want 1", hidden)
		}
		checkBytes(t, body, want)
		g.checkBooked(t, res.Header.Get("X-Request-Id"), charge{
			provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions", streaming: true,
			used: tokens{input: 9, output: 5},
		})
	})
}

// replay sends the request that a trace is the answer to.
func (g *gateway) replay(t *testing.T, key, name string, tr trace) (*http.Response, []byte) {
	t.Helper()
	body := map[string]any{}
	if err := json.Unmarshal(tr.Request, &body); err != nil {
		t.Fatalf("read the trace's request: %v", err)
	}
	body["messages"] = []map[string]string{{"role": "user", "content": "hello"}}
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatalf("encode request: %v", err)
	}
	return g.send(t, key, http.MethodPost, tr.gatewayPath(), bytes.NewReader(b), map[string]string{
		recordingHeader: name,
		"Content-Type":  "application/json",
	})
}

// send sends a request, with a key unless it is empty, and reads the answer to
// its end, however that comes.
func (g *gateway) send(t *testing.T, key, method, path string, body io.Reader, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.url+path, body)
	if err != nil {
		t.Fatalf("make request: %v", err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Logf("%s %s: body ended with: %v", method, path, err)
	}
	return res, got
}

// decoded is a recording's body without its compression.
func (p *tape) decoded(t *testing.T, name string) []byte {
	t.Helper()
	p.mu.Lock()
	rec := p.recordings[name]
	p.mu.Unlock()
	if rec.header["content-encoding"] != "gzip" {
		return rec.body
	}
	r, err := gzip.NewReader(bytes.NewReader(rec.body))
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("decode %s: %v", name, err)
	}
	return b
}

func checkBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("bytes differ from the provider's at %d (%d bytes, want %d):\ngot  %.200q\nwant %.200q",
		at, len(got), len(want), got[at:], want[at:])
}

// checkCounts compares an audit row with what is known about the answer.
func checkCounts(t *testing.T, row auditRow, tr trace) {
	t.Helper()
	if row.Status != tr.Status {
		t.Errorf("audit row has status %d, want %d", row.Status, tr.Status)
	}
	if tr.StreamError && row.Error == "" {
		t.Error("audit row says nothing about the error inside the stream")
	}
	if tr.Expected.Free || tr.Status != http.StatusOK {
		if row.CostNanos != 0 || row.MarketCostNanos != 0 {
			t.Errorf("cost = %d of %d, want nothing", row.CostNanos, row.MarketCostNanos)
		}
		return
	}
	if tr.unmetered() {
		if row.UsageSource != "none" || row.CostNanos != 0 {
			t.Errorf("usage source %q and cost %d for an endpoint that is not metered", row.UsageSource, row.CostNanos)
		}
		return
	}
	if !tr.UsageFound {
		return
	}
	wantSource := "provider"
	if !tr.Final {
		wantSource = "provider_partial"
	}
	if row.UsageSource != wantSource {
		t.Errorf("usage source = %q, want %q", row.UsageSource, wantSource)
	}
	want := map[string]int64{"prompt": *tr.Expected.Prompt, "cached": *tr.Expected.CachedRead, "cache write": *tr.Expected.CacheWrite5m + *tr.Expected.CacheWrite1h}
	got := map[string]int64{"prompt": row.PromptTokens, "cached": row.CachedTokens, "cache write": row.CacheWriteTokens}
	if tr.Final { // else the completion is a floor
		want["completion"], want["reasoning"] = *tr.Expected.Completion, *tr.Expected.Reasoning
		got["completion"], got["reasoning"] = row.CompletionTokens, row.ReasoningTokens
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}
