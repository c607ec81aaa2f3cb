package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// TestContract holds the gateway to what its users were promised, one table
// for each part of it. Each table can be read by itself:
//
//   - contract_credentials_test.go: where a proxy key may be
//   - contract_checks_test.go: checks and errors, in their order
//   - contract_headers_test.go: the headers of answers
//   - contract_periods_test.go: the periods of limits
//   - contract_sdk_test.go: what the SDKs make of the errors
func TestContract(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		c := startContract(t, storage, "")
		t.Run("proxy keys", c.testCredentials)
		t.Run("checks", c.testChecks)
		t.Run("order of checks", c.testOrder)
		t.Run("other ways to be refused", c.testRefusals)
		t.Run("headers", c.testHeaders)
		t.Run("periods", c.testPeriods)
		if n := c.arrived.Load(); n != 0 {
			t.Errorf("%d refused requests reached the provider", n)
		}
		c.healthy.checkBooksBalance(t)
	})
}

// contract is what the tables are tried on: two gateways in front of one
// sandbox.
type contract struct {
	healthy *node
	// stuck is the gateway whose ledger is seized at times, while ledger is held.
	stuck  *node
	ledger sync.Mutex
	// arrived counts the requests with refusedHeader that the sandbox got.
	arrived atomic.Int64
}

// node is a gateway and its store, to which organizations are added directly.
type node struct {
	*gateway
	store billing.Store
	// dsn is the PostgreSQL database of the store; "" with SQLite.
	dsn string
}

// maxBody is the max_body of these gateways, in bytes.
const maxBody = 1 << 20

func startContract(t *testing.T, storage, options string) *contract {
	t.Helper()
	c := new(contract)
	provider := sandbox.New()
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(refusedHeader) != "" {
			c.arrived.Add(1)
		}
		if r.Header.Get(stayOpenHeader) != "" {
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		provider.ServeHTTP(w, r)
	}))
	conf := config{
		storage: storage, upstream: upstream,
		extra:  fmt.Sprintf("max_body %d\ndrain 1s\n%s\n%s", maxBody, options, faultyProviders()),
		global: "servers {\n trusted_proxies static 127.0.0.1/32\n }",
	}
	c.healthy = startNode(t, conf)
	conf.storage = withLockTimeout(storage)
	c.stuck = startNode(t, conf)
	return c
}

// withLockTimeout makes a gateway give up soon on what is locked in PostgreSQL.
func withLockTimeout(storage string) string {
	const setting = "lock_timeout=50ms"
	switch {
	case storage == "":
		return ""
	case strings.Contains(storage, "?"):
		return storage + "&" + setting
	}
	return storage + "?" + setting
}

func startNode(t *testing.T, conf config) *node {
	t.Helper()
	n := &node{gateway: startGateway(t, conf)}
	var err error
	if dsn, ok := strings.CutPrefix(conf.storage, "postgres "); ok {
		n.dsn = dsn
		n.store, err = postgres.Open(t.Context(), dsn)
	} else {
		n.store, err = sqlite.Open(t.Context(), filepath.Join(n.dir, "gateway.db"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// faultyProviders are three providers of each protocol: one without a
// credential, and two that do not answer and are asked once.
func faultyProviders() string {
	const nobody = "http://127.0.0.1:1"
	var b strings.Builder
	for protocol, r := range goodRequests {
		fmt.Fprintf(&b, "provider %s-keyless {\n protocol %s\n base_url %s\n }\n", protocol, protocol, nobody)
		for _, kind := range []string{"away", "broken"} {
			name := protocol + "-" + kind
			fmt.Fprintf(&b, "provider %s {\n protocol %s\n base_url %s\n api_key {env.PROVIDER_KEY}\n retries 0\n }\n", name, protocol, nobody)
			fmt.Fprintf(&b, "price %s %s {\n input 1.00\n output 2.00\n }\n", name, r.model)
		}
	}
	return b.String()
}

// newOrganization makes a tenant without credits.
func (n *node) newOrganization(ctx context.Context) (id string, err error) {
	id = billing.NewID("org", time.Now())
	return id, n.store.EnsureOrganization(ctx, billing.Organization{ID: id, Name: id, CreatedAt: time.Now()})
}

// seizeLedger keeps the gateway from putting anything down for an organization
// until release is called. In PostgreSQL the organization's account is locked;
// with SQLite no file of the gateway may grow.
func (n *node) seizeLedger(ctx context.Context, organization string) (release func(), err error) {
	if n.dsn == "" {
		if err := n.limitFiles(ctx, "0:unlimited"); err != nil {
			return nil, err
		}
		return func() {
			if err := n.limitFiles(context.WithoutCancel(ctx), "unlimited:unlimited"); err != nil {
				panic(err) // nothing works from here on
			}
		}, nil
	}
	conn, err := pgx.Connect(ctx, n.dsn)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	release = func() { conn.Close(context.WithoutCancel(ctx)) } // which ends the transaction
	const lock = "INSERT INTO accounts (organization_id, balance, entries) VALUES ($1, 0, 0) ON CONFLICT (organization_id) DO UPDATE SET balance = accounts.balance"
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, lock, organization)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("lock the account: %w", err)
	}
	return release, nil
}

// limitFiles limits the size of files that the gateway may write.
func (n *node) limitFiles(ctx context.Context, size string) error {
	pid := strconv.Itoa(n.cmd.Process.Pid)
	out, err := exec.CommandContext(ctx, "prlimit", "--pid", pid, "--fsize="+size).CombinedOutput()
	if err != nil {
		return fmt.Errorf("limit the size of files: %w: %s", err, out)
	}
	return nil
}

// breakProvider asks the provider of the request's protocol that is broken until
// the gateway does not any more, with a key that may. If it will ask again in a
// moment, so does this.
func (n *node) breakProvider(ctx context.Context, r proxyRequest) error {
	org, err := n.newOrganization(ctx)
	if err != nil {
		return err
	}
	key, err := createSituation(ctx, n.as(org), nil)
	if err != nil {
		return err
	}
	r.key = key.Key
	toProvider("broken")(&r)
	for range 20 {
		a, err := r.send(ctx, n.url)
		switch refused := a.status == http.StatusServiceUnavailable; {
		case err != nil, refused && a.header.Get("Retry-After") != "1":
			return err
		case refused:
			time.Sleep(time.Second)
		}
	}
	return errors.New("a provider that does not answer was asked 20 times")
}
