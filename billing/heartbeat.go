package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// HeartbeatEvery is how often a node tells that it is alive.
const HeartbeatEvery = 2 * time.Second

// HeartbeatStore is where nodes hear of each other.
type HeartbeatStore interface {
	Nodes
	ReturnAll(ctx context.Context, node string) error
}

// Heartbeats tells the store that a node is alive, and returns the leases of
// nodes that are not.
type Heartbeats struct {
	Store      HeartbeatStore
	Authorizer *Authorizer
	// Node is what to tell, before each heartbeat.
	Node func() Node
	// Expired hears of nodes whose leases were returned, Failed of heartbeats
	// that did not arrive.
	Expired func(Node)
	Failed  func(error)
	// Grace is how much longer than its leases last another node is waited
	// for. Default: HeartbeatEvery.
	Grace time.Duration

	seen map[string]sighting
	last time.Time // when the last heartbeat that arrived was sent
	live atomic.Int64
}

// sighting is the last heartbeat that was seen of another node, and when it
// was new, by this node's clock.
type sighting struct {
	incarnation string
	beats       int64
	at          time.Time
}

// Run sends heartbeats until ctx ends.
func (h *Heartbeats) Run(ctx context.Context) {
	tick := time.NewTicker(HeartbeatEvery)
	defer tick.Stop()
	for {
		if err := h.Send(ctx); err != nil && ctx.Err() == nil {
			h.Failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Send sends one heartbeat, and expires the nodes that have sent none for as
// long as their leases last.
func (h *Heartbeats) Send(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	own, sent := h.Node(), time.Now()
	h.Authorizer.Announce(own.LeaseTTL)
	nodes, expired, err := h.Store.Beat(ctx, own)
	if errors.Is(err, ErrReplaced) {
		err = errors.Join(err, h.retire(ctx, own))
	}
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	h.Authorizer.Beat(sent, own.LeaseTTL, expired)
	h.count(nodes)
	unseen := sent.Sub(h.last)
	h.last = sent
	for _, n := range nodes {
		if n.ID == own.ID || n.Expired || !h.dead(n, unseen) {
			continue
		}
		done, err := h.Store.Expire(ctx, n.ID, n.Beats)
		if err != nil {
			return fmt.Errorf("expire node %s: %w", n.ID, err)
		}
		if done {
			h.Expired(n)
		}
	}
	return nil
}

// Live returns how many nodes there are, as of the last heartbeat; 0 before
// the first.
func (h *Heartbeats) Live() int { return int(h.live.Load()) }

func (h *Heartbeats) count(nodes []Node) {
	var live int64
	for _, n := range nodes {
		if !n.Expired {
			live++
		}
	}
	h.live.Store(live)
}

// retire stops a node that was replaced from spending, and returns what it had
// leased, once it owes nothing of it any more.
func (h *Heartbeats) retire(ctx context.Context, own Node) error {
	h.Authorizer.Fence()
	if h.Authorizer.owes() {
		return nil
	}
	return h.Store.ReturnAll(ctx, own.Holder())
}

// dead tells whether this node has watched another one for longer than its
// leases last, and seen no heartbeat of it. No clock is compared with that of
// another machine: the other one counts from when it has sent its last
// heartbeat, and has dropped its leases by itself before. If this node could
// not look for long, perhaps no node could tell: the others get their time once
// more, to post what they owe.
func (h *Heartbeats) dead(n Node, unseen time.Duration) bool {
	if h.seen == nil {
		h.seen = make(map[string]sighting)
	}
	now := time.Now()
	last, known := h.seen[n.ID]
	if !known || last.incarnation != n.Incarnation || last.beats != n.Beats || unseen > n.LeaseTTL/2 {
		h.seen[n.ID] = sighting{n.Incarnation, n.Beats, now}
		return false
	}
	return n.LeaseTTL > 0 && now.Sub(last.at) > n.LeaseTTL+cmp.Or(h.Grace, HeartbeatEvery)
}
