package billing_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// shortTTL is how long the leases of a process last in tests that wait for their
// end: long enough for what is to come before it, on a busy machine.
const shortTTL = time.Second

// process is a run of a node that others know of: it is registered, fenced from
// its start, and leases under a name of its own.
type process struct {
	*books
	node billing.Node
}

// startProcesses starts nodes as startCluster does, and registers them.
func startProcesses(t *testing.T, n int, open func() billing.Store, ttl, patience time.Duration) (*cluster, []*process) {
	t.Helper()
	c := startCluster(t, n, open, billing.Options{})
	processes := make([]*process, n)
	for i, b := range c.nodes {
		b.authorizer.Close()
		if err := b.poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		processes[i] = b.run(t, "first", ttl, patience)
		c.nodes[i] = processes[i].books
	}
	return c, processes
}

// run starts a process on the journal of b, in the place of any before.
func (b *books) run(t *testing.T, incarnation string, ttl, patience time.Duration) *process {
	t.Helper()
	n := billing.Node{ID: b.journal.Node(), Incarnation: incarnation, StartedAt: time.Now(), LeaseTTL: ttl}
	p := &process{&books{dir: b.dir, store: b.store, journal: b.journal, ledger: &flakyLedger{Ledger: b.store}}, n}
	if err := p.store.Join(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	p.poster = billing.NewPoster(p.ledger, p.journal, n.Holder(), silent{})
	p.lease(t, p.store, billing.Options{Patience: patience})
	p.authorizer.Beat(n.StartedAt, ttl, false)
	return p
}

// begin holds credits for a request.
func (b *books) begin(ctx context.Context, amount billing.Money) (*openRequest, error) {
	r := &openRequest{last: settlement(0)}
	claim := billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: amount}
	var err error
	r.hold, err = b.authorizer.Hold(ctx, claim, &r.last)
	return r, err
}

// mustBegin is begin where there is enough.
func (b *books) mustBegin(t *testing.T, amount billing.Money) *openRequest {
	t.Helper()
	r, err := b.begin(t.Context(), amount)
	if err != nil {
		t.Fatalf("hold %s: %v", amount, err)
	}
	return r
}

// wantRefused proves that nothing can be held, for the given reason.
func (b *books) wantRefused(t *testing.T, amount billing.Money, reason error, when string) {
	t.Helper()
	if _, err := b.begin(t.Context(), amount); !errors.Is(err, reason) {
		t.Errorf("hold of %s %s: %v, want %v", amount, when, err, reason)
	}
}

func (r *openRequest) end(t *testing.T, cost billing.Money) {
	t.Helper()
	r.last.Cost = cost
	if err := r.hold.Settle(&r.last); err != nil {
		t.Fatal(err)
	}
}

// housekeeping does all that a node does beside its requests, and posts.
func (p *process) housekeeping(t *testing.T) {
	t.Helper()
	if err := p.poster.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() error{
		"give back idle": func() error { return p.authorizer.GiveBackIdle(t.Context(), time.Now()) },
		"give back keys": func() error { return p.authorizer.GiveBackKeys(t.Context()) },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if off, err := p.authorizer.CheckLeases(t.Context()); err != nil || off != 0 {
		t.Errorf("off its leases by %s (%v)", off, err)
	}
}

// Two processes run under one id, since the journal directory was copied. The
// first one learns of it from its next heartbeat, and neither spends nor shrinks
// nor gives back what is its successor's, although it posts what it owes.
func TestReplacedProcessTakesNothingOfItsSuccessor(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		c, nodes := startProcesses(t, 2, open, time.Minute, 500*time.Millisecond)
		old, other := nodes[0], nodes[1]
		old.buy(t, metering.USD)
		old.ledger.down.Store(true)
		old.mustBegin(t, 30*cent).end(t, 30*cent)
		next := old.run(t, "second", time.Minute, 500*time.Millisecond)
		held := next.mustBegin(t, 50*cent)

		if err := beatsOf(old, old.store).Send(t.Context()); !errors.Is(err, billing.ErrReplaced) {
			t.Fatalf("heartbeat of the replaced process: %v", err)
		}
		if err := old.authorizer.Ready(nil); !errors.Is(err, billing.ErrReplaced) {
			t.Errorf("the replaced process is ready: %v", err)
		}
		old.ledger.down.Store(false)
		old.housekeeping(t)
		old.wantRefused(t, cent, billing.ErrUnavailable, "by the replaced process after posting")
		next.housekeeping(t)
		other.wantRefused(t, 21*cent, billing.ErrInsufficientCredits, "with 0.20 left")
		held.end(t, 50*cent)
		if err := next.poster.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := next.store.Leave(t.Context(), next.node); err != nil { // with what it has leased ahead
			t.Fatal(err)
		}
		other.mustBegin(t, 20*cent).end(t, 20*cent)
		c.flush(t)
		other.check(t, 0)
	})
}

