package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	chat       = "/openai/v1/chat/completions"
	hello      = `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`
	helloTo    = `{"model":"%s","messages":[{"role":"user","content":"Hello"}]}`
	stream     = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hello"}]}`
	messages   = "/anthropic/v1/messages"
	claude     = `{"model":"claude-haiku-4-5","max_tokens":64,"messages":[{"role":"user","content":"Hello"}]}`
	unknownKey = "sk-proxy-0000000000000000000000000000000000000000000000000000000000000000"
)

func TestAccessLogHidesKeys(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	n := &node{sandbox: sandbox.New(), log: log}
	upstream := httptest.NewServer(n.sandbox)
	defer upstream.Close()
	n.load(t, t.TempDir(), upstream.URL, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	const gemini = "/gemini/v1beta/models/gemini-2.5-flash:generateContent"
	n.do(t, "POST", chat, key, hello)
	n.do(t, "POST", messages, "", claude, "X-Api-Key", key)
	n.do(t, "POST", gemini+"?alt=json&key="+key, "", `{"contents":[]}`)
	n.do(t, "POST", gemini, "", `{"contents":[]}`, "X-Goog-Api-Key", key)
	n.do(t, "GET", "/elsewhere?key="+unknownKey, "", "")
	tail := unknownKey[len(billing.KeyPrefix):]
	n.do(t, "GET", "/elsewhere?a=1&%6bey=other-credential;key=another-credential", "", "")
	n.do(t, "POST", chat+"?%6bey="+key, "", hello)
	n.do(t, "POST", chat+"?a=1;key="+key, "", hello)
	n.do(t, "POST", chat+"?x=%73%6b-proxy%2d"+tail+"&"+key+"&y=%zz"+key, key, hello)
	n.do(t, "GET", "/openai/v1/models/"+key+"?page=2", key, "")
	n.do(t, "GET", "/elsewhere/sk%252Dproxy-"+tail, "", "")
	n.do(t, "POST", chat, key, hello, "Api-Key", key, "Referer", "http://localhost/?key=sk-proxy%2D"+tail, "User-Agent", key, key, "1")
	n.do(t, "POST", "/v1/keys/key_1/rotate", "", "", "Idempotency-Key", "a-name-that-opens-a-reply")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(b, []byte("handled request")); lines != 13 {
		t.Errorf("%d lines for 13 requests:\n%s", lines, b)
	}
	for _, secret := range []string{key[len(billing.KeyPrefix):], tail, "other-credential", "opens-a-reply"} {
		if bytes.Contains(bytes.ToLower(b), []byte(secret)) {
			t.Errorf("%s is in the access log:\n%s", secret, b)
		}
	}
	for _, want := range []string{`"uri":"` + gemini + `?alt=json&key=REDACTED"`, `"X-Goog-Api-Key":["REDACTED"]`, `"status":418`,
		`"uri":"/openai/v1/models/REDACTED?page=2"`, `"Api-Key":["REDACTED"]`, `"User-Agent":["REDACTED"]`, `"Idempotency-Key":["REDACTED"]`,
		`"uri":"` + chat + `?x=REDACTED&REDACTED&y=REDACTED"`, `"uri":"` + chat + `?a=1;key=REDACTED"`,
	} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("no %s in the access log:\n%s", want, b)
		}
	}
}

func TestPathsOfOthersGoToTheNextHandler(t *testing.T) {
	n := start(t, "")
	for _, path := range []string{"/", "/index.html", "/v1/keys", "/v1/models", "/api/x", "/openaix/v1"} {
		if res := n.do(t, "GET", path, "", ""); res.StatusCode != http.StatusTeapot {
			t.Errorf("GET %s: status %d, want the next handler's", path, res.StatusCode)
		}
	}
}

