package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/logging" // the access log's file

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// node is a gateway that runs in this process, with the sandbox behind it.
// There is one at a time, since Caddy has one configuration.
type node struct {
	url     string
	sandbox *sandbox.Provider
	app     *App
	log     string // file for the access log; "" for none
	globals string // more global options
	around  string // handlers in front of the gateway's
}

// start runs a gateway with more options than the usual ones.
func start(t *testing.T, options string) *node {
	t.Helper()
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewServer(n.sandbox)
	t.Cleanup(upstream.Close)
	n.load(t, t.TempDir(), upstream.URL, options)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// load configures the gateway, or reconfigures it if dir is the same.
func (n *node) load(t *testing.T, dir, upstream, options string) {
	t.Helper()
	if n.url == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.url = "http://" + l.Addr().String()
		l.Close()
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(n.url, "http://"))
	access := ""
	if n.log != "" {
		access = "log {\noutput file " + filepath.ToSlash(n.log) + "\n}"
	}
	config, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output discard
	}
	servers {
		trusted_proxies static 127.0.0.0/8
	}
	llm_gateway {
		storage sqlite %[1]s/gateway.db
		journal %[1]s/journal
		drain 2s
		max_body 100KiB
		provider openai {
			api_key provider-secret
			base_url %[2]s/v1
		}
		provider anthropic {
			api_key provider-secret
			base_url %[2]s
		}
		provider gemini {
			api_key provider-secret
			base_url %[2]s
		}
		provider local {
			protocol openai
			api_key provider-secret
			base_url %[2]s/v1
		}
		provider keyless {
			protocol openai
			base_url %[2]s/v1
		}
		provider unreachable {
			protocol openai
			api_key provider-secret
			base_url http://127.0.0.1:1
			retries 0
		}
		price unreachable gpt-4o {
			input 1
			output 1
		}
		%[3]s
	}
	%[6]s
}
http://:%[4]s {
	bind 127.0.0.1
	%[5]s
	route {
		%[7]s
		llm_gateway
		respond "next handler" 418
	}
}
`, filepath.ToSlash(dir), upstream, options, port, access, n.globals, n.around))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	n.app = Running()
}

func (n *node) buy(t *testing.T, amount billing.Money) {
	t.Helper()
	_, err := n.app.Store().Append(t.Context(), billing.Entry{
		OrganizationID: billing.DefaultOrganization, Type: billing.Purchase, Amount: amount,
		CreatedAt: time.Now(), IdempotencyKey: billing.NewID("buy", time.Now()),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// key makes a proxy key and returns its secret.
func (n *node) key(t *testing.T, change func(*billing.Key)) string {
	t.Helper()
	secret := billing.NewSecret()
	k := billing.Key{
		ID: billing.NewID("key", time.Now()), OrganizationID: billing.DefaultOrganization, Name: "test",
		Hash: billing.HashSecret(secret), Prefix: billing.DisplayPrefix(secret),
		UsageLimitReset: billing.Never, CreatedAt: time.Now(),
	}
	if change != nil {
		change(&k)
	}
	if err := n.app.Store().CreateKey(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	return secret
}

// do sends a request with a key in the header Authorization.
func (n *node) do(t *testing.T, method, path, key, body string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if strings.HasPrefix(path, "/anthropic") {
		req.Header.Set("Anthropic-Version", "2023-06-01")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// row returns the audit row of a request once it is settled.
func (n *node) row(t *testing.T, id string) billing.Settlement {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if err := n.app.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		row, err := n.app.Store().Request(ctx, billing.DefaultOrganization, id)
		if err == nil {
			return row
		}
		if !errors.Is(err, billing.ErrNotFound) || ctx.Err() != nil {
			t.Fatalf("row of request %q: %v", id, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