// A node whose heartbeats are overdue may reach the store all the same: nothing
// that succeeds there gives it leases before the next heartbeat does.
func TestFencedNodeSpendsNothing(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		c, nodes := startProcesses(t, 2, open, shortTTL, 200*time.Millisecond)
		fenced, other := nodes[0], nodes[1]
		other.authorizer.Beat(time.Now(), time.Minute, false)
		fenced.buy(t, metering.USD)
		r, running := fenced.mustBegin(t, 80*cent), fenced.mustBegin(t, cent)
		time.Sleep(shortTTL)
		fenced.wantRefused(t, cent, billing.ErrUnavailable, "with an overdue heartbeat")
		r.end(t, cent)
		fenced.housekeeping(t)
		fenced.wantRefused(t, 18*cent, billing.ErrUnavailable, "after posting")
		if running.hold.TryExtend(cent, cent) {
			t.Error("a fenced node extended a hold")
		}
		if err := fenced.authorizer.Ready(nil); !errors.Is(err, billing.ErrUnavailable) || errors.Is(err, billing.ErrReplaced) {
			t.Errorf("a node whose heartbeat is overdue is ready: %v", err)
		}
		if done, err := other.store.Expire(t.Context(), fenced.node.ID, 1); !done || err != nil {
			t.Fatalf("expire: %t, %v", done, err)
		}
		taken := other.mustBegin(t, 90*cent)
		fenced.housekeeping(t)
		fenced.wantRefused(t, cent, billing.ErrUnavailable, "after others have its leases")
		running.end(t, 0)
		taken.end(t, 90*cent)
		c.flush(t)
		if err := other.store.Leave(t.Context(), other.node); err != nil { // with what it has leased ahead
			t.Fatal(err)
		}

		fenced.node.LeaseTTL = time.Minute
		if err := beatsOf(fenced, fenced.store).Send(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := fenced.authorizer.Ready(nil); err != nil {
			t.Errorf("not ready after a heartbeat: %v", err)
		}
		fenced.mustBegin(t, 9*cent).end(t, 9*cent)
		fenced.check(t, 0)
	})
}

// A process stands still for longer than its leases last. What requests settle
// when it goes on is no money for those that wait.
func TestWaitingClaimIsNotServedBehindTheFence(t *testing.T) {
	t.Parallel()
	_, nodes := startProcesses(t, 1, openPostgres(t), shortTTL, time.Minute)
	p := nodes[0]
	p.buy(t, metering.USD)
	r := p.mustBegin(t, 99*cent)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := p.begin(ctx, 90*cent)
		waited <- err
	}()
	time.Sleep(shortTTL / 2)
	p.authorizer.Close() // only its background work stands still
	time.Sleep(shortTTL)
	r.end(t, cent)
	cancel()
	if err := <-waited; !errors.Is(err, billing.ErrUnavailable) {
		t.Errorf("a claim was served from leases that others may have: %v", err)
	}
}

// gatedLeases keeps the first answer back.
type gatedLeases struct {
	billing.SpendStore
	once             sync.Once
	granted, release chan struct{}
}

func (l *gatedLeases) Lease(ctx context.Context, node string, want []billing.Want) ([]billing.Grant, error) {
	grants, err := l.SpendStore.Lease(ctx, node, want)
	l.once.Do(func() {
		close(l.granted)
		<-l.release
	})
	return grants, err
}

// While a node waits for the answer, others take what was granted in it.
func TestAnswersOfBeforeAnExpiryAreNotBelieved(t *testing.T) {
	t.Parallel()
	_, nodes := startProcesses(t, 2, openPostgres(t), time.Minute, 200*time.Millisecond)
	p, other := nodes[0], nodes[1]
	p.buy(t, metering.USD)
	gate := &gatedLeases{SpendStore: p.store, granted: make(chan struct{}), release: make(chan struct{})}
	p.lease(t, gate, billing.Options{Patience: 200 * time.Millisecond})
	held := make(chan error, 1)
	go func() {
		_, err := p.begin(t.Context(), 60*cent)
		held <- err
	}()
	<-gate.granted
	if done, err := other.store.Expire(t.Context(), p.node.ID, 1); !done || err != nil {
		t.Fatalf("expire: %t, %v", done, err)
	}
	taken := other.mustBegin(t, 90*cent)
	if err := beatsOf(p, p.store).Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(gate.release)
	if err := <-held; err == nil {
		t.Error("0.60 were held of 1.00 while another node held 0.90")
	}
	taken.end(t, 90*cent)
	p.housekeeping(t)
	p.mustBegin(t, 10*cent)
}