func TestKeysAreAcceptedWhereSDKsPutThem(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	const gemini = "/gemini/v1beta/models/gemini-2.5-flash:generateContent"
	const contents = `{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}`
	for _, test := range []struct {
		name, path, body string
		headers          []string
	}{
		{"bearer", chat, hello, []string{"Authorization", "Bearer " + key}},
		{"bearer in lower case", chat, hello, []string{"Authorization", "bearer " + key}},
		{"x-api-key", messages, claude, []string{"X-Api-Key", key}},
		{"x-goog-api-key", gemini, contents, []string{"X-Goog-Api-Key", key}},
		{"query of gemini", gemini + "?alt=json&key=" + key, contents, nil},
		{"beside another credential", chat, hello, []string{"Authorization", "Bearer other", "X-Api-Key", key}},
		{"openai without version", "/openai/chat/completions", hello, []string{"Authorization", "Bearer " + key}},
	} {
		if res := n.do(t, "POST", test.path, "", test.body, test.headers...); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", test.name, res.StatusCode, read(t, res))
		}
	}
	if res := n.do(t, "POST", chat+"?key="+key, "", hello); res.StatusCode != 401 {
		t.Errorf("key in the query of another provider: status %d, want 401", res.StatusCode)
	}
	if leaked := n.sandbox.Totals().LeakedProxyKeys; leaked != 0 {
		t.Errorf("the provider saw %d proxy keys", leaked)
	}
}

func TestHeadersAndQueryAreForwardedWithoutSecrets(t *testing.T) {
	n := start(t, "")
	key := n.key(t, nil)
	res := n.do(t, "DELETE", "/openai/v1/echo/a%2Fb?x=1&y=%20z&x=2", key, "payload",
		"Cookie", "session=1", "X-Custom", "kept", "OpenAI-Beta", "v2", "Connection", "X-Hop", "X-Hop", "gone",
		"X-HTTP-Method-Override", "POST", "Accept-Encoding", "br", "User-Agent", "sdk/1", "Content-Type", "text/plain")
	var got sandbox.Echo
	if err := json.Unmarshal([]byte(read(t, res)), &got); err != nil {
		t.Fatal(err)
	}
	if want := "payload"; got.Method != "DELETE" || got.Path != "/v1/echo/a%2Fb" || got.Query != "x=1&y=%20z&x=2" || got.BodyBytes != int64(len(want)) {
		t.Errorf("the provider got %+v", got)
	}
	want := http.Header{
		"Authorization": {"Bearer provider-secret"}, "X-Custom": {"kept"}, "Openai-Beta": {"v2"}, "User-Agent": {"sdk/1"},
		"Content-Type": {"text/plain"}, "Accept-Encoding": {"gzip"}, "Content-Length": {"7"},
	}
	if diff := cmp.Diff(want, got.Headers); diff != "" {
		t.Errorf("headers at the provider (-want +got):\n%s", diff)
	}
	if host := strings.TrimPrefix(n.url, "http://"); got.Host == host {
		t.Errorf("the provider got the gateway's host %s", host)
	}
}

