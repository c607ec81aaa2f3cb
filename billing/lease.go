package billing

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"
)

// lease is what this node may spend of one allowance.
type lease struct {
	// leased is what the store has handed to this node: the same number as in
	// the store, or less while the leases are stale.
	leased Money
	// held is reserved by open requests.
	held Money
	// spent is settled out of holds, and not in the store yet.
	spent Money
	// promised is on its way to other nodes that have asked for it, or to a
	// limit that has changed.
	promised Money
	// recalled is what open requests hold under a limit that has changed since:
	// what they do not spend of it goes back.
	recalled Money
	// busy is closed when the operation on the store that is under way for
	// this lease ends; nil if none is.
	busy chan struct{}

	// dry tells that the store has less of it than was needed last.
	dry bool
	// queue has the claims that wait for more of it, oldest first.
	queue []*waiter
	// asked is when other nodes last asked for some of it; zero if that was
	// long ago.
	asked time.Time
	// shared alternates between those who wait here and elsewhere.
	shared bool

	demand
}

// demand is what the requests of a node need of an allowance.
type demand struct {
	// cost was settled, and peak was held at most, since it was last measured.
	cost, peak Money
	// pace is the recent spend in each second, high the recent peak.
	pace, high Money
	// target is how much to have in hand. The keeper leases more when what is
	// free falls below low.
	target, low Money
	// filled tells that more was leased ahead, or tried, since it was measured.
	filled bool
}

// memory is the length of the average in measurements: each one, of a second,
// replaces a tenth of it.
const memory = 10

// measure ends a second of measuring.
func (l *lease) measure(ahead time.Duration) {
	l.pace = max(l.cost, l.pace-l.pace/memory+l.cost/memory)
	l.high = max(l.peak, l.high-l.high/memory)
	if l.pace < memory && l.cost == 0 {
		l.pace = 0
	}
	if l.high < memory && l.peak == 0 {
		l.high = 0
	}
	l.cost, l.peak, l.filled = 0, l.held, false
	l.target = times(l.pace, int64(ahead/time.Second))
	l.target += min(2*min(l.high, maxAmount/2), maxAmount-l.target)
	l.low = l.target / 2
}

const maxAmount Money = 1<<62 - 1

// times multiplies without overflow.
func times(m Money, n int64) Money {
	if n > 0 && m > maxAmount/Money(n) {
		return maxAmount
	}
	return m * Money(n)
}

// free is what may be held. It is negative while a request that cost more
// than its hold is on its way to the store.
func (l *lease) free() Money { return l.leased - l.held - l.spent - l.promised }

// spare is what to give back to other nodes that have asked.
func (l *lease) spare() Money {
	if l.asked.IsZero() {
		return l.promised
	}
	return l.promised + max(0, l.free())
}

// idle tells that nothing is known of the lease that needs to be kept.
func (l *lease) idle() bool {
	return l.busy == nil && l.leased == 0 && l.held == 0 && l.spent == 0 && l.promised == 0 && l.pace == 0 && len(l.queue) == 0
}

// lease returns the node's lease of an allowance. The caller holds mu.
func (a *Authorizer) lease(id Allowance) *lease {
	l := a.leases[id]
	if l == nil {
		l = &lease{}
		a.leases[id] = l
		p := id.Payer()
		a.periods[p] = append(a.periods[p], id)
	}
	return l
}

// forget drops a lease of which nothing is known. The caller holds mu.
func (a *Authorizer) forget(id Allowance) {
	delete(a.leases, id)
	p := id.Payer()
	rest := slices.DeleteFunc(a.periods[p], func(other Allowance) bool { return other == id })
	if a.periods[p] = rest; len(rest) == 0 {
		delete(a.periods, p)
	}
}

// rivals returns the node's leases of the same limit in other periods that
// overlap the allowance's: of before the limit got another period, or weeks
// another start. The caller holds mu.
func (a *Authorizer) rivals(id Allowance) iter.Seq2[Allowance, *lease] {
	return func(yield func(Allowance, *lease) bool) {
		for _, other := range a.periods[id.Payer()] {
			if other != id && other.Overlaps(id) && !yield(other, a.leases[other]) {
				return
			}
		}
	}
}

