package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// word is a piece of text that seems to be two tokens.
const word = "12345678"

// startPausing runs a gateway with a provider for each protocol, whose streams
// begin with the given events, go on with many words, and close with others.
// A word is in the place of %s, and a running total of tokens in that of %d.
func startPausing(t *testing.T, begin []string, one string, words int, end []string) *node {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range begin {
			fmt.Fprintf(w, "data: %s\n\n", event)
		}
		for i := range words {
			event := strings.Replace(one, "%s", word, 1)
			fmt.Fprintf(w, "data: %s\n\n", strings.Replace(event, "%d", strconv.Itoa(2*i+4), 1))
		}
		for _, event := range end {
			fmt.Fprintf(w, "data: %s\n\n", event)
		}
	}))
	t.Cleanup(upstream.Close)
	var options strings.Builder
	for _, protocol := range []string{"openai", "anthropic", "gemini"} {
		fmt.Fprintf(&options, `provider pausing-%[1]s {
				protocol %[1]s
				api_key provider-secret
				base_url %[2]s
			}
			price pausing-%[1]s m {
				input 1
				output 10
			}
			`, protocol, upstream.URL)
	}
	return start(t, options.String())
}

const (
	pausedChat     = "/pausing-openai/chat/completions"
	pausedMessages = "/pausing-anthropic/v1/messages"
	pausedGemini   = "/pausing-gemini/v1beta/models/m:streamGenerateContent?alt=sse"

	askMessages = `{"model":"m","max_tokens":64000,"stream":true,"messages":[{"role":"user","content":"Hello"}]}`
	askChat     = `{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}`
	askTwo      = `{"model":"m","n":2,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}`
	askGemini   = `{"contents":[{"parts":[{"text":"Hello"}]}],"generationConfig":{"candidateCount":2}}`
)

// The events of providers that pause.
const (
	messageStart = `{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"usage":{"input_tokens":10,"output_tokens":1}}}`
	blockStart   = `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`
	blockText    = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}`
	blockStop    = `{"type":"content_block_stop","index":0}`
	midway       = `{"type":"message_delta","delta":{},"usage":{"output_tokens":2}}`
	messageStop  = `{"type":"message_stop"}`

	firstChoice     = `{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":1,"total_tokens":11}}`
	secondChoice    = `{"id":"c","model":"m","choices":[{"index":1,"delta":{"content":"%s"},"finish_reason":null}],"usage":{"prompt_tokens":10,"completion_tokens":%d}}`
	firstCandidate  = `{"candidates":[{"index":0,"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1},"modelVersion":"m"}`
	secondCandidate = `{"candidates":[{"index":1,"content":{"parts":[{"text":"%s"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":%d},"modelVersion":"m"}`
)

