package billing_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// flakyNodes fails on demand, before or after the store has done its work.
type flakyNodes struct {
	billing.HeartbeatStore
	failBefore, failAfter atomic.Bool
}

func (n *flakyNodes) Beat(ctx context.Context, node billing.Node) ([]billing.Node, bool, error) {
	if n.failBefore.Load() {
		return nil, false, errDown
	}
	all, expired, err := n.HeartbeatStore.Beat(ctx, node)
	if err == nil && n.failAfter.Load() {
		return nil, false, errDown
	}
	return all, expired, err
}

// beatsOf returns the heartbeats of a process, which does not wait for others
// for much longer than it has to.
func beatsOf(p *process, nodes billing.HeartbeatStore) *billing.Heartbeats {
	return &billing.Heartbeats{
		Store: nodes, Authorizer: p.authorizer, Node: func() billing.Node { return p.node },
		Expired: func(billing.Node) {}, Grace: 50 * time.Millisecond,
	}
}

// sendFor sends heartbeats for a while.
func sendFor(t *testing.T, h *billing.Heartbeats, d time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(25 * time.Millisecond) {
		if err := h.Send(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A process is cut off before its first heartbeat: others count from when it
// was registered, and so does it.
func TestProcessIsFencedFromItsStart(t *testing.T) {
	t.Parallel()
	_, nodes := startProcesses(t, 2, openPostgres(t), shortTTL, 200*time.Millisecond)
	cut, other := nodes[0], nodes[1]
	cut.buy(t, metering.USD)
	cut.mustBegin(t, 90*cent).end(t, 0)
	sendFor(t, beatsOf(other, other.store), 2*shortTTL)
	other.mustBegin(t, 90*cent)
	cut.wantRefused(t, cent, billing.ErrUnavailable, "without any heartbeat")
}

// lease_ttl is lowered, and the answer to the heartbeat that says so is lost:
// others go by the new one already.
func TestLoweredLeaseTTLCountsFromItsAnnouncement(t *testing.T) {
	t.Parallel()
	_, nodes := startProcesses(t, 2, openPostgres(t), 10*time.Minute, 200*time.Millisecond)
	cut, other := nodes[0], nodes[1]
	network := &flakyNodes{HeartbeatStore: cut.store}
	beats, othersBeats := beatsOf(cut, network), beatsOf(other, other.store)
	cut.buy(t, metering.USD)
	if err := errors.Join(beats.Send(t.Context()), othersBeats.Send(t.Context())); err != nil {
		t.Fatal(err)
	}
	cut.mustBegin(t, 90*cent).end(t, 0)
	cut.node.LeaseTTL, other.node.LeaseTTL = shortTTL, shortTTL
	network.failAfter.Store(true)
	if err := beats.Send(t.Context()); !errors.Is(err, errDown) {
		t.Fatalf("heartbeat without an answer: %v", err)
	}
	sendFor(t, othersBeats, 2*shortTTL)
	other.mustBegin(t, 90*cent)
	cut.wantRefused(t, cent, billing.ErrUnavailable, "after the announced time")
}

// The database is away from all nodes, for longer than leases last. The first
// one that reaches it again does not take the others for dead: they have to post
// what they have spent.
func TestOutageForAllIsNotTheDeathOfOthers(t *testing.T) {
	t.Parallel()
	c, nodes := startProcesses(t, 2, openPostgres(t), 2*shortTTL, shortTTL)
	late, early := nodes[0], nodes[1]
	lateBeats, earlyBeats := beatsOf(late, late.store), beatsOf(early, early.store)
	late.buy(t, metering.USD)
	for range 2 {
		if err := errors.Join(lateBeats.Send(t.Context()), earlyBeats.Send(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	r := late.mustBegin(t, 60*cent)
	late.ledger.down.Store(true)
	r.end(t, 60*cent)
	time.Sleep(3 * shortTTL)
	if err := earlyBeats.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	early.wantRefused(t, 95*cent, billing.ErrInsufficientCredits, "while another one may owe 0.60")
	late.ledger.down.Store(false)
	c.flush(t)
	if err := errors.Join(lateBeats.Send(t.Context()), earlyBeats.Send(t.Context())); err != nil {
		t.Fatal(err)
	}
	early.mustBegin(t, 40*cent).end(t, 40*cent)
	c.flush(t)
	early.check(t, 0)
}

// What is returned of a node is what all of its processes had, and nothing of
// others whose ids are alike.
func TestLeasesAreReturnedByProcessAndByNode(t *testing.T) {
	t.Parallel()
	first := billing.Node{ID: "node_a", Incarnation: "first", StartedAt: time.Now()}
	second := billing.Node{ID: "node_a", Incarnation: "second", StartedAt: time.Now()}
	others := []string{"node_ab.first", "node_b.node_a", "node"}
	for _, test := range []struct {
		name string
		do   func(context.Context, billing.Store) error
		left []string // of node_a
	}{
		{"join", func(ctx context.Context, s billing.Store) error { return s.Join(ctx, second) }, nil},
		{"leave", func(ctx context.Context, s billing.Store) error { return s.Leave(ctx, first) }, nil},
		{"leave of another", func(ctx context.Context, s billing.Store) error { return s.Leave(ctx, second) },
			[]string{first.Holder(), second.Holder()}},
		{"expire", func(ctx context.Context, s billing.Store) error {
			done, err := s.Expire(ctx, first.ID, 1)
			if err == nil && !done {
				err = errors.New("not expired")
			}
			return err
		}, nil},
		{"return all of a node", func(ctx context.Context, s billing.Store) error { return s.ReturnAll(ctx, first.ID) }, nil},
		{"return all of a process", func(ctx context.Context, s billing.Store) error { return s.ReturnAll(ctx, first.Holder()) },
			[]string{second.Holder()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			onBothStores(t, func(t *testing.T, open func() billing.Store) {
				c := startCluster(t, 1, open, billing.Options{})
				c.nodes[0].buy(t, metering.USD)
				store := c.nodes[0].store
				if err := store.Join(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				want := []billing.Want{{Allowance: billing.CreditsOf(org), Need: cent}}
				for _, holder := range append([]string{first.Holder(), second.Holder()}, others...) {
					if g, err := store.Lease(t.Context(), holder, want); err != nil || g[0].Amount != cent {
						t.Fatalf("lease: %+v, %v", g, err)
					}
				}
				if err := test.do(t.Context(), store); err != nil {
					t.Fatal(err)
				}
				has := func(holder string) (sum billing.Money) {
					leases, err := store.LeasesOf(t.Context(), holder)
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range leases {
						sum += l.Amount
					}
					return sum
				}
				if got, want := has(first.ID), billing.Money(len(test.left))*cent; got != want {
					t.Errorf("the node has %s, want %s", got, want)
				}
				for _, holder := range append(test.left, others...) {
					if got := has(holder); got != cent {
						t.Errorf("%s has %s, want 0.01", holder, got)
					}
				}
			})
		})
	}
}
