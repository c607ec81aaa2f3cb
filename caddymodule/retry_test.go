package caddymodule

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// troubled is a case of a provider that fails.
type troubled struct {
	name   string
	stream bool
	script []string
	times  int // that it fails; 0 is always
	// status is what the client gets, and broken whether that breaks off.
	status int
	broken bool
	want   []billing.Attempt // statuses and errors
	err    string            // the audit row's
	cost   charge
}

// charge is what a case costs: the one answer exactly, nothing, or what part
// of an answer is estimated at.
type charge int

const (
	exactly charge = iota
	nothing
	estimated
)

// answered, and so on, are what may become of an attempt.
var (
	answered = billing.Attempt{Status: 200}
	refused  = billing.Attempt{Error: "connection failed"}
	reset    = billing.Attempt{Error: "connection reset"}
	silent   = billing.Attempt{Error: "timed out"}
	torn     = billing.Attempt{Status: 200, Error: "connection reset"}
	stuck    = billing.Attempt{Status: 200, Error: "timed out"}
)

// outcomesOnly compares attempts by status and error.
var outcomesOnly = cmpopts.IgnoreFields(billing.Attempt{}, "Provider", "Model", "Credential", "Duration")

func failing(status int) billing.Attempt { return billing.Attempt{Status: status} }

func attempts(list ...billing.Attempt) []billing.Attempt { return list }

func script(pairs ...string) []string {
	var headers []string
	for i := 0; i < len(pairs); i += 2 {
		headers = append(headers, "X-Sandbox-"+pairs[i], pairs[i+1])
	}
	return headers
}

// troubles are all ways in which the sandbox fails. Where a case is the same
// for streams and for other answers it is made for both.
func troubles() []troubled {
	var list []troubled
	both := func(c troubled) {
		list = append(list, c)
		c.name, c.stream = c.name+", stream", true
		list = append(list, c)
	}
	once := func(name string, script []string, first billing.Attempt) troubled {
		return troubled{name: name, script: script, times: 1, status: 200, want: attempts(first, answered)}
	}
	both(once("reset", script("Fail", "reset"), reset))
	both(once("silence", script("Fail", "stall"), silent))
	both(once("slow headers", script("Fail", "slow_headers"), silent))
	for _, status := range []int{408, 429, 500, 502, 503, 529} {
		both(once(fmt.Sprint("status ", status), script("Status", fmt.Sprint(status)), failing(status)))
	}
	both(once("429 with a time", script("Status", "429", "Retry-After", "1"), failing(429)))
	both(once("503 with a time", script("Status", "503", "Retry-After", "1"), failing(503)))
	list = append(list,
		once("reset after the headers", script("Fail", "reset", "Fail-After", "0"), torn),
		once("silence after the headers", script("Fail", "stall", "Fail-After", "0"), stuck),
		once("reset in the middle", script("Fail", "reset", "Fail-After", "1"), torn),
		once("silence in the middle", script("Fail", "stall", "Fail-After", "1"), stuck),
		once("error in place of an answer", script("Fail", "error"), failing(500)),
	)

	always := func(name string, script []string, status int, each billing.Attempt) troubled {
		return troubled{name: "always " + name, script: script, status: status, want: attempts(each, each, each), cost: nothing}
	}
	gateway := func(c troubled) troubled {
		c.err = "upstream request failed"
		return c
	}
	both(gateway(always("reset", script("Fail", "reset"), 502, reset)))
	both(gateway(always("silence", script("Fail", "stall"), 502, silent)))
	both(always("overloaded", script("Status", "529"), 529, failing(529)))
	both(always("failing", script("Status", "500"), 500, failing(500)))
	both(always("rate limited", script("Status", "429"), 429, failing(429)))
	list = append(list, gateway(always("reset in the middle", script("Fail", "reset", "Fail-After", "1"), 502, torn)))

	single := func(name string, script []string, status int, only billing.Attempt, cost charge) troubled {
		return troubled{name: name, script: script, status: status, want: attempts(only), cost: cost}
	}
	for _, status := range []int{400, 401, 403, 404, 422} {
		both(single(fmt.Sprint("status ", status), script("Status", fmt.Sprint(status)), status, failing(status), nothing))
	}
	both(single("429 for long", script("Status", "429", "Retry-After", "60"), 429, failing(429), nothing))
	both(single("503 for long", script("Status", "503", "Retry-After", "5"), 503, failing(503), nothing))
	both(single("no usage", script("Fail", "no_usage"), 200, answered, estimated))
	both(single("nothing", script("Fail", "empty"), 200, answered, estimated))
	both(single("a web page", script("Fail", "html"), 200, answered, estimated))
	both(single("an answer that ends too early", script("Fail", "truncate"), 200, answered, estimated))

	streamed := func(c troubled) {
		c.stream = true
		list = append(list, c)
	}
	streamed(single("an event that does not parse", script("Fail", "broken_sse"), 200, answered, exactly))
	inStream := single("an error in a stream", script("Fail", "error"), 200, answered, estimated)
	inStream.err = "upstream error in response"
	streamed(inStream)
	late := single("reset in a stream", script("Fail", "reset", "Fail-After", "2"), 200, torn, estimated)
	late.broken, late.err = true, "upstream response broke off"
	streamed(late)
	late = single("silence in a stream", script("Fail", "stall", "Fail-After", "2"), 200, stuck, estimated)
	late.broken, late.err = true, "upstream timed out"
	streamed(late)
	return list
}

