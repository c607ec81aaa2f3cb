package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

const (
	adminToken  = "operator-0123456789abcdef-for-tests"
	providerKey = "sk-provider-credential-for-tests"
)

// config is what differs between the gateways of this suite.
type config struct {
	// storage is the argument of the storage option; empty for SQLite in the
	// gateway's own directory.
	storage string
	// upstream is the root of the provider that serves all three protocols.
	upstream string
	// billing is the argument of the billing option; empty for credits without
	// payment.
	billing string
	// extra are further lines of the global llm_gateway block.
	extra string
	// global are further global options of Caddy.
	global string
	// address to listen on; empty for a free port.
	address string
}

var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin off
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period 2s
	metrics
	{{.Global}}
	log {
		output file {{.Dir}}/gateway.log
		format json
		level DEBUG
	}
	llm_gateway {
		storage {{.Storage}}
		journal {{.Dir}}/journal
		admin_token {env.GATEWAY_ADMIN_TOKEN}
		discount 20%
		billing {{.Billing}}
		provider openai {
			api_key {env.PROVIDER_KEY}
			base_url {{.Upstream}}/v1
		}
		provider anthropic {
			api_key {env.PROVIDER_KEY}
			base_url {{.Upstream}}
		}
		provider gemini {
			api_key {env.PROVIDER_KEY}
			base_url {{.Upstream}}
		}
		{{.Extra}}
	}
}
http://{{.Address}} {
	log
	metrics /metrics
	llm_gateway
	llm_gateway_admin
}
`))

const developmentBilling = `development {
			package starter 10.00 10.00
			package large 1000.00 1000.00
		}`

// gateway is a running gateway process.
type gateway struct {
	url string
	dir string
	cmd *exec.Cmd
	// exited is closed when the process has ended.
	exited chan struct{}
	stderr *bytes.Buffer
	// organization is whom management calls are for; empty for the default.
	organization string
}

// as is the gateway with management calls for another organization.
func (g *gateway) as(organization string) *gateway {
	other := *g
	other.organization = organization
	return &other
}

// startGateway starts the built binary and waits until it serves. It is
// stopped at the end of the test.
func startGateway(t *testing.T, c config) *gateway {
	t.Helper()
	g := launchGateway(t, c)
	g.awaitReady(t)
	return g
}

// launchGateway starts the built binary without waiting for it.
func launchGateway(t *testing.T, c config) *gateway {
	t.Helper()
	g := &gateway{dir: t.TempDir(), exited: make(chan struct{}), stderr: new(bytes.Buffer)}
	if c.storage == "" {
		c.storage = "sqlite " + filepath.Join(g.dir, "gateway.db")
	}
	if c.address == "" {
		c.address = freeAddress(t)
	}
	g.url = "http://" + c.address
	var rendered bytes.Buffer
	err := caddyfile.Execute(&rendered, map[string]string{
		"Dir": g.dir, "Storage": c.storage, "Upstream": c.upstream,
		"Billing": cmp.Or(c.billing, developmentBilling), "Extra": c.extra, "Global": c.global, "Address": c.address,
	})
	if err != nil {
		t.Fatalf("render Caddyfile: %v", err)
	}
	file := filepath.Join(g.dir, "Caddyfile")
	if err := os.WriteFile(file, rendered.Bytes(), 0o600); err != nil {
		t.Fatalf("write Caddyfile: %v", err)
	}
	// The process is stopped by a signal in the clean-up, after t.Context is done.
	g.cmd = exec.Command(gatewayBinary(), "run", "--config", file, "--adapter", "caddyfile")
	g.cmd.Dir = g.dir
	g.cmd.Env = append(os.Environ(),
		"HOME="+g.dir, "XDG_DATA_HOME="+g.dir, "XDG_CONFIG_HOME="+g.dir,
		"GATEWAY_ADMIN_TOKEN="+adminToken, "PROVIDER_KEY="+providerKey)
	g.cmd.Stdout, g.cmd.Stderr = g.stderr, g.stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v (build it with `make build`)", gatewayBinary(), err)
	}
	go func() {
		defer close(g.exited)
		_ = g.cmd.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		g.stop(t)
		if t.Failed() {
			t.Logf("gateway said:\n%s%s", g.stderr, tail(filepath.Join(g.dir, "gateway.log"), 4000))
		}
	})
	return g
}

// stop ends the process as an init system would, and waits for it.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	_ = g.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-g.exited:
	case <-time.After(20 * time.Second):
		t.Error("gateway did not stop within 20 s of SIGTERM")
		_ = g.cmd.Process.Kill()
		<-g.exited
	}
}

func (g *gateway) awaitReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-g.exited:
			t.Fatalf("gateway ended with code %d before it served", g.cmd.ProcessState.ExitCode())
		default:
		}
		res, err := client.Get(g.url + openAPIPath)
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatal("gateway does not serve after 30 s")
}

// call sends a request to the management API as the operator and decodes a
// JSON answer into out unless out is nil.
func (g *gateway) call(ctx context.Context, method, path string, body, out any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode body: %w", err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, in)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	if g.organization != "" {
		req.Header.Set("X-Organization", g.organization)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decode answer of %s %s: %w", method, path, err)
	}
	return nil
}

// must fails the test unless the management call succeeds.
func (g *gateway) must(t *testing.T, method, path string, body, out any) {
	t.Helper()
	if err := g.call(t.Context(), method, path, body, out); err != nil {
		t.Fatal(err)
	}
}

// buyCredits grants the default organization a package.
func (g *gateway) buyCredits(t *testing.T, pkg string) {
	t.Helper()
	g.must(t, http.MethodPost, "/v1/billing/purchase", map[string]string{"package_id": pkg}, nil)
}

type createdKey struct {
	Key string `json:"key"`
	ID  string `json:"id"`
}

// createKey makes a proxy key with the given fields beside its name.
func (g *gateway) createKey(t *testing.T, name string, fields map[string]any) createdKey {
	t.Helper()
	body := map[string]any{"name": name}
	for k, v := range fields {
		body[k] = v
	}
	var k createdKey
	g.must(t, http.MethodPost, "/v1/keys", body, &k)
	return k
}

// invite invites a person to the organization.
func (g *gateway) invite(t *testing.T, account, role string) (memberID string) {
	t.Helper()
	var member struct {
		ID string `json:"id"`
	}
	g.must(t, http.MethodPost, "/v1/members", map[string]string{"email": people[account].Email, "role": role}, &member)
	return member.ID
}

func gatewayBinary() string {
	if path := os.Getenv("GATEWAY_BIN"); path != "" {
		return path
	}
	path, err := filepath.Abs("../bin/caddy")
	if err != nil {
		panic(fmt.Sprintf("find the working directory: %v", err))
	}
	return path
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}

func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	s := string(b)
	if len(s) > n {
		s = s[len(s)-n:]
	}
	return strings.ToValidUTF8(s, "?")
}
