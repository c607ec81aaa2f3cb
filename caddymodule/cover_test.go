package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// long scripts a stream of 20,000 words, of which each is an event and seems
// to be two tokens.
var long = []string{"X-Sandbox-Chunks", "20000", "X-Sandbox-Prompt", "100", "X-Sandbox-Delay", "100us"}

// millicent is the limit of keys that are to run out in the middle of a
// stream: some hundred tokens.
const millicent = metering.USD / 1000

// limited makes a key that may spend so much.
func (n *node) limited(t *testing.T, limit metering.Money) string {
	t.Helper()
	return n.key(t, func(k *billing.Key) { k.UsageLimit = &limit })
}

func TestStreamsEndCleanlyWhenTheMoneyDoes(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	const (
		gemini   = "/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent"
		contents = `{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}`
	)
	for _, test := range []struct {
		name, path, body string
		// event is what an event costs: two tokens.
		event  metering.Money
		source metering.Source
		// end is how the body ends, and with what in its last pieces.
		end  string
		with []string
	}{
		{"chat", chat, stream, 20_000, metering.SourceEstimated, "data: [DONE]\n\n",
			[]string{`"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}`}},
		{"chat with usage", chat, strings.Replace(stream, "{", `{"stream_options":{"include_usage":true},`, 1),
			20_000, metering.SourceEstimated, "data: [DONE]\n\n", []string{`"finish_reason":"length"}],"usage":null}`, `"choices":[],"usage":{"prompt_tokens":`}},
		{"chat with a high limit of tokens", chat, strings.Replace(stream, "{", `{"max_tokens":100000,`, 1),
			20_000, metering.SourceEstimated, "data: [DONE]\n\n", []string{`"finish_reason":"length"`}},
		{"two choices", chat, strings.Replace(stream, "{", `{"n":2,`, 1), 40_000, metering.SourceEstimated, "data: [DONE]\n\n",
			[]string{`"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]`, `"choices":[{"index":1,"delta":{},`}},
		{"legacy completions", "/openai/v1/completions", `{"model":"gpt-4o","prompt":"Hello","stream":true}`, 20_000, metering.SourceEstimated,
			"data: [DONE]\n\n", []string{`"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]`}},
		{"responses", "/openai/v1/responses", `{"model":"gpt-4o","input":"Hello","stream":true}`, 20_000, metering.SourceEstimated, "}}\n\n",
			[]string{"event: response.output_text.done\n", "event: response.content_part.done\n", "event: response.output_item.done\n",
				"event: response.incomplete\n", `"incomplete_details":{"reason":"max_output_tokens"}`}},
		{"messages", messages, strings.Replace(claude, `"max_tokens":64`, `"stream":true,"max_tokens":64000`, 1), 10_000, metering.SourcePartial,
			"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", []string{`"type":"content_block_stop","index":0}`, `"stop_reason":"max_tokens"`}},
		{"gemini", gemini + "?alt=sse", contents, 20_000, metering.SourcePartial, "}\r\n\r\n", []string{`"finishReason":"MAX_TOKENS"`}},
		{"gemini as an array", gemini, contents, 20_000, metering.SourcePartial, "}}]", []string{`"finishReason":"MAX_TOKENS"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := n.sandbox.Totals()
			res := n.do(t, "POST", test.path, n.limited(t, millicent), test.body, long...)
			body := read(t, res)
			if res.StatusCode != 200 || !strings.HasSuffix(body, test.end) {
				t.Fatalf("status %d, %d bytes that end in %q, want %q", res.StatusCode, len(body), tailOf(body, 200), test.end)
			}
			for _, want := range test.with {
				if !strings.Contains(tailOf(body, 30<<10), want) {
					t.Errorf("no %s at the end of the stream:\n%s", want, tailOf(body, 1000))
				}
			}
			if test.name == "gemini as an array" && !json.Valid([]byte(body)) {
				t.Errorf("the body is not an array: %s", tailOf(body, 1000))
			}
			row := n.row(t, res.Header.Get("X-Request-Id"))
			if row.Error != "cut off: spend_exceeded" || row.Status != 200 || row.UsageSource != test.source || !row.Streaming {
				t.Errorf("row: error %q, status %d, source %s; want %s", row.Error, row.Status, row.UsageSource, test.source)
			}
			if row.Cost > millicent || row.Cost < millicent-2*test.event {
				t.Errorf("charged %s of %s, with events of %s", row.Cost, millicent, test.event)
			}
			if test.name == "chat with usage" {
				usage := gjson.Get(body[strings.LastIndex(body, `{"prompt_tokens"`):], "completion_tokens").Int()
				if usage != row.Usage.Completion() {
					t.Errorf("the client is told of %d tokens and charged for %d", usage, row.Usage.Completion())
				}
			}
			n.awaitIdle(t)
			after := n.sandbox.Totals()
			if after.Requests-before.Requests != 1 || after.Partial-before.Partial != 1 {
				t.Errorf("the provider served %+v before and %+v after, want one partial answer more", before, after)
			}
		})
	}
	n.checkBooks(t)
}

// checkBooks proves the store's books and the node's own.
func (n *node) checkBooks(t *testing.T) {
	t.Helper()
	v, err := n.app.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full, Examples: 3})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("the books do not balance: %+v (%v)", v.Failed(), err)
	}
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }

// awaitIdle waits until the provider has nothing to do any more.
func (n *node) awaitIdle(t *testing.T) {
	t.Helper()
	for range 200 {
		if n.sandbox.Totals().Open == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("the provider still serves: %+v", n.sandbox.Totals())
}

func TestStreamsThatExtendEndByThemselves(t *testing.T) {
	n := start(t, "default_max_tokens 16")
	n.buy(t, metering.USD)
	for _, test := range []struct {
		name, body string
		limit      metering.Money
	}{
		{"beyond the default", stream, metering.USD / 10},
		{"exactly as much as the request allows", strings.Replace(stream, "{", `{"max_tokens":1000,`, 1), 10_100_000},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := n.do(t, "POST", chat, n.limited(t, test.limit), test.body,
				"X-Sandbox-Chunks", "1000", "X-Sandbox-Prompt", "20", "X-Sandbox-Completion", "1000")
			body := read(t, res)
			if !strings.Contains(body, `"finish_reason":"`) || !strings.HasSuffix(body, "data: [DONE]\n\n") {
				t.Errorf("the stream ends in %q", tailOf(body, 300))
			}
			row := n.row(t, res.Header.Get("X-Request-Id"))
			// 20 x $2.50 + 1000 x $10, per million.
			if row.Error != "" || row.UsageSource != metering.SourceProvider || row.Cost != 10_050_000 {
				t.Errorf("error %q, source %s, cost %s", row.Error, row.UsageSource, row.Cost)
			}
		})
	}
}

// growing is a meter of a stream whose provider says nothing before its end.
type growing struct{ reading metering.Reading }

func (g *growing) Read(piece []byte) { g.reading.TextBytes += int64(len(piece)) }

func (g *growing) Reading() metering.Reading { return g.reading }

// TestHoldsGrowInLargerAndLargerSteps checks that a stream is ahead with its
// hold at every event, and how often it has to ask for that.
func TestHoldsGrowInLargerAndLargerSteps(t *testing.T) {
	n := start(t, "default_max_tokens 16")
	n.buy(t, 10*metering.USD)
	rule, ok := n.app.book.Find("openai", "gpt-4o", time.Now())
	if !ok {
		t.Fatal("no price")
	}
	meter := new(growing)
	c := &call{
		app: n.app, engine: n.app.engine, rule: rule, response: response{meter: meter},
		r:   httptest.NewRequestWithContext(t.Context(), "POST", chat, nil),
		key: &proxyKey{organization: billing.Organization{ID: billing.DefaultOrganization}},
		row: billing.Settlement{
			RequestID: billing.NewID("req", time.Now()), At: time.Now(), Provider: "openai",
			OrganizationID: billing.DefaultOrganization, Streaming: true,
		},
	}
	if refused := c.authorize(); refused != nil {
		t.Fatal(refused)
	}
	defer c.settle()
	c.startCoverage(metering.EventStream)
	const tokens = 100_000
	out := newOutbox(&nowhere{header: make(http.Header)})
	extensions := 0
	for c.coverage.tokens < tokens {
		held := c.hold.Amount()
		meter.Read([]byte("12345678"))
		reading := meter.Reading()
		if !c.follow(nil, &reading) && !c.cover(out) {
			t.Fatalf("cut off at %d tokens", c.coverage.tokens)
		}
		if c.hold.Amount() > held {
			extensions++
		}
		if cost := c.costWith(&reading, c.coverage.tokens+leastChunk); cost > c.hold.Amount() {
			t.Fatalf("%d tokens and what may come next cost %s, held are %s", c.coverage.tokens, cost, c.hold.Amount())
		}
	}
	if extensions < 5 || extensions > 20 {
		t.Errorf("%d extensions for %d tokens", extensions, tokens)
	}
	if cost, held := c.costWith(&meter.reading, tokens), c.hold.Amount(); held > 3*cost {
		t.Errorf("%s are held for a stream that has cost %s", held, cost)
	}
}

// TestThousandStreamsOnTheLastCent runs many streams against a balance that
// lasts for a part of each.
func TestThousandStreamsOnTheLastCent(t *testing.T) {
	provider := httptest.NewServer(sandbox.New())
	defer provider.Close()
	n := start(t, fmt.Sprintf(`default_max_tokens 16
		provider patient {
			protocol openai
			api_key provider-secret
			base_url %s/v1
			transport http {
				dial_timeout 1m # a thousand connections at once take a while
			}
		}
		price patient gpt-4o {
			input 2.50
			output 10
		}`, provider.URL))
	const (
		streams = 1000
		balance = metering.USD
		event   = metering.Money(20_000)
	)
	n.buy(t, balance)
	key := n.key(t, nil)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: streams}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	outcomes := make(chan string, streams)
	for range streams {
		group.Go(func() { outcomes <- n.spend(t, client, key) })
		time.Sleep(time.Millisecond)
	}
	group.Wait()
	close(outcomes)
	counts := map[string]int{}
	for outcome := range outcomes {
		counts[outcome]++
	}
	t.Logf("%v", counts)
	if counts["cut off"] == 0 || counts["cut off"]+counts["refused"] != streams {
		t.Errorf("streams ended like this: %v", counts)
	}
	if err := n.app.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	account, err := n.app.Store().Account(t.Context(), billing.DefaultOrganization)
	if err != nil {
		t.Fatal(err)
	}
	if account.Balance < -event || account.Balance > balance/100 {
		t.Errorf("%s of %s is left", account.Balance, balance)
	}
	if held := n.app.engine.authorizer.Held(billing.DefaultOrganization); held != 0 {
		t.Errorf("%s is still held", held)
	}
	n.checkBooks(t)
}

