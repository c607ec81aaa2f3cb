package chaos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

const (
	adminToken  = "operator-0123456789abcdef-for-chaos"
	providerKey = "sk-provider-credential-for-chaos"
	// grace is how long a gateway that stops or reloads waits for open
	// requests. Streams here are shorter.
	grace = 15 * time.Second
	// startTimeout bounds the start of a gateway.
	startTimeout = 30 * time.Second
)

var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin {{.Admin}}
	persist_config off
	auto_https off
	grace_period {{.Grace}}
	log {
		output file {{.Dir}}/gateway.log {
			roll_disabled
		}
		format json
		level INFO
	}
	llm_gateway {
		storage postgres {{.Database}}
		journal {{.Journal}}
		admin_token {env.GATEWAY_ADMIN_TOKEN}
		discount {{.Discount}}%
		drain 5s
		lease_ttl {{.LeaseTTL}}
		max_body {{.MaxBody}}MiB
		billing development {
			package plenty 100000.00 100000.00
			package five 5.00 5.00
			package dollar 1.00 1.00
			package cent 0.01 0.01
		}
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
		{{- range $model, $rate := .Rates}}{{range $.Providers}}
		price {{.}} {{$model}} {
			input {{$rate.Input}}
			output {{$rate.Output}}
		}{{end}}{{end}}
	}
}
http://{{.Address}} {
	bind 127.0.0.1
	llm_gateway
	llm_gateway_admin
}
`))

// node is one gateway: its files and address stay when its process is killed
// and started again.
type node struct {
	name     string
	dir      string
	journal  string
	address  string // of the gateway
	admin    string // of Caddy's admin endpoint
	database string
	upstream string
	reloads  int // counts configurations, so that each differs
	leaseTTL time.Duration

	process *os.Process
	exited  chan struct{} // closed when process has ended
	code    int           // its exit code, once exited
}

func newNode(name, dir, database, upstream string) (*node, error) {
	n := &node{
		name: name, dir: filepath.Join(dir, name), database: database, upstream: upstream,
		leaseTTL: 10 * time.Minute,
	}
	n.journal = filepath.Join(n.dir, "journal")
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", name, err)
	}
	var err error
	if n.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if n.admin, err = freeAddress(); err != nil {
		return nil, err
	}
	return n, nil
}

// freeAddress returns a loopback address that was free a moment ago. Its port
// is not among those that systems give to outgoing connections: one of these
// could take it while the node is away.
func freeAddress() (string, error) {
	const first, ports, tries = 20000, 10000, 100
	var failed error
	for range tries {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports)))
		l, err := net.Listen("tcp", address)
		if err == nil {
			return address, l.Close()
		}
		failed = err
	}
	return "", fmt.Errorf("find a free port: %w", failed)
}

// config renders the node's Caddyfile. Each one differs from the last.
func (n *node) config() ([]byte, error) {
	type shown struct{ Input, Output string }
	prices := make(map[string]shown)
	for model, r := range rates {
		prices[model] = shown{r.input, r.output}
	}
	var b bytes.Buffer
	err := caddyfile.Execute(&b, map[string]any{
		"Admin": n.admin, "Dir": n.dir, "Database": n.database, "Journal": n.journal, "Upstream": n.upstream,
		"Address": n.address, "Grace": grace, "Discount": discount, "MaxBody": 16 + n.reloads%16,
		"LeaseTTL": n.leaseTTL, "Rates": prices, "Providers": []string{"openai", "anthropic", "gemini"},
	})
	if err != nil {
		return nil, fmt.Errorf("render Caddyfile: %w", err)
	}
	return b.Bytes(), nil
}

// start starts the process and waits until it serves. A process that ends
// before, since its database is away, is started again, as an init system
// would do.
func (n *node) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if err := n.launch(); err != nil {
			return err
		}
		err := n.awaitReady(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("start %s: %w", n.name, err), n.kill())
		}
	}
}

func (n *node) launch() error {
	config, err := n.config()
	if err != nil {
		return err
	}
	file := filepath.Join(n.dir, "Caddyfile")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("write Caddyfile: %w", err)
	}
	output, err := os.OpenFile(filepath.Join(n.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open output of %s: %w", n.name, err)
	}
	defer func() { _ = output.Close() }() // the process has its own
	path, err := binary()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "HOME="+n.dir, "XDG_DATA_HOME="+n.dir, "XDG_CONFIG_HOME="+n.dir,
		"GATEWAY_ADMIN_TOKEN="+adminToken, "PROVIDER_KEY="+providerKey)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = childAttributes()
	if err := spawn(cmd); err != nil {
		return fmt.Errorf("start %s: %w (build it with `make build`)", path, err)
	}
	exited := make(chan struct{})
	n.process, n.exited = cmd.Process, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended is in its state
		n.code = cmd.ProcessState.ExitCode()
	}()
	return nil
}

// binary is the gateway under test, from wherever a process is started.
func binary() (string, error) {
	path := cmp.Or(os.Getenv("GATEWAY_BIN"), filepath.Join("..", "..", "bin", "caddy"))
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	return absolute, nil
}

var errEnded = errors.New("process ended")

func (n *node) awaitReady(ctx context.Context) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/llm_gateway/health/ready", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-n.exited:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// running tells whether the process has not ended.
func (n *node) running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// kill ends the process without giving it a moment, and waits for its end.
func (n *node) kill() error {
	if n.process == nil {
		return nil
	}
	if err := n.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", n.name, err)
	}
	<-n.exited
	return nil
}

// stop ends the process as an init system does, and waits for its end.
func (n *node) stop() error {
	if n.process == nil {
		return nil
	}
	if err := n.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", n.name, err)
	}
	select {
	case <-n.exited:
	case <-time.After(grace + 20*time.Second):
		return errors.Join(fmt.Errorf("%s did not stop in time", n.name), n.kill())
	}
	if n.code != 0 {
		return fmt.Errorf("%s stopped with exit code %d", n.name, n.code)
	}
	return nil
}

// reload gives the process another configuration.
func (n *node) reload(ctx context.Context) error {
	n.reloads++
	config, err := n.config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*grace)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.admin+"/load", bytes.NewReader(config))
	if err != nil {
		return fmt.Errorf("reload %s: %w", n.name, err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("reload %s: %w", n.name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(res.Body) // only to explain the error
		return fmt.Errorf("reload %s: status %d: %s", n.name, res.StatusCode, said)
	}
	return nil
}

// call sends a request to the management API as the operator, and decodes the
// answer into out unless that is nil.
func (n *node) call(ctx context.Context, method, path string, body, out any) error {
	return n.callFor(ctx, defaultOrganization, method+" "+path, body, out)
}

// callFor sends a request, such as "GET /v1/account", for an organization.
func (n *node) callFor(ctx context.Context, organization, endpoint string, body, out any) error {
	method, path, _ := strings.Cut(endpoint, " ")
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode body: %w", err)
	}
	if body == nil {
		encoded = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.address+path, bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("X-Organization", organization)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", endpoint, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", endpoint, err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s: status %d: %s", endpoint, res.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s: decode answer: %w", endpoint, err)
	}
	return nil
}
