package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/cli"
)

// The exit codes of `ledger verify`.
const (
	exitSound       = 0
	exitImbalance   = 1
	exitNotVerified = 2
)

// errImbalance: the command did its work, and found a difference.
var errImbalance = errors.New("the books do not balance")

func ledgerCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "ledger",
		Short: "Proves the books",
		Long: `The books are the ledger, the audit trail, and the sums of both. The commands
read them; the ledger itself is listed by credits transactions.`,
		Example: "  caddy llm-gateway ledger verify --config /etc/caddy/Caddyfile",
	}, new(ledgerVerify).command())
}

// ledgerVerify is the command with its flags.
type ledgerVerify struct {
	bookFlags
	url      string
	json     bool
	mode     string
	examples int
}

func (l *ledgerVerify) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Proves that the books balance",
		Long: `Proves that the books balance: that balances are the sums of entries, that each
request with a cost has exactly one debit of it, that no column of a row or an
entry was changed, and that rollups, limits and leases add up.

It reads the store of a Caddyfile, or the one that is named, without changing
it; a gateway may be running on it. With --url it asks a running gateway
instead, with the operator token in $GATEWAY_ADMIN_TOKEN. If no flag says which,
it asks the gateway at $GATEWAY_URL, or else reads the store of ./Caddyfile.

The exit code is 0 if the books balance, 1 if they do not, and 2 if that could
not be found out.`,
		Example: `  caddy llm-gateway ledger verify --config /etc/caddy/Caddyfile
  caddy llm-gateway ledger verify --sqlite /var/lib/caddy/gateway.db
  caddy llm-gateway ledger verify --postgres 'postgres://auditor@db/gateway'
  caddy llm-gateway ledger verify --url http://localhost:8080 --mode incremental`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return notVerified(cmd, err)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			code, err := l.run(ctx, cmd.OutOrStdout())
			return exitWith(cmd, code, err)
		},
	}
	cmd.SetFlagErrorFunc(notVerified)
	flags := cmd.Flags()
	l.addTo(flags)
	flags.StringVar(&l.url, "url", "", "address of a running gateway; $GATEWAY_URL if no flag names a store")
	flags.BoolVar(&l.json, "json", false, "print the result as the management API does")
	flags.StringVar(&l.mode, "mode", string(billing.Full), "full, or incremental: what is new since the gateway verified last")
	flags.IntVar(&l.examples, "examples", billing.DefaultExamples, "how many differences of each check to show")
	return cmd
}

// notVerified ends the command with its own exit code: Caddy's for a wrong
// flag is the one for books that do not balance.
func notVerified(cmd *cobra.Command, err error) error {
	return exitWith(cmd, exitNotVerified, err)
}

func (l *ledgerVerify) run(ctx context.Context, out io.Writer) (int, error) {
	v, err := l.verify(ctx)
	if err != nil {
		return exitNotVerified, fmt.Errorf("cannot verify the books: %w", err)
	}
	show := printVerification
	if l.json {
		show = printVerificationJSON
	}
	if err := show(out, v); err != nil {
		return exitNotVerified, err
	}
	if v.Imbalance() != 0 {
		return exitImbalance, errImbalance
	}
	return exitSound, nil
}

func (l *ledgerVerify) verify(ctx context.Context) (billing.Verification, error) {
	o := billing.VerifyOptions{Mode: billing.VerifyMode(l.mode), Examples: l.examples}
	if o.Mode != billing.Full && o.Mode != billing.Incremental {
		return billing.Verification{}, fmt.Errorf("unknown --mode %q: use full or incremental", l.mode)
	}
	gateway := l.url
	if named(l.config, l.sqlite, l.postgres, l.url) == 0 {
		gateway = os.Getenv("GATEWAY_URL")
	}
	switch {
	case named(l.config, l.sqlite, l.postgres, l.url) > 1:
		return billing.Verification{}, errors.New("name one of --config, --sqlite, --postgres and --url")
	case l.examples < 1:
		return billing.Verification{}, errors.New("--examples must be at least 1")
	case gateway != "":
		return askGateway(ctx, gateway, o)
	}
	storage, err := l.storage()
	if errors.Is(err, errNoConfig) {
		err = fmt.Errorf("%w, or a running gateway with --url or $GATEWAY_URL", err)
	}
	if err != nil {
		return billing.Verification{}, err
	}
	if storage.Driver == driverPostgres {
		return postgres.Verify(ctx, storage.DSN, o)
	}
	return sqlite.Verify(ctx, storage.DSN, o)
}