// startTroubled runs a gateway with a provider for each case, so that no
// breaker sees more than one of them.
func startTroubled(t *testing.T, cases []troubled) *node {
	t.Helper()
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	t.Cleanup(upstream.Close)
	var options strings.Builder
	options.WriteString("first_byte_timeout 400ms\nidle_timeout 300ms\n")
	for i := range cases {
		fmt.Fprintf(&options, "provider p%[1]d {\nprotocol openai\napi_key provider-secret\nbase_url %[2]s/v1\n}\n"+
			"price p%[1]d gpt-4o {\ninput 1\noutput 1\n}\n", i, upstream.URL)
	}
	n.load(t, t.TempDir(), upstream.URL, options.String())
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// TestOneAnswerIsOneCharge lets the provider fail in every way it can.
func TestOneAnswerIsOneCharge(t *testing.T) {
	cases := troubles()
	n := startTroubled(t, cases)
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				n.runTroubled(t, key, fmt.Sprint("p", i), c)
			})
		}
	})
	n.awaitIdle(t)
	served := n.servedByCase()
	var sum billing.Money
	for i, c := range cases {
		provider := fmt.Sprint("p", i)
		row := n.rowOf(t, provider)
		sum += row.Cost
		if complete := served[provider].Complete; c.cost == exactly && complete != 1 || c.cost == nothing && complete != 0 {
			t.Errorf("%s: the provider has answered %d times in full", c.name, complete)
		}
		if got := served[provider].Requests; got != int64(len(c.want)) {
			t.Errorf("%s: the provider was asked %d times, want %d", c.name, got, len(c.want))
		}
	}
	account, err := n.app.Store().Account(t.Context(), billing.DefaultOrganization)
	if err != nil || account.Balance != metering.USD-sum {
		t.Errorf("balance %s (%v) after debits of %s", account.Balance, err, sum)
	}
	v, err := n.app.Store().Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks %+v (%v)", v.Failed(), err)
	}
}

func (n *node) runTroubled(t *testing.T, key, provider string, c troubled) {
	t.Helper()
	// 1000 and 200 tokens at a dollar for a million.
	const cost = 1_200_000
	headers := append([]string{"User-Agent", provider}, script("Id", provider, "Prompt", "1000", "Completion", "200", "Chunks", "4")...)
	if c.times > 0 {
		headers = append(headers, script("Fail-Times", fmt.Sprint(c.times))...)
	}
	body := hello
	if c.stream {
		body = stream
	}
	res := n.do(t, "POST", "/"+provider+"/chat/completions", key, body, append(headers, c.script...)...)
	_, err := io.ReadAll(res.Body)
	if res.StatusCode != c.status || (err != nil) != c.broken {
		t.Errorf("status %d, body ended with %v; want %d, broken: %v", res.StatusCode, err, c.status, c.broken)
	}
	if own := res.Header.Get("X-Gateway-Error"); (own != "") != (c.status == 502 && c.err != "") {
		t.Errorf("status %d with X-Gateway-Error %q", res.StatusCode, own)
	}
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if diff := cmp.Diff(c.want, row.AttemptLog, outcomesOnly); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	for _, a := range row.AttemptLog {
		if a.Provider != provider || a.Model != "gpt-4o" || a.Credential != defaultCredential || a.Duration <= 0 {
			t.Errorf("attempt %+v", a)
		}
	}
	if row.Attempts != len(c.want) || row.Error != c.err || row.Status != c.status {
		t.Errorf("row: %d attempts, error %q, status %d; want %d, %q, %d", row.Attempts, row.Error, row.Status, len(c.want), c.err, c.status)
	}
	switch {
	case c.cost == exactly && (row.Cost != cost || row.UsageSource != metering.SourceProvider):
		t.Errorf("charged %s by %s, want %s", row.Cost, row.UsageSource, metering.Money(cost))
	case c.cost == nothing && (row.Cost != 0 || row.UsageSource != metering.SourceNone):
		t.Errorf("charged %s by %s for nothing", row.Cost, row.UsageSource)
	case c.cost == estimated && (row.Cost == 0 || row.UsageSource != metering.SourceEstimated):
		t.Errorf("charged %s by %s for what has come", row.Cost, row.UsageSource)
	}
}

