package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-llm-gateway/gateway/internal/cli"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "llm-gateway",
		Short: "Manages the LLM gateway",
		Long: `Manages the LLM gateway: keys, organizations, credits, usage and the audit trail
of a running one, through its management API, and the books themselves.

Commands ask the gateway at --url or $GATEWAY_URL, with the token in
$GATEWAY_ADMIN_TOKEN, about the organization that --org or $GATEWAY_ORG names.`,
		CobraFunc: func(cmd *cobra.Command) { addCommands(cmd) },
	})
}

// addCommands adds all of the gateway's commands to their parent.
func addCommands(parent *cobra.Command) {
	parent.Use = strings.TrimSpace(parent.Use) // Caddy leaves a blank for what follows a command
	parent.Example = `  caddy llm-gateway demo
  caddy llm-gateway orgs create --id acme --name 'Acme Inc.'
  caddy llm-gateway credits adjust 25.00 --reason trial --org acme
  caddy llm-gateway keys create --name laptop --org acme
  caddy llm-gateway audit export --org acme -o audit.csv`
	for _, cmd := range cli.Commands() {
		eachCommand(cmd, endWithCode)
		parent.AddCommand(cmd)
	}
	ledger, migrate := ledgerCommand(), migrateCommand()
	cli.Group(parent, demoCommand(), ledger, migrate)
	for _, cmd := range []*cobra.Command{ledger, migrate, parent} {
		endWithCode(cmd)
	}
}

// eachCommand calls f with what is under a command, and then with itself.
func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		eachCommand(c, f)
	}
	f(cmd)
}

// endWithCode makes a command end as exit says.
func endWithCode(cmd *cobra.Command) {
	explain, check, run := cmd.FlagErrorFunc(), cmd.Args, cmd.RunE
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exit(cmd, cli.Misuse(explain(cmd, err))) })
	cmd.Args = func(cmd *cobra.Command, args []string) error { return exit(cmd, cli.Misuse(check(cmd, args))) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return exit(cmd, run(cmd, args)) }
}

// exit prints an error as it is, where Caddy would log it, and returns one that
// ends the process with the error's code.
func exit(cmd *cobra.Command, err error) error {
	code := cli.ExitCode(err)
	if errors.Is(err, errOutdated) {
		code = exitOutdated
	}
	return exitWith(cmd, code, err)
}

// exitWith does so with a code of the command's own.
func exitWith(cmd *cobra.Command, code int, err error) error {
	if err == nil {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Error: %v\n", err)
	cmd.SilenceErrors = true
	if code == caddy.ExitCodeFailedStartup {
		return err // it is Caddy's for any
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Runs a gateway to try, with a sandbox in place of the providers",
		Long: `Runs a complete gateway on this machine: SQLite, purchases without payment,
and a sandbox that answers in the place of OpenAI, Anthropic and Gemini, so
that it needs no account anywhere. It prints a proxy key and requests to try.

The operator token is $GATEWAY_ADMIN_TOKEN, or a random one. Stop it with
Ctrl-C; the books stay in the data directory.`,
		Example: "  caddy llm-gateway demo --listen 127.0.0.1:8080 --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return exitWith(cmd, caddy.ExitCodeFailedStartup, d.run())
		},
	}
	cmd.Flags().StringVar(&d.listen, "listen", "127.0.0.1:8080", "address of the gateway")
	cmd.Flags().StringVar(&d.data, "data", "data", "directory for the books")
	return cmd
}

// demo is a gateway that is started and set up for a first try.
type demo struct {
	listen, data string
	token        string
}

//go:embed demo.caddyfile
var demoCaddyfile []byte

func (d *demo) run() error {
	caddy.TrapSignals()
	if err := d.start(); err != nil {
		return err
	}
	key, err := d.setUp()
	if err != nil {
		return fmt.Errorf("set up the demo: %w", err)
	}
	d.print(os.Stdout, key)
	select {} // until a signal ends the process
}

// start runs Caddy with the demo's configuration.
func (d *demo) start() error {
	host, port, err := net.SplitHostPort(d.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if d.listen = net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port); host == "" {
		host = "0.0.0.0"
	}
	if err := d.checkFree(); err != nil {
		return err
	}
	sandbox, err := freePort()
	if err != nil {
		return err
	}
	if d.data, err = filepath.Abs(d.data); err != nil {
		return err
	}
	if d.token = os.Getenv("GATEWAY_ADMIN_TOKEN"); d.token == "" {
		d.token = rand.Text()
	}
	for name, value := range map[string]string{
		"GATEWAY_ADMIN_TOKEN":           d.token,
		"LLM_GATEWAY_DEMO_DATA":         d.data,
		"LLM_GATEWAY_DEMO_HOST":         host,
		"LLM_GATEWAY_DEMO_PORT":         port,
		"LLM_GATEWAY_DEMO_SANDBOX_PORT": sandbox,
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(demoCaddyfile, nil)
	if err != nil {
		return fmt.Errorf("adapt the demo's Caddyfile: %w", err)
	}
	return caddy.Load(config, true)
}

// checkFree finds out whether somebody serves the address already: Caddy would
// share it with another Caddy, and each would get some of the requests.
func (d *demo) checkFree() error {
	dialer := net.Dialer{Timeout: time.Second}
	if c, err := dialer.DialContext(context.Background(), "tcp", d.listen); err == nil {
		return errors.Join(fmt.Errorf("%s is in use: choose another address with --listen", d.listen), c.Close())
	}
	return nil
}

// freePort is a loopback port that nobody listens on.
func freePort() (string, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// setUp buys credits unless there are some, and makes a proxy key.
func (d *demo) setUp() (key string, err error) {
	var account struct {
		Balance int64 `json:"balance_nanos"`
	}
	if err := d.call(http.MethodGet, "/v1/account", "", &account); err != nil {
		return "", err
	}
	if account.Balance <= 0 {
		if err := d.call(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`, nil); err != nil {
			return "", err
		}
	}
	var created struct {
		Key string `json:"key"`
	}
	err = d.call(http.MethodPost, "/v1/keys", `{"name":"demo"}`, &created)
	return created.Key, err
}

// call asks the management API of the running gateway.
func (d *demo) call(method, path, body string, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.listen+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(b))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

func (d *demo) print(w io.Writer, key string) {
	fmt.Fprintf(w, `
The gateway is running, with a sandbox in place of the providers.

  URL             http://%[1]s
  Operator token  %[2]s
  Proxy key       %[3]s

Try it, in another terminal:

curl http://%[1]s/openai/v1/chat/completions -H 'Authorization: Bearer %[3]s' -H 'Content-Type: application/json' -d '{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}'

curl http://%[1]s/anthropic/v1/messages -H 'x-api-key: %[3]s' -H 'anthropic-version: 2023-06-01' -H 'Content-Type: application/json' -d '{"model":"claude-haiku-4-5","max_tokens":256,"messages":[{"role":"user","content":"Hello"}]}'

curl http://%[1]s/gemini/v1beta/models/gemini-2.5-flash:generateContent -H 'x-goog-api-key: %[3]s' -H 'Content-Type: application/json' -d '{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'

A moment later, see what they cost, which is 20%% less than the list price here,
and what is left:

export GATEWAY_URL=http://%[1]s GATEWAY_ADMIN_TOKEN=%[2]s
%[5]s llm-gateway audit list
%[5]s llm-gateway credits balance

All commands: %[5]s llm-gateway --help

Stop it with Ctrl-C. The books are in %[4]s.
`, d.listen, d.token, key, d.data, os.Args[0])
}
