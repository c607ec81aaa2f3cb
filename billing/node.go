package billing

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// ErrReplaced: another process runs under this node's id, because it was given
// a copy of its journal directory. The two would spend the same leases.
var ErrReplaced = errors.New("another process runs under the id of this node")

// errFenced: other nodes may believe that this one is dead.
var errFenced = fmt.Errorf("%w: the heartbeat of this node is overdue", ErrUnavailable)

// errRetired: the node is fenced for good.
var errRetired = fmt.Errorf("%w: %w", ErrUnavailable, ErrReplaced)

// Node is a gateway that shares the books with others.
type Node struct {
	// ID is the journal's, and stays the same when the gateway restarts.
	ID string
	// Incarnation is another one with each start.
	Incarnation string
	// Host is the name of the machine.
	Host string
	// Version of the gateway.
	Version   string
	StartedAt time.Time
	// SeenAt is when its last heartbeat came, by the clock of the database.
	SeenAt time.Time
	// Beats counts its heartbeats.
	Beats int64
	// LeaseTTL is how long after its last heartbeat its leases are returned
	// for it; 0 is never.
	LeaseTTL time.Duration
	// Expired tells that they were.
	Expired bool
	// Unposted settlements in its journal, and the age of the oldest.
	Unposted int
	Lag      time.Duration
	// Leases is how many it has, Leased the sum of credits in them.
	Leases int
	Leased Money
}

// Holder is the name that the process leases under: its own, so that what
// another one under the same id has left, or still does, is not mistaken for
// this one's.
func (n *Node) Holder() string { return n.ID + "." + n.Incarnation }

// fence keeps a node from spending leases that others may have been given
// since, because it could not tell for too long that it is alive.
type fence struct {
	// beat is when the last heartbeat that arrived was sent.
	beat time.Time
	// ttl is the node's LeaseTTL; 0 if it needs no fence.
	ttl time.Duration
	// down is set from when the fence has come down until the next heartbeat.
	down bool
	// replaced tells that another process runs under the node's id.
	replaced bool
}

// overdue goes by two clocks: one of them stands still while the machine
// sleeps, and the other may be set.
func (f *fence) overdue(now time.Time) bool {
	return now.Sub(f.beat) >= f.ttl || now.Round(0).Sub(f.beat.Round(0)) >= f.ttl
}

// Announce says that a heartbeat is about to tell the given ttl. Others may go
// by it from now on, whether or not the answer arrives.
func (a *Authorizer) Announce(ttl time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ttl > 0 && !a.options.Sole {
		a.fence.ttl = min(cmp.Or(a.fence.ttl, ttl), ttl)
	}
}

// Beat says that the heartbeat which was sent at the given time has arrived,
// and that the node's leases are its own until ttl after that. If it was
// expired, or late, it finds out from the store what it still has.
func (a *Authorizer) Beat(sent time.Time, ttl time.Duration, expired bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.checkFence(); expired {
		a.drop()
	}
	if a.options.Sole {
		ttl = 0 // there is nobody to give its leases to
	}
	a.fence = fence{beat: sent, ttl: ttl}
	if a.stale {
		signal(a.kick)
	}
}

// Fence stops the node from spending until its next heartbeat, since another
// process runs under its id.
func (a *Authorizer) Fence() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fence.down, a.fence.replaced = true, true
	a.drop()
}

// checkFence lets the fence down if the heartbeat is overdue. The caller holds
// mu.
func (a *Authorizer) checkFence() {
	if a.fence.ttl > 0 && !a.fence.down && a.fence.overdue(time.Now()) {
		a.fence.down = true
		a.drop()
	}
}

// owes tells whether there are open holds, or settlements that are not posted.
func (a *Authorizer) owes() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leases {
		if l.held != 0 || l.spent != 0 {
			return true
		}
	}
	return false
}

func (a *Authorizer) isFenced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkFence()
	return a.fence.down
}

// drop forgets all leases, which the store may have taken back. What is held
// stays so. The caller holds mu.
func (a *Authorizer) drop() {
	for _, l := range a.leases {
		l.leased, l.promised = 0, 0
	}
	a.epoch++
	a.stale = true
}