// occupy marks leases as being changed in the store. The caller holds mu.
func (a *Authorizer) occupy(ids []Allowance) {
	done := make(chan struct{})
	for _, id := range ids {
		a.leases[id].busy = done
	}
}

// vacate ends what occupy began. The caller holds mu.
func (a *Authorizer) vacate(ids []Allowance) {
	for i, id := range ids {
		l := a.leases[id]
		if i == 0 {
			close(l.busy)
		}
		l.busy = nil
	}
}

// posted follows in memory what the store has done with the leases: each one
// is smaller by what was posted in its allowance, as far as it reaches. What a
// request cost above that is the allowance's debt, and not this node's any
// more. The poster calls it before anything else changes leases.
func (a *Authorizer) posted(ctx context.Context, batch []posting) error {
	if err := a.shrink(ctx, batch); err != nil {
		return err
	}
	a.mu.Lock()
	for i := range batch {
		if cost := batch[i].settlement.Cost; cost > 0 {
			for _, id := range batch[i].allowances {
				a.lease(id).spent -= cost
			}
		}
	}
	a.mu.Unlock()
	a.poster.mu.Lock()
	defer a.poster.mu.Unlock()
	for i := range batch {
		a.poster.spends.posted(&batch[i])
	}
	return nil
}

// shrink brings the leases to what the store has after a batch.
func (a *Authorizer) shrink(ctx context.Context, batch []posting) error {
	spent := Spent(func(yield func(*Settlement) bool) {
		for i := range batch {
			if !yield(&batch[i].settlement) {
				return
			}
		}
	})
	a.mu.Lock()
	stale := a.stale
	if !stale {
		for id, cost := range spent {
			if l := a.leases[id]; l != nil {
				l.leased -= min(l.leased, cost)
			}
		}
	}
	a.mu.Unlock()
	if stale {
		return a.reconcile(ctx)
	}
	return nil
}

// isStale tells whether the leases can be read from the store, and need to be:
// other nodes may wait for some that this one does not know to have.
func (a *Authorizer) isStale() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stale && !a.fence.down
}

// doubt says that what the store has done is not known for certain.
func (a *Authorizer) doubt() {
	a.mu.Lock()
	a.stale = true
	a.mu.Unlock()
	a.poster.mu.Lock()
	defer a.poster.mu.Unlock()
	a.poster.misheard = true
}

// reconcile reads the leases from the store if they are stale, unless the node
// must not spend: then it has none. It needs the poster's turn, so that nothing
// changes them meanwhile.
func (a *Authorizer) reconcile(ctx context.Context) error {
	a.mu.Lock()
	a.checkFence()
	stale, epoch := a.stale && !a.fence.down, a.epoch
	a.mu.Unlock()
	if !stale {
		return nil
	}
	leases, err := a.store.LeasesOf(ctx, a.node)
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.checkFence(); a.epoch != epoch {
		return nil // what was read is of before
	}
	for _, l := range a.leases {
		l.leased, l.promised = 0, 0
	}
	for _, l := range leases {
		a.lease(l.Allowance).leased = l.Amount
	}
	a.stale = false
	return nil
}

// CheckLeases compares what this node believes to have leased with what the
// store says, and returns the sum of the differences: 0 in sound books.
func (a *Authorizer) CheckLeases(ctx context.Context) (Money, error) {
	if err := a.poster.takeTurn(ctx); err != nil {
		return 0, fmt.Errorf("check leases: %w", err)
	}
	defer a.poster.endTurn()
	a.isFenced() // then it has none, for all it knows
	if err := a.reconcile(ctx); err != nil {
		return 0, fmt.Errorf("check leases: %w", err)
	}
	leases, err := a.store.LeasesOf(ctx, a.node)
	if err != nil {
		return 0, fmt.Errorf("check leases: %w", err)
	}
	stored := make(map[Allowance]Money, len(leases))
	for _, l := range leases {
		stored[l.Allowance] = l.Amount
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stale {
		return 0, nil // it knows that it does not know
	}
	var off Money
	for id, l := range a.leases {
		off += abs(l.leased - stored[id])
		delete(stored, id)
	}
	for _, amount := range stored {
		off += amount
	}
	return off, nil
}

func abs(m Money) Money { return max(m, -m) }
