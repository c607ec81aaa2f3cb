package billing_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// The answers to posts are lost, and before one arrives the leases are read from
// the store, which has them smaller already: a batch shrinks them once.
func TestLeasesReadBetweenTwoAttemptsAtABatch(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		const many = 1 << 30
		c := startCluster(t, 1, open, billing.Options{})
		b := c.nodes[0]
		ledger := &forgetful{Ledger: b.store}
		b.poster = billing.NewPoster(ledger, b.journal, b.journal.Node(), silent{})
		b.lease(t, b.store, billing.Options{})
		b.buy(t, metering.USD)
		ledger.forget.Store(many)
		b.mustBegin(t, 5*cent).end(t, 5*cent)
		for ledger.forget.Load() == many {
			time.Sleep(time.Millisecond)
		}
		if err := b.authorizer.GiveBackKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		ledger.forget.Store(0)
		c.flush(t)
		c.checkBooks(t)
		b.check(t, 95*cent)
	})
}

// hung answers nothing.
type hung struct {
	endless
	alsoReads bool
}

func (l *hung) Lease(ctx context.Context, _ string, _ []billing.Want) ([]billing.Grant, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (l *hung) LeasesOf(ctx context.Context, node string) ([]billing.Lease, error) {
	if l.alsoReads {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.endless.LeasesOf(ctx, node)
}

// A store that hangs makes all requests wait at once, not one after the other.
func TestNoRequestWaitsInTurnsForAHungStore(t *testing.T) {
	t.Parallel()
	for name, leases := range map[string]*hung{"leases": {}, "all": {alsoReads: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				j := &memory{}
				b := &books{poster: billing.NewPoster(&scripted{}, j, "node", silent{})}
				b.authorizer = billing.NewAuthorizer(leases, j, b.poster, billing.Options{})
				var group sync.WaitGroup
				for i := range 40 {
					group.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Millisecond)
						began := time.Now()
						b.wantRefused(t, cent, billing.ErrUnavailable, "from a store that hangs")
						if took := time.Since(began); took > billing.StoreTimeout+billing.DefaultPatience {
							t.Errorf("request %d waited %s", i, took)
						}
					})
				}
				group.Wait()
				b.authorizer.Close()
				if err := b.poster.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// The keeper forgets an idle lease just as the time of a claim is up that has
// waited for the store to answer for it.
func TestClaimIsLateForAForgottenLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &memory{}
		b := &books{poster: billing.NewPoster(&scripted{}, j, "node", silent{})}
		b.authorizer = billing.NewAuthorizer(&hung{}, j, b.poster, billing.Options{})
		claim := billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: cent}
		if err := b.authorizer.Late(claim); !errors.Is(err, billing.ErrUnavailable) {
			t.Errorf("a late claim without a lease: %v", err)
		}
		b.authorizer.Close()
		if err := b.poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A request has cost more than its hold and is not posted yet: for one that
// waits, what others give back counts beside that debt.
func TestClaimWaitsBesideADebt(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, openPostgres(t), billing.Options{})
	debtor, other := c.nodes[0], c.nodes[1]
	debtor.buy(t, metering.USD)
	debtor.ledger.down.Store(true)
	most := other.mustBegin(t, 90*cent)
	debtor.mustBegin(t, 5*cent).end(t, 20*cent)
	ended := time.AfterFunc(300*time.Millisecond, func() { most.end(t, 0) })
	defer ended.Stop()
	debtor.mustBegin(t, 15*cent).end(t, 15*cent)
	debtor.ledger.down.Store(false)
	c.flush(t)
	c.checkBooks(t)
	debtor.check(t, 65*cent)
}

// lossyRun is a load on nodes that do not hear of some of what the store does.
type lossyRun struct {
	*cluster
	key   billing.Key
	stop  time.Time
	spent atomic.Int64
}

// Replies are lost, clients leave while they wait, requests extend their holds:
// nothing is spent twice, and nothing gets lost for good.
func TestLostRepliesCostNobodyAnything(t *testing.T) {
	t.Parallel()
	const limit = metering.USD
	c := startCluster(t, 3, openPostgres(t), billing.Options{})
	c.nodes[0].buy(t, limit)
	run := &lossyRun{cluster: c, key: c.nodes[0].key(t, limit), stop: time.Now().Add(2 * time.Second)}
	var networks []*flakyLeases
	var group sync.WaitGroup
	for _, b := range c.nodes {
		network := &flakyLeases{SpendStore: b.store}
		networks = append(networks, network)
		b.lease(t, network, billing.Options{})
		group.Go(func() {
			for time.Now().Before(run.stop) {
				network.failAfter.Store(rand.IntN(6) == 0)
				time.Sleep(time.Millisecond)
			}
			network.failAfter.Store(false)
		})
	}
	for i := range 48 {
		group.Go(func() { run.client(t, c.nodes[i%len(c.nodes)]) })
	}
	group.Wait()
	c.flush(t)
	spent := billing.Money(run.spent.Load())
	if spent > limit || spent == 0 {
		t.Errorf("spent %s of %s", spent, limit)
	}
	var lost int64
	for _, network := range networks {
		lost += network.lost.Load()
	}
	if t.Logf("spent %s, lost %d replies", spent, lost); lost == 0 {
		t.Error("no reply was lost: nothing was tested")
	}
	c.checkBooks(t)
	if rest := limit - spent; rest > 0 {
		c.nodes[1].mustBegin(t, rest).end(t, 0)
	}
	for i, b := range c.nodes {
		if held := b.authorizer.Held(org); held != 0 {
			t.Errorf("node %d still holds %s", i, held)
		}
	}
}

// client sends requests one after the other, and leaves some of them early.
func (run *lossyRun) client(t *testing.T, b *books) {
	for time.Now().Before(run.stop) {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if rand.IntN(5) == 0 {
			ctx, cancel = context.WithTimeout(ctx, rand.N(30*time.Millisecond))
		}
		r := request{key: run.key, at: time.Now(), held: metering.USD / 5000}
		s := settlement(0)
		s.RequestID, s.At, s.KeyID = billing.NewID(billing.RequestIDPrefix, r.at), r.at, r.key.ID
		claim := billing.Claim{Allowances: r.allowances()[1:], Amount: 3 * r.held, Least: r.held}
		h, err := b.authorizer.Hold(ctx, claim, &s)
		cancel()
		if err != nil {
			continue // what is lost is told by the books
		}
		for range rand.IntN(3) {
			_ = h.Extend(t.Context(), r.held/2, r.held/4) // goes on without
		}
		time.Sleep(rand.N(10 * time.Millisecond))
		s.Cost = min(rand.N(2*r.held), h.Amount())
		if err := h.Settle(&s); err != nil {
			t.Error(err)
		}
		run.spent.Add(int64(s.Cost))
	}
}