// spend reads one long stream and says how it ended.
func (n *node) spend(t *testing.T, client *http.Client, key string) string {
	req, err := http.NewRequestWithContext(t.Context(), "POST", n.url+"/patient/chat/completions", strings.NewReader(stream))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("X-Sandbox-Chunks", "2000")
	req.Header.Set("X-Sandbox-First-Delay", "2s") // until all are there
	req.Header.Set("X-Sandbox-Delay", "5ms")
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch text := string(body); {
	case err != nil:
		return err.Error()
	case res.StatusCode == 403 && strings.Contains(text, "insufficient_credits"):
		return "refused"
	case res.StatusCode == 200 && strings.Contains(text, `"finish_reason":"length"`) && strings.HasSuffix(text, "data: [DONE]\n\n"):
		return "cut off"
	default:
		return fmt.Sprintf("status %d: %s", res.StatusCode, tailOf(text, 200))
	}
}

func TestTextCountsWithinTheRequestsLimit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name              string
		limit, text, said int64
		want              int64
	}{
		{"no limit", 0, 4000, 0, 1000},
		{"below the limit", 100, 399, 0, 99},
		{"long words", 100, 480, 0, 100},
		{"as long as words can be", 100, 800, 0, 100},
		{"more than the limit explains", 100, 804, 0, 201},
		{"the provider knows of less", 100, 480, 60, 100},
		{"the provider knows of more", 100, 480, 150, 150},
	} {
		c := &call{key: new(proxyKey), request: metering.Request{MaxTokens: test.limit}}
		got := c.generated(&metering.Reading{TextBytes: test.text, Usage: metering.Usage{Output: test.said}})
		if got != test.want {
			t.Errorf("%s: %d tokens, want %d", test.name, got, test.want)
		}
	}
}