func TestAnswersAreSettledExactly(t *testing.T) {
	n := start(t, "discount 20%")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	for _, test := range []struct {
		name, path, body string
		script           []string
		model            string
		market, yours    metering.Money
	}{
		// 1000 x $2.50 + 500 x $1.25 cached + 200 x $10, per million.
		{"openai with cached tokens", chat, hello,
			[]string{"X-Sandbox-Prompt", "1500", "X-Sandbox-Cached", "500", "X-Sandbox-Completion", "200"},
			"gpt-4o-2024-08-06", 5_125_000, 4_100_000},
		{"openai stream", chat, stream,
			[]string{"X-Sandbox-Prompt", "1500", "X-Sandbox-Cached", "500", "X-Sandbox-Completion", "200"},
			"gpt-4o-2024-08-06", 5_125_000, 4_100_000},
		// 100 x $1 + 300 x $0.10 + 200 x $1.25 + 400 x $2 + 50 x $5.
		{"anthropic with cache writes", messages, claude,
			[]string{"X-Sandbox-Prompt", "1000", "X-Sandbox-Cached", "300", "X-Sandbox-Cache-Write", "200",
				"X-Sandbox-Cache-Write-Long", "400", "X-Sandbox-Completion", "50"},
			"claude-haiku-4-5-20251001", 1_430_000, 1_144_000},
		// 200,001 x $2.50 + 10 x $15: above the long-context threshold.
		{"gemini with a long context", "/gemini/v1beta/models/gemini-2.5-pro:generateContent",
			`{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}`,
			[]string{"X-Sandbox-Prompt", "200001", "X-Sandbox-Completion", "10"},
			"gemini-2.5-pro", 500_152_500, 400_122_000},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := n.do(t, "POST", test.path, key, test.body, test.script...)
			read(t, res)
			row := n.row(t, res.Header.Get("X-Request-Id"))
			if row.MarketCost != test.market || row.Cost != test.yours || row.Model != test.model {
				t.Errorf("market %s, yours %s, model %s; want %s, %s, %s",
					row.MarketCost, row.Cost, row.Model, test.market, test.yours, test.model)
			}
			if row.UsageSource != metering.SourceProvider || row.Status != 200 || row.Error != "" || row.UsageMismatch {
				t.Errorf("row is %+v", row)
			}
		})
	}
	v, err := n.app.Store().Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks %+v (%v)", v.Failed(), err)
	}
}

func TestReloadBreaksNoStreamAndLosesNoDebit(t *testing.T) {
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	defer upstream.Close()
	dir := t.TempDir()
	n.load(t, dir, upstream.URL, "discount 1%")
	defer caddy.Stop()
	n.buy(t, 10*metering.USD)
	key := n.key(t, nil)
	var group sync.WaitGroup
	ids := make(chan string, 20)
	for range cap(ids) {
		group.Go(func() {
			res := n.do(t, "POST", chat, key, stream, "X-Sandbox-Chunks", "15", "X-Sandbox-Delay", "50ms")
			if body, err := io.ReadAll(res.Body); err != nil || !bytes.HasSuffix(body, []byte("data: [DONE]\n\n")) {
				t.Errorf("stream ended with %v: ...%q", err, body[max(0, len(body)-40):])
			}
			ids <- res.Header.Get("X-Request-Id")
		})
		time.Sleep(20 * time.Millisecond)
	}
	for i := range 4 {
		n.load(t, dir, upstream.URL, fmt.Sprintf("discount %d%%", 2+i))
	}
	group.Wait()
	close(ids)
	var sum metering.Money
	for id := range ids {
		row := n.row(t, id)
		if row.Cost == 0 {
			t.Errorf("request %s cost nothing", id)
		}
		sum += row.Cost
	}
	account, err := n.app.Store().Account(t.Context(), billing.DefaultOrganization)
	if err != nil || account.Balance != 10*metering.USD-sum {
		t.Errorf("balance %s (%v) after debits of %s", account.Balance, err, sum)
	}
}

func TestParametersAreRemovedFromTheRawQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"key=s": "", "alt=sse&key=s": "alt=sse", "key=s&alt=sse": "alt=sse", "a=1&key=s&b=%20": "a=1&b=%20",
		"%6bey=s&a": "a", "keys=1": "keys=1", "key=1&key=2": "", "key": "",
	} {
		if diff := cmp.Diff(want, removeParameter(query, "key")); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
	}
	for query, want := range map[string]string{
		"": "", "a=%zz&&b=%20": "a=%zz&&b=%20", "a=sk-proxy": "a=sk-proxy", "x=%20&k=sk-proxy-1&y=%2f;&&": "x=%20&y=%2f;&&",
		"sk-proxy-1": "", "a=1;key=sk-proxy-1&b": "b", "a=%73k%2Dproxy-1": "", "a=%2573k-proxy-1&b=2": "b=2",
	} {
		if diff := cmp.Diff(want, removeSecrets(query)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
	}
}
