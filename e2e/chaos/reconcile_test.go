package chaos

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

var used = metering.Usage{Input: 100, Output: 50}

// usedCost is what used costs: 100 × $1.3707/M and 50 × $7.9311/M, less 20 %.
const usedCost = 426_900

// sound is a complete request, and one that the gateway did not live to see
// the end of, with nothing to find.
func sound() evidence {
	return evidence{
		attempts: []*attempt{
			{
				ask: ask{model: "chaos-openai"}, answer: answer{complete: true, usage: used, hasUsage: true},
				marker: "whole", organization: "o", requestID: "req_1", status: http.StatusOK,
			},
			{ask: ask{model: "chaos-openai", stream: true}, marker: "cut", organization: "o", requestID: "req_2", status: http.StatusOK},
		},
		served: []sandbox.Served{
			{ScriptID: "whole", Status: http.StatusOK, Complete: true, Usage: used},
			{ScriptID: "cut", Status: http.StatusOK, Usage: used},
		},
		books: &books{
			rows: []row{
				{organization: "o", requestID: "req_1", marker: "whole", usage: used, source: metering.SourceProvider, cost: usedCost},
				{
					organization: "o", requestID: "req_2", marker: "cut", usage: used,
					source: metering.SourceEstimated, cost: usedCost, err: interrupted,
				},
			},
			entries: []entry{
				{organization: "o", kind: "purchase", amount: 1_000_000},
				{organization: "o", kind: "usage_debit", amount: -usedCost, requestID: "req_1"},
				{organization: "o", kind: "usage_debit", amount: -usedCost, requestID: "req_2"},
			},
			accounts: []account{{"o", 1_000_000 - 2*usedCost}},
		},
		limits: []limit{{name: "credits", nanos: 1_000_000}},
	}
}

func TestReconcileFindsNothingInSoundBooks(t *testing.T) {
	t.Parallel()
	got := reconcile(sound())
	if len(got.violations) > 0 || got.interrupted != 1 {
		t.Errorf("found %+v", got)
	}
}

func TestReconcileKnowsHalfARequestFromAWholeOne(t *testing.T) {
	t.Parallel()
	e := sound()
	e.served = append(e.served, sandbox.Served{Status: http.StatusBadRequest, Failed: true})
	if got := reconcile(e); len(got.violations) > 0 {
		t.Errorf("half a request: %q", got.violations)
	}
	e.served = append(e.served, sandbox.Served{Status: http.StatusOK, Complete: true})
	if got := reconcile(e); len(got.violations) == 0 {
		t.Error("nothing found of a request without a marker that was served")
	}
}

func TestReconcileFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*evidence)
		says   string
	}{
		"a debit that is lost": {func(e *evidence) { e.books.entries = e.books.entries[:2] }, "is not debited"},
		"a debit twice": {
			func(e *evidence) { e.books.entries = append(e.books.entries, e.books.entries[1]) }, "is debited 2 times",
		},
		"a debit of another amount": {func(e *evidence) { e.books.entries[1].amount-- }, "and is debited"},
		"a debit of nothing":        {func(e *evidence) { e.books.rows[0].cost = 0 }, "cost nothing and is debited"},
		"a debit without a row":     {func(e *evidence) { e.books.entries[1].requestID = "req_3" }, "which has no row"},
		"a row that is lost":        {func(e *evidence) { e.books.rows = e.books.rows[1:] }, "has no row"},
		"two rows for a request": {
			func(e *evidence) {
				again := e.books.rows[0]
				again.requestID = "req_3"
				e.books.rows = append(e.books.rows, again)
			}, "has 2 rows",
		},
		"a row twice": {
			func(e *evidence) { e.books.rows = append(e.books.rows, e.books.rows[0]) }, "request id req_1 has two rows",
		},
		"a row that nobody sent":       {func(e *evidence) { e.books.rows[0].marker = "x" }, "no client sent"},
		"a row of another tenant":      {func(e *evidence) { e.books.rows[0].organization = "p" }, "its row of p"},
		"another request id":           {func(e *evidence) { e.attempts[0].requestID = "req_9" }, "in its row"},
		"a wrong price":                {func(e *evidence) { e.books.rows[0].cost++ }, "its row says"},
		"other usage than served":      {func(e *evidence) { e.served[0].Usage.Output++ }, "the provider counted"},
		"other usage than told":        {func(e *evidence) { e.attempts[0].usage.Output++ }, "was told of"},
		"an estimate of what was told": {func(e *evidence) { e.books.rows[0].source = metering.SourceEstimated }, "its row is not"},
		"charged for more than served": {func(e *evidence) { e.served[1].Usage.Output-- }, "charged for more"},
		"no reason for what is missing": {
			func(e *evidence) { e.books.rows[1].err = "" }, "does not say why",
		},
		"charged for what was not served": {
			func(e *evidence) { e.served = e.served[:1] }, "was never served and cost",
		},
		"served to nobody":       {func(e *evidence) { e.attempts = e.attempts[:1] }, "which no client sent"},
		"reached provider twice": {func(e *evidence) { e.served = append(e.served, e.served[0]) }, "reached the provider 2 times"},
		"a wrong balance":        {func(e *evidence) { e.books.accounts[0].balance++ }, "its balance is"},
		"no account":             {func(e *evidence) { e.books.accounts = nil }, "no account"},
		"rows and debits differ": {func(e *evidence) { e.books.rows[1].cost++ }, "rows cost"},
		"a limit that is passed": {func(e *evidence) { e.limits[0].nanos = 2*usedCost - 1 }, "more is allowed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := sound()
			tt.change(&e)
			found := strings.Join(reconcile(e).violations, "\n")
			if !strings.Contains(found, tt.says) {
				t.Errorf("found %q, want %q in it", found, tt.says)
			}
		})
	}
}

func TestCostByHand(t *testing.T) {
	t.Parallel()
	for want, u := range map[int64]metering.Usage{
		usedCost: used,
		1097:     {Input: 1}, // 1,096.56
		0:        {},
	} {
		if got, err := cost("chaos-openai", u); err != nil || got != want {
			t.Errorf("cost of %+v is %d, %v; want %d", u, got, err, want)
		}
	}
	// Half a nano-USD is rounded up: a token at $0.310625/M, less 20 %, is 248.5.
	if got, err := cost("chaos-gemini", metering.Usage{Input: 1}); err != nil || got != 249 {
		t.Errorf("cost is %d, %v; want 249", got, err)
	}
}

// newEchoProxy returns a proxy in front of a server that sends everything
// back.
func newEchoProxy(t *testing.T) *proxy {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	server, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	p, err := newProxy(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, p *proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo sends a byte and waits for it to come back.
func echo(conn net.Conn) error {
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestProxyBreaksConnections(t *testing.T) {
	t.Parallel()
	p := newEchoProxy(t)
	conn := dial(t, p)
	if err := echo(conn); err != nil {
		t.Fatalf("nothing is broken yet: %v", err)
	}
	if n := p.cutAll(); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	if err := echo(conn); err == nil {
		t.Error("a connection that was cut still answers")
	}
	conn = dial(t, p)
	p.loseReplies.Store(1)
	if err := echo(conn); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("a lost reply gave %v, want an error of the peer's", err)
	}
	if err := echo(dial(t, p)); err != nil {
		t.Errorf("the next connection: %v", err)
	}
}

func TestProxyIsSlow(t *testing.T) {
	t.Parallel()
	p := newEchoProxy(t)
	conn := dial(t, p)
	const late = 30 * time.Millisecond
	p.latency.Store(int64(late))
	began := time.Now()
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*late {
		t.Errorf("there and back took %s, want at least %s", took, 2*late)
	}
	p.latency.Store(0)
	release := p.stall()
	time.AfterFunc(late, release)
	began = time.Now()
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < late {
		t.Errorf("a stall of %s took %s", late, took)
	}
}