func TestStreamsThatPauseAreCutOffAllTheSame(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		begin            []string
		one, end         string
	}{
		{"totals in the middle", pausedMessages, askMessages, []string{messageStart, blockStart, midway}, blockText, messageStop},
		{"large totals in the middle", pausedMessages, askMessages,
			[]string{messageStart, blockStart, strings.Replace(midway, "2", "50", 1)}, blockText, messageStop},
		{"second choice late", pausedChat, askTwo, []string{firstChoice}, secondChoice, "[DONE]"},
		{"second candidate late", pausedGemini, askGemini, []string{firstCandidate}, secondCandidate, `"finishReason":"MAX_TOKENS"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := startPausing(t, test.begin, test.one, 20_000, nil)
			n.buy(t, metering.USD)
			res := n.do(t, "POST", test.path, n.limited(t, millicent), test.body)
			body := read(t, res)
			row := n.row(t, res.Header.Get("X-Request-Id"))
			served := metering.Money(strings.Count(body, word)) * 20_000
			if row.Error != "cut off: spend_exceeded" || row.Cost > millicent || served > row.Cost || served < millicent/2-50*10_000 {
				t.Errorf("served %s, charged %s of %s, error %q", served, row.Cost, millicent, row.Error)
			}
			if !strings.Contains(tailOf(body, 400), test.end) {
				t.Errorf("the stream ends in %s, without %s", tailOf(body, 400), test.end)
			}
			for index, finished := range finishes(body) {
				if finished != 1 {
					t.Errorf("choice %d has finished %d times", index, finished)
				}
			}
			n.checkBooks(t)
		})
	}
}

// finishes counts how often each choice of a stream has finished.
func finishes(body string) map[int64]int {
	counts := make(map[int64]int)
	for line := range strings.Lines(body) {
		data, _ := strings.CutPrefix(line, "data: ")
		for _, choice := range gjson.Get(data, "choices").Array() {
			if choice.Get("finish_reason").Str != "" {
				counts[choice.Get("index").Int()]++
			}
		}
	}
	return counts
}

func TestStreamsThatPauseAreChargedByTheProvidersLastWord(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		begin            []string
		one              string
		words            int
		end              []string
		output           int64
		source           metering.Source
		uncharged        bool
	}{
		{"totals in the middle, and at the end", pausedMessages, askMessages, []string{messageStart, blockStart, midway}, blockText, 10,
			[]string{blockStop, strings.Replace(midway, "2", "25", 1), messageStop}, 25, metering.SourceProvider, false},
		{"totals in the middle alone", pausedMessages, askMessages, []string{messageStart, blockStart, strings.Replace(midway, "2", "90", 1)}, blockText, 10,
			[]string{blockStop}, 90 + 20, metering.SourcePartial, false},
		{"totals, and no stop", pausedMessages, askMessages, []string{messageStart, blockStart}, blockText, 10,
			[]string{blockStop, strings.Replace(midway, "2", "25", 1)}, 25, metering.SourceProvider, false},
		{"second choice late", pausedChat, askTwo, []string{firstChoice}, secondChoice, 10, []string{"[DONE]"}, 22, metering.SourceProvider, false},
		{"second choice that never comes", pausedChat, askTwo, []string{firstChoice}, "", 0, nil, 1, metering.SourceProvider, false},
		{"second candidate that never comes", pausedGemini, askGemini, []string{firstCandidate}, "", 0, nil, 1, metering.SourceProvider, false},
		{"second candidate that never ends", pausedGemini, askGemini, []string{firstCandidate}, secondCandidate, 10, nil, 22, metering.SourcePartial, false},
		{"text after the last word", pausedChat, askChat, []string{firstChoice}, secondChoice, 10, []string{"[DONE]"}, 1, metering.SourceProvider, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := startPausing(t, test.begin, test.one, test.words, test.end)
			n.buy(t, metering.USD)
			before := mismatches(t)
			res := n.do(t, "POST", test.path, n.key(t, nil), test.body)
			read(t, res)
			row := n.row(t, res.Header.Get("X-Request-Id"))
			if row.Usage.Completion() != test.output || row.UsageSource != test.source || row.UsageMismatch {
				t.Errorf("charged %d tokens by %s, want %d by %s", row.Usage.Completion(), row.UsageSource, test.output, test.source)
			}
			if uncharged := mismatches(t) > before; uncharged != test.uncharged {
				t.Errorf("text that is not charged: %t, want %t", uncharged, test.uncharged)
			}
			n.checkBooks(t)
		})
	}
}

// mismatches is what the metric of all providers' mismatches says.
func mismatches(t *testing.T) (total float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(mismatchesTotal)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			total += m.GetCounter().GetValue()
		}
	}
	return total
}

func TestStrictHoldCoversARejectedPrediction(t *testing.T) {
	n := start(t, "default_max_tokens 16\nmax_output_tokens 1000")
	n.buy(t, metering.USD)
	n.organize(t, func(o *billing.Organization) { o.HoldStrict = true })
	key := n.key(t, nil)
	const body = `{"model":"gpt-4o","service_tier":"default","max_tokens":16%s,"messages":[{"role":"user","content":"Hello"}],"prediction":{"type":"content","content":"%s"}}`
	// For its 60,000 bytes 0.16 is held as for a prompt, and 0.60 as for output
	// of each answer.
	text := strings.Repeat("7$", 30_000)
	for _, test := range []struct{ name, body, want string }{
		{"one answer", fmt.Sprintf(body, "", text), ""},
		{"two answers", fmt.Sprintf(body, `,"n":2`, text), "insufficient_credits"},
	} {
		if status, refused := n.ask(t, key, test.body); refused != test.want || (status == 200) != (test.want == "") {
			t.Errorf("%s: %d %q, want %q", test.name, status, refused, test.want)
		}
	}
}

func TestWholeAnswersWithFewerChoicesThanAskedForAreComplete(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"model":"gpt-4o","choices":[{"index":0,"message":{"content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13}}`,
			strings.Repeat(word, 100))
	})
	n.buy(t, metering.USD)
	for _, more := range []string{`"n":2,`, `"n":100,`, `"best_of":5,`} {
		res := n.do(t, "POST", oddChat, n.key(t, nil), strings.Replace(hello, "{", "{"+more, 1))
		read(t, res)
		row := n.row(t, res.Header.Get("X-Request-Id"))
		if row.Usage.Completion() != 3 || row.UsageSource != metering.SourceProvider {
			t.Errorf("%s: charged %d tokens by %s, want 3 by the provider", more, row.Usage.Completion(), row.UsageSource)
		}
	}
}