// servedByCase counts what the sandbox served by the id of the script.
func (n *node) servedByCase() map[string]sandbox.Totals {
	counts := make(map[string]sandbox.Totals)
	for _, s := range n.sandbox.Served() {
		c := counts[s.ScriptID]
		c.Requests++
		if s.Complete && !s.Failed {
			c.Complete++
		}
		counts[s.ScriptID] = c
	}
	return counts
}

// TestStreamsAreTriedAgainBeforeTheirFirstByte breaks streams right after
// their headers, which the sandbox sends with the first event.
func TestStreamsAreTriedAgainBeforeTheirFirstByte(t *testing.T) {
	var asked atomic.Int64
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		switch asked.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			<-r.Context().Done()
			return
		}
		io.WriteString(w, ": ping\n\n")
		http.NewResponseController(w).Flush()
		io.WriteString(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n")
	}, "first_byte_timeout 200ms")
	n.buy(t, metering.USD)
	res := n.do(t, "POST", oddChat, n.key(t, nil), stream)
	if body := read(t, res); res.StatusCode != 200 || body != ": ping\n\ndata: [DONE]\n\n" {
		t.Errorf("status %d, body %q", res.StatusCode, body)
	}
	row := n.row(t, res.Header.Get("X-Request-Id"))
	if diff := cmp.Diff(attempts(torn, stuck, answered), row.AttemptLog, outcomesOnly); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if row.Cost != 10_000 || row.UsageSource != metering.SourceProvider {
		t.Errorf("charged %s by %s", row.Cost, row.UsageSource)
	}
}

func TestUnreachableProviderIsTriedAgain(t *testing.T) {
	n := start(t, `provider gone {
			protocol openai
			api_key provider-secret
			base_url http://127.0.0.1:1
			retries 1
		}
		price gone gpt-4o {
			input 1
			output 1
		}`)
	n.buy(t, metering.USD)
	res := n.do(t, "POST", "/gone/chat/completions", n.key(t, nil), hello)
	row := n.row(t, res.Header.Get("X-Request-Id"))
	want := attempts(refused, refused)
	if diff := cmp.Diff(want, row.AttemptLog, outcomesOnly); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if res.StatusCode != 502 || row.Cost != 0 || row.UsageSource != metering.SourceNone {
		t.Errorf("status %d, charged %s by %s", res.StatusCode, row.Cost, row.UsageSource)
	}
}

func TestUploadsAreNotTriedAgain(t *testing.T) {
	asked := 0
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusInternalServerError)
	}, "free_route /files")
	key := n.key(t, nil)
	for _, test := range []struct {
		method, contentType, body string
		want                      int
	}{
		{"POST", "multipart/form-data; boundary=x", "--x--", 1},
		{"POST", "application/json", "{}", 3},
		{"GET", "text/plain", "", 3},
	} {
		asked = 0
		res := n.do(t, test.method, "/odd/files", key, test.body, "Content-Type", test.contentType)
		row := n.row(t, res.Header.Get("X-Request-Id"))
		if res.StatusCode != 500 || asked != test.want || row.Attempts != test.want {
			t.Errorf("%s of %s: status %d, asked %d times, want %d; row has %d", test.method, test.contentType, res.StatusCode, asked, test.want, row.Attempts)
		}
	}
}

func TestConnectionsOfDiscardedAnswersAreUsedAgain(t *testing.T) {
	var asked, connections atomic.Int64
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if asked.Add(1)%2 == 1 {
			w.Header().Set("Retry-After-Ms", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, strings.Repeat("overloaded ", 4000))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`)
	}))
	upstream.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	upstream.Start()
	defer upstream.Close()
	n := &node{sandbox: sandbox.New()}
	n.load(t, t.TempDir(), upstream.URL, "")
	defer caddy.Stop()
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	const requests = 9 // half of twenty failures would open the breaker
	for range requests {
		if res := n.do(t, "POST", chat, key, hello); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	if asked.Load() != 2*requests || connections.Load() > 2 {
		t.Errorf("%d requests on %d connections, want %d on one", asked.Load(), connections.Load(), 2*requests)
	}
}
