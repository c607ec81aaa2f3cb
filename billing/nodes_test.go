package billing_test

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// cluster is some nodes that share a database.
type cluster struct {
	open  func() billing.Store
	dirs  []string
	nodes []*books
}

func openPostgres(t *testing.T) func() billing.Store {
	dsn := pgtest.DSN(t)
	return func() billing.Store {
		s, err := postgres.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
}

// onBothStores runs a test on each kind of database.
func onBothStores(t *testing.T, test func(t *testing.T, open func() billing.Store)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "gateway.db")
		test(t, func() billing.Store {
			s, err := sqlite.Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openPostgres(t))
	})
}

func startCluster(t *testing.T, n int, open func() billing.Store, options billing.Options) *cluster {
	t.Helper()
	c := &cluster{open: open}
	for range n {
		c.dirs = append(c.dirs, t.TempDir())
		c.nodes = append(c.nodes, c.start(t, len(c.nodes), options))
	}
	return c
}

// startForLoad starts the nodes that there may be on a kind of database: a file
// has one, which leases all.
func startForLoad(t *testing.T, open func() billing.Store, patience time.Duration) *cluster {
	t.Helper()
	if _, file := open().(*sqlite.Store); file {
		return startCluster(t, 1, open, billing.Options{Sole: true, Patience: patience})
	}
	return startCluster(t, 3, open, billing.Options{Patience: patience})
}

// start starts a node, as the gateway does: its journal is replayed, and what
// it had leased is given back.
func (c *cluster) start(t *testing.T, i int, options billing.Options) *books {
	t.Helper()
	b := &books{dir: c.dirs[i], store: c.open()}
	err := b.store.EnsureOrganization(t.Context(), billing.Organization{ID: org, Name: org, CreatedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	j, recovered, err := journal.Open(filepath.Join(b.dir, "journal"), journal.Options{Sync: journal.SyncOff})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	if _, err := b.store.Post(t.Context(), j.Node(), recovered.Settlements); err != nil {
		t.Fatal(err)
	}
	j.Forget(recovered)
	if err := b.store.ReturnAll(t.Context(), j.Node()); err != nil {
		t.Fatal(err)
	}
	b.journal, b.ledger = j, &flakyLedger{Ledger: b.store}
	b.poster = billing.NewPoster(b.ledger, j, j.Node(), silent{})
	b.lease(t, b.store, options)
	return b
}

func (c *cluster) flush(t *testing.T) {
	t.Helper()
	for _, b := range c.nodes {
		if err := b.poster.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// request is one request of a client in a test of limits.
type request struct {
	key  billing.Key
	at   time.Time
	cost billing.Money
	held billing.Money
	took time.Duration
	week billing.WeekStart
}

func (r request) allowances() []billing.Allowance {
	return []billing.Allowance{
		billing.BudgetOf(org, billing.Weekly, r.at, r.week),
		billing.SpendOf(&r.key, r.at, r.week),
		billing.CreditsOf(org),
	}
}

// send holds, takes its time, and settles.
func (b *books) send(t *testing.T, r request) error {
	s := settlement(r.cost)
	s.RequestID, s.At, s.KeyID = billing.NewID(billing.RequestIDPrefix, r.at), r.at, r.key.ID
	h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: r.allowances(), Amount: r.held}, &s)
	if err != nil {
		return err
	}
	time.Sleep(r.took)
	return h.Settle(&s)
}

// spendAll has clients send requests at all nodes until each is refused, and
// returns the sum of what they spent.
func (c *cluster) spendAll(t *testing.T, clients int, next func() request) (spent billing.Money) {
	t.Helper()
	var sum atomic.Int64
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for {
				r := next()
				err := c.nodes[i%len(c.nodes)].send(t, r)
				if errors.Is(err, billing.ErrUnavailable) {
					t.Errorf("client %d: %v", i, err)
				}
				if err != nil {
					return
				}
				sum.Add(int64(r.cost))
			}
		})
	}
	group.Wait()
	c.flush(t)
	return billing.Money(sum.Load())
}

func (c *cluster) checkBooks(t *testing.T) {
	t.Helper()
	for i, b := range c.nodes {
		if off, err := b.authorizer.CheckLeases(t.Context()); err != nil || off != 0 {
			t.Errorf("node %d is off its leases by %s (%v)", i, off, err)
		}
	}
	v, err := c.nodes[0].store.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full, Examples: 3})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("the books do not balance: %+v (%v)", v.Failed(), err)
	}
}

// Three nodes, 64 clients, one limit: nobody is refused while there is as much
// left as they need, and nothing is spent beyond it.
func TestNodesShareALimitToTheEnd(t *testing.T) {
	t.Parallel()
	const cost = metering.USD / 2000
	for name, limits := range map[string]struct{ credits, key, budget billing.Money }{
		"credits":    {metering.USD, 100 * metering.USD, 100 * metering.USD},
		"key limit":  {100 * metering.USD, metering.USD, 100 * metering.USD},
		"budget":     {100 * metering.USD, 100 * metering.USD, metering.USD},
		"all limits": {metering.USD, metering.USD, metering.USD},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBothStores(t, func(t *testing.T, open func() billing.Store) {
				c := startForLoad(t, open, billing.DefaultPatience)
				c.nodes[0].buy(t, limits.credits)
				key := c.nodes[0].key(t, limits.key)
				_, err := c.nodes[0].store.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
					o.Budget, o.BudgetPeriod = &limits.budget, billing.Weekly
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				spent := c.spendAll(t, 64, func() request {
					return request{key: key, at: time.Now(), cost: cost, held: 5 * cost, took: 3 * time.Millisecond}
				})
				limit := min(limits.credits, limits.key, limits.budget)
				if spent > limit || spent < limit/100*99 {
					t.Errorf("spent %s of %s", spent, limit)
				}
				c.checkBooks(t)
			})
		})
	}
}

