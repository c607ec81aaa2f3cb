package billing

import (
	"context"
	"fmt"
	"math"
	"time"
)

// lease is what this node may spend of one allowance.
type lease struct {
	// leased is what the store has handed to this node: always the same
	// number as in the store, unless the leases are stale.
	leased Money
	// held is reserved by open requests.
	held Money
	// spent is settled out of holds, and not in the store yet.
	spent Money
	// used is what was held since idle leases were last given back.
	used Money
	// busy is closed when the operation on the store that is under way for
	// this lease ends; nil if none is.
	busy chan struct{}
}

// free is what may be held. It is negative while a request that cost more
// than its hold is on its way to the store.
func (l *lease) free() Money { return l.leased - l.held - l.spent }

// A node that shares an allowance with others leases some holds' worth more
// than it needs now, or some times what it has held since it last gave back
// what it did not use, whichever is more. Of what it has it keeps as many
// times that when it gives back again.
const (
	leaseAhead = 16
	idleShare  = 2
)

// storeTimeout bounds how long a request waits for the store.
const storeTimeout = 5 * time.Second

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

// refill leases what is missing for a hold and some more. It fails if the
// allowances have no room for the hold.
func (a *Authorizer) refill(ctx context.Context, short []Allowance, amount Money) error {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.vacate(short)
	}()
	// The client may leave, but what the store grants must not get lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := a.poster.takeTurn(ctx); err != nil {
		return fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	defer a.poster.endTurn()
	if err := a.reconcile(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	want := a.wanted(short, amount)
	granted, err := a.store.Lease(ctx, a.node, want)

	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.stale = true
		return fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	var refused error
	for i, g := range granted {
		l := a.leases[g.Allowance]
		l.leased += g.Amount
		// If the store gave all that was asked, there is more where it came
		// from: others have spent meanwhile, and the caller tries again.
		if refused == nil && g.Amount < want[i].Amount && l.free() < amount {
			refused = exceeded(g.Allowance.Kind)
		}
	}
	return refused
}

// wanted is what to ask the store for.
func (a *Authorizer) wanted(short []Allowance, amount Money) []Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	want := make([]Lease, 0, len(short))
	for _, id := range short {
		l := a.leases[id]
		missing := max(0, amount-l.free())
		if a.sole {
			missing = math.MaxInt64
		} else {
			missing += max(leaseAhead*amount, idleShare*l.used)
		}
		want = append(want, Lease{Allowance: id, Amount: missing})
	}
	return want
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
	defer a.mu.Unlock()
	for i := range batch {
		if cost := batch[i].settlement.Cost; cost > 0 {
			for _, id := range batch[i].allowances {
				a.leases[id].spent -= cost
			}
		}
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

// doubt says that what the store has done is not known for certain.
func (a *Authorizer) doubt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stale = true
}

// reconcile reads the leases from the store if they are stale. It needs the
// poster's turn, so that nothing changes them meanwhile.
func (a *Authorizer) reconcile(ctx context.Context) error {
	a.mu.Lock()
	stale := a.stale
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
	for _, l := range a.leases {
		l.leased = 0
	}
	for _, l := range leases {
		a.lease(l.Allowance).leased = l.Amount
	}
	a.stale = false
	return nil
}

// lease returns the node's lease of an allowance. The caller holds mu.
func (a *Authorizer) lease(id Allowance) *lease {
	l := a.leases[id]
	if l == nil {
		l = &lease{}
		a.leases[id] = l
	}
	return l
}

// GiveBackKey returns the free part of a key's leases to the store, so that a
// changed limit applies to the next request. Requests wait for it.
func (a *Authorizer) GiveBackKey(ctx context.Context, keyID string) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind == KeySpend && id.KeyID == keyID }))
}

// GiveBackBudget does so for an organization's budget.
func (a *Authorizer) GiveBackBudget(ctx context.Context, org string) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind == Budget && id.OrganizationID == org }))
}

// GiveBackKeys does so for all keys and budgets.
func (a *Authorizer) GiveBackKeys(ctx context.Context) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind != Credits }))
}

// GiveBackIdle returns what other nodes may need: what is left of allowances
// whose period has ended, and, unless this node is the only one, what was not
// used since it was last called.
func (a *Authorizer) GiveBackIdle(ctx context.Context, now time.Time) error {
	return a.giveBack(ctx, func(id Allowance, l *lease) Money {
		keep := idleShare * l.used
		l.used = 0
		switch {
		case id.Start.Before(id.Period.Start(now)):
			return l.free()
		case a.sole:
			return 0
		default:
			return l.free() - keep
		}
	})
}

// allOf gives back all that is free of some leases.
func allOf(which func(Allowance) bool) func(Allowance, *lease) Money {
	return func(id Allowance, l *lease) Money {
		if which(id) {
			return l.free()
		}
		return 0
	}
}

func (a *Authorizer) giveBack(ctx context.Context, amount func(Allowance, *lease) Money) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := a.poster.takeTurn(ctx); err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	defer a.poster.endTurn()
	if err := a.reconcile(ctx); err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	back, ids := a.takeBack(amount)
	if len(back) == 0 {
		return nil
	}
	err := a.store.Return(ctx, a.node, back)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vacate(ids)
	if err != nil {
		a.stale = true
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}

// takeBack takes amounts out of leases that are not busy and occupies them
// until the amounts are in the store. It forgets leases that are empty.
func (a *Authorizer) takeBack(amount func(Allowance, *lease) Money) (back []Lease, ids []Allowance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.leases {
		if l.busy != nil {
			continue
		}
		if n := amount(id, l); n > 0 {
			l.leased -= n
			back = append(back, Lease{Allowance: id, Amount: n})
			ids = append(ids, id)
		} else if l.leased == 0 && l.held == 0 && l.spent == 0 {
			delete(a.leases, id)
		}
	}
	a.occupy(ids)
	return back, ids
}
