package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// cluster is everything that one scenario breaks: nodes, their database
// behind a proxy, and their provider.
type cluster struct {
	options  options
	seed     uint64
	random   *rand.Rand
	dir      string
	postgres *pgtest.Cluster
	// database is the address of the scenario's database, past the proxy.
	database string
	proxy    *proxy
	provider *sandbox.Provider
	upstream *httptest.Server
	nodes    []*node
	figures  *figures
}

// newCluster starts everything but the nodes.
func newCluster(ctx context.Context, o options, name string, postgres *pgtest.Cluster) (_ *cluster, err error) {
	c := &cluster{options: o, seed: o.seed, dir: filepath.Join(o.dir, name), postgres: postgres, figures: newFigures(name)}
	c.random = rand.New(rand.NewPCG(o.seed, hash(name)))
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if c.database, err = createDatabase(ctx, postgres.DSN(), "chaos_"+name); err != nil {
		return nil, err
	}
	if c.proxy, err = newProxy(postgres.Socket()); err != nil {
		return nil, err
	}
	c.provider = sandbox.New()
	c.provider.Remember(1 << 18)
	c.upstream = httptest.NewServer(c.provider)
	dsn, err := c.proxied()
	if err != nil {
		return nil, err
	}
	for i := range o.nodes {
		n, err := newNode(fmt.Sprintf("node%d", i), c.dir, dsn, c.upstream.URL)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// proxied is the address of the database behind the proxy.
func (c *cluster) proxied() (string, error) {
	u, err := url.Parse(c.database)
	if err != nil {
		return "", fmt.Errorf("read address of PostgreSQL: %w", err)
	}
	u.Host, u.RawQuery = c.proxy.address(), "sslmode=disable&pool_max_conns=8"
	return u.String(), nil
}

func createDatabase(ctx context.Context, maintenance, name string) (dsn string, err error) {
	if err := execute(ctx, maintenance, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	u, err := url.Parse(maintenance)
	if err != nil {
		return "", fmt.Errorf("read address of PostgreSQL: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

func execute(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// start starts all nodes that do not run.
func (c *cluster) start(ctx context.Context) error {
	for _, n := range c.nodes {
		if n.running() {
			continue
		}
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

const (
	// defaultOrganization is there from the start.
	defaultOrganization = "default"
	otherOrganization   = "other"
)

// createOrganization makes another tenant.
func (c *cluster) createOrganization(ctx context.Context, id string) error {
	return execute(ctx, c.database, fmt.Sprintf(
		`INSERT INTO organizations (id, name, created_at) VALUES ('%s', '%s', pg_catalog.now())`, id, id))
}

// buy grants an organization credits.
func (c *cluster) buy(ctx context.Context, organization, pkg string) error {
	return c.nodes[0].callFor(ctx, organization, "POST /v1/billing/purchase", map[string]string{"package_id": pkg}, nil)
}

// createKey makes a proxy key with a limit in USD; "" is none.
func (c *cluster) createKey(ctx context.Context, organization, limit string) (key, error) {
	body := map[string]any{"name": "chaos"}
	if limit != "" {
		body["usage_limit_dollars"] = limit
	}
	var created struct{ Key string }
	err := c.nodes[0].callFor(ctx, organization, "POST /v1/keys", body, &created)
	return key{created.Key, organization}, err
}

// settle brings everything up, waits until all is posted, and proves the
// books: by the product's own verification, and after a clean stop by what
// clients and provider say.
func (c *cluster) settle(ctx context.Context, e evidence) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); c.provider.Totals().Open > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d requests are still open at the provider", c.provider.Totals().Open)
		}
	}
	for _, n := range c.nodes {
		if err := n.call(ctx, http.MethodPost, "/v1/flush", nil, nil); err != nil {
			return err
		}
	}
	if err := c.verify(ctx); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.stop(); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		c.checkJournal(n)
	}
	books, err := readBooks(ctx, c.database)
	if err != nil {
		return err
	}
	if leaked := c.provider.Totals().LeakedProxyKeys; leaked > 0 {
		c.figures.violate("%d proxy keys reached the provider", leaked)
	}
	e.served, e.books = c.provider.Served(), books
	if all := c.provider.Totals().Requests; int64(len(e.served)) < all {
		return fmt.Errorf("the provider remembers %d of %d requests: use a shorter form", len(e.served), all)
	}
	c.figures.take(e, reconcile(e))
	return nil
}

// verify asks the product for its own proof of the books.
func (c *cluster) verify(ctx context.Context) error {
	imbalance, err := c.imbalance(ctx, c.nodes[0])
	if err == nil && imbalance != 0 {
		c.figures.violate("verify finds an imbalance of %d", imbalance)
	}
	return err
}

func (c *cluster) imbalance(ctx context.Context, n *node) (int64, error) {
	var verified struct {
		Imbalance *int64 `json:"imbalance_nanos"`
	}
	if err := n.call(ctx, http.MethodGet, "/v1/ledger/verify", nil, &verified); err != nil {
		return 0, err
	}
	if verified.Imbalance == nil {
		return 0, errors.New("verify does not say what the imbalance is")
	}
	return *verified.Imbalance, nil
}

// checkJournal: after a clean stop nothing is left to recover.
func (c *cluster) checkJournal(n *node) {
	j, recovered, err := journal.Open(n.journal, journal.Options{})
	if err != nil {
		c.figures.violate("journal of %s: %v", n.name, err)
		return
	}
	if left := len(recovered.Settlements); left > 0 {
		c.figures.violate("%d settlements are in the journal of %s after a clean stop", left, n.name)
	}
	if len(recovered.Torn) > 0 {
		c.figures.violate("journal of %s is damaged after a clean stop: %q", n.name, recovered.Torn)
	}
	if err := j.Close(); err != nil {
		c.figures.violate("journal of %s: %v", n.name, err)
	}
}

// close ends whatever still runs.
func (c *cluster) close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.kill())
	}
	if c.upstream != nil {
		c.upstream.CloseClientConnections()
		c.upstream.Close()
	}
	if c.proxy != nil {
		errs = append(errs, c.proxy.close())
	}
	return errors.Join(errs...)
}