// verifyAnswer is what the management API answers.
type verifyAnswer struct {
	Mode       billing.VerifyMode `json:"mode"`
	VerifiedAt time.Time          `json:"verified_at"`
	DurationMS int64              `json:"duration_ms"`
	Entries    int64              `json:"entries_read"`
	Requests   int64              `json:"requests_read"`
	Imbalance  billing.Money      `json:"imbalance_nanos"`
	Checks     []checkAnswer      `json:"checks"`
}

type checkAnswer struct {
	Name      string             `json:"name"`
	Imbalance billing.Money      `json:"imbalance_nanos"`
	Examples  []differenceAnswer `json:"examples"`
}

type differenceAnswer struct {
	OrganizationID string `json:"organization_id"`
	Subject        string `json:"subject"`
	Field          string `json:"field"`
	Expected       string `json:"expected"`
	Found          string `json:"found"`
}

func askGateway(ctx context.Context, address string, o billing.VerifyOptions) (billing.Verification, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	query := url.Values{"mode": {string(o.Mode)}, "examples": {strconv.Itoa(o.Examples)}}
	target := strings.TrimSuffix(address, "/") + "/v1/ledger/verify?" + query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return billing.Verification{}, err
	}
	token := os.Getenv("GATEWAY_ADMIN_TOKEN")
	if token == "" {
		return billing.Verification{}, errors.New("set GATEWAY_ADMIN_TOKEN to the gateway's operator token")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return billing.Verification{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return billing.Verification{}, err
	}
	if res.StatusCode != http.StatusOK {
		const shown = 200
		return billing.Verification{}, fmt.Errorf("%s answers %s: %.*s", address, res.Status, shown, body)
	}
	var a verifyAnswer
	if err := json.Unmarshal(body, &a); err != nil || len(a.Checks) == 0 {
		return billing.Verification{}, fmt.Errorf("%s does not answer as a gateway does (%w)", address, cmp.Or(err, errors.New("no checks")))
	}
	return a.verification(), nil
}

func (a verifyAnswer) verification() billing.Verification {
	v := billing.Verification{
		Mode: a.Mode, At: a.VerifiedAt, Duration: time.Duration(a.DurationMS) * time.Millisecond,
		Entries: a.Entries, Requests: a.Requests,
	}
	for _, c := range a.Checks {
		check := billing.Check{Name: c.Name, Imbalance: c.Imbalance}
		for _, d := range c.Examples {
			check.Examples = append(check.Examples, billing.Difference(d))
		}
		v.Checks = append(v.Checks, check)
	}
	return v
}

func printVerificationJSON(out io.Writer, v billing.Verification) error {
	a := verifyAnswer{
		Mode: v.Mode, VerifiedAt: v.At.UTC(), DurationMS: v.Duration.Milliseconds(),
		Entries: v.Entries, Requests: v.Requests, Imbalance: v.Imbalance(), Checks: []checkAnswer{},
	}
	for _, c := range v.Checks {
		check := checkAnswer{Name: c.Name, Imbalance: c.Imbalance, Examples: []differenceAnswer{}}
		for _, d := range c.Examples {
			check.Examples = append(check.Examples, differenceAnswer(d))
		}
		a.Checks = append(a.Checks, check)
	}
	return json.NewEncoder(out).Encode(a)
}

func printVerification(out io.Writer, v billing.Verification) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "CHECK\tIMBALANCE (NANOS)\n")
	for _, c := range v.Checks {
		fmt.Fprintf(w, "%s\t%d\n", c.Name, int64(c.Imbalance))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range v.Failed() {
		fmt.Fprintf(out, "\n%s:\n", c.Name)
		for _, d := range c.Examples {
			fmt.Fprintf(out, "  %s\n", d)
		}
	}
	_, err := fmt.Fprintf(out, "\n%s verification as of %s: imbalance %d, %d entries and %d requests read in %s\n",
		v.Mode, v.At.Format(time.RFC3339), int64(v.Imbalance()), v.Entries, v.Requests, v.Duration.Round(time.Millisecond))
	return err
}