// The end of a period comes in the middle of the load: each request counts in
// its own, and both have the whole limit.
//
//nolint:tparallel // one at a time: it is a lot of load
func TestLimitsAreExactAcrossAPeriodBoundary(t *testing.T) {
	t.Parallel()
	for _, p := range []billing.Period{billing.Daily, billing.Weekly, billing.Monthly} {
		t.Run(string(p), func(t *testing.T) {
			onBothStores(t, func(t *testing.T, open func() billing.Store) { spendAcross(t, open, p) })
		})
	}
}

// spendAcross spends at the end of the current period of a key, in an
// organization whose weeks start on Mondays.
func spendAcross(t *testing.T, open func() billing.Store, p billing.Period) {
	const (
		cost     = metering.USD / 1000
		requests = 4000
		week     = billing.Monday
	)
	c := startForLoad(t, open, billing.DefaultPatience)
	c.nodes[0].buy(t, 100*metering.USD)
	_, err := c.nodes[0].store.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
		o.WeekStart = week
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	key := c.nodes[0].key(t, metering.USD)
	key, err = c.nodes[0].store.UpdateKey(t.Context(), org, key.ID, func(k *billing.Key) error {
		k.UsageLimitReset = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	boundary := p.End(time.Now(), week)
	var sent, before, after atomic.Int64
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			for n := sent.Add(1); n <= requests; n = sent.Add(1) {
				at := boundary.Add(time.Duration(n-requests/2) * time.Microsecond)
				r := request{key: key, at: at, cost: cost, held: 2 * cost, took: time.Millisecond, week: week}
				switch err := c.nodes[i%len(c.nodes)].send(t, r); {
				case err == nil && at.Before(boundary):
					before.Add(int64(cost))
				case err == nil:
					after.Add(int64(cost))
				case !errors.Is(err, billing.ErrSpendExceeded):
					t.Errorf("request at %s: %v", at, err)
				}
			}
		})
	}
	group.Wait()
	c.flush(t)
	for at, spent := range map[time.Time]billing.Money{
		boundary.Add(-time.Second): billing.Money(before.Load()),
		boundary:                   billing.Money(after.Load()),
	} {
		if spent > metering.USD || spent < metering.USD/100*99 {
			t.Errorf("spent %s of 1.00 in the period of %s", spent, at)
		}
		booked, err := c.nodes[0].store.Spend(t.Context(), []billing.Allowance{billing.SpendOf(&key, at, week)})
		if err != nil || booked[0] != spent {
			t.Errorf("booked %v in the period of %s, spent %s (%v)", booked, at, spent, err)
		}
	}
	c.checkBooks(t)
}

// One node has leased nearly all there is and does not use it: another one gets
// it without waiting for more than a moment.
func TestUnusedLeasesAreGivenBackOnRequest(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, openPostgres(t), billing.Options{})
	rich, poor := c.nodes[0], c.nodes[1]
	rich.buy(t, metering.USD)
	key := rich.key(t, 100*metering.USD)
	for range 2 { // the first hold takes most of it, the other one leases ahead
		r := request{key: key, at: time.Now(), cost: cent, held: 80 * cent}
		if err := rich.send(t, r); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if err := poor.send(t, request{key: key, at: time.Now(), cost: 90 * cent, held: 90 * cent}); err != nil {
		t.Errorf("with 0.98 left, leased to another node: %v", err)
	}
	t.Logf("waited %s", time.Since(began))
	c.flush(t)
	c.checkBooks(t)
}

// A node is told from its heartbeats to be dead. Its leases go to others when,
// and not before, it has stopped to spend them.
func TestLeasesOfADeadNodeAreGivenBack(t *testing.T) {
	t.Parallel()
	const ttl = 2 * shortTTL
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		c := startCluster(t, 2, open, billing.Options{Patience: 50 * time.Millisecond})
		dead, alive := c.nodes[0], c.nodes[1]
		beats := make([]*billing.Heartbeats, len(c.nodes))
		var expired []string
		for i, b := range c.nodes {
			n := billing.Node{ID: b.journal.Node(), Incarnation: "first", StartedAt: time.Now(), LeaseTTL: ttl}
			if err := b.store.Join(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			beats[i] = &billing.Heartbeats{
				Store: b.store, Authorizer: b.authorizer, Node: func() billing.Node { return n },
				Expired: func(n billing.Node) { expired = append(expired, n.ID) }, Grace: ttl / 10,
			}
			if err := beats[i].Send(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		dead.buy(t, metering.USD)
		key := dead.key(t, 100*metering.USD)
		open1 := request{key: key, at: time.Now(), cost: cent, held: 60 * cent}
		if err := dead.send(t, open1); err != nil {
			t.Fatal(err)
		}
		most := request{key: key, at: time.Now(), cost: cent, held: 90 * cent}
		if err := alive.send(t, most); err != nil && !errors.Is(err, billing.ErrInsufficientCredits) {
			t.Fatal(err)
		}
		for len(expired) == 0 && !t.Failed() {
			if err := beats[1].Send(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(ttl / 10)
		}
		if err := dead.send(t, open1); !errors.Is(err, billing.ErrUnavailable) {
			t.Errorf("a node that is believed dead spends: %v", err)
		}
		if err := alive.send(t, most); err != nil {
			t.Errorf("with the leases of the dead: %v", err)
		}
		if err := beats[0].Send(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := dead.send(t, request{key: key, at: time.Now(), cost: cent, held: cent}); err != nil {
			t.Errorf("after a new heartbeat: %v", err)
		}
		c.flush(t)
		c.checkBooks(t)
	})
}
