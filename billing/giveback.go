package billing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// GiveBackKey returns the free part of a key's leases to the store, so that a
// changed limit applies to the next request.
func (a *Authorizer) GiveBackKey(ctx context.Context, keyID string) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind == KeySpend && id.Subject == keyID }))
}

// GiveBackBudget does so for an organization's budget, and those of its projects
// and keys, whose weeks start with its own.
func (a *Authorizer) GiveBackBudget(ctx context.Context, org string) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind != Credits && id.OrganizationID == org }))
}

// GiveBackKeys does so for all keys and budgets.
func (a *Authorizer) GiveBackKeys(ctx context.Context) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind != Credits }))
}

// Recall does so, in the background, for what has changed in the store: the
// changed keys' limits, and all limits of the changed organizations but their
// credits.
func (a *Authorizer) Recall(c Changes) {
	keys, orgs := make(map[string]bool), make(map[string]bool)
	for _, k := range c.Keys {
		keys[k.ID] = true
	}
	for _, org := range c.Organizations {
		orgs[org] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.leases {
		if id.Kind == KeySpend && keys[id.Subject] || id.Kind != Credits && orgs[id.OrganizationID] {
			a.recalled[id] = true
		}
	}
	if len(a.recalled) > 0 {
		signal(a.kick)
	}
}

// returnRecalled gives back what is to be recalled. What fails is tried again
// in the next round.
func (a *Authorizer) returnRecalled(ctx context.Context) {
	a.mu.Lock()
	recalled := a.recalled
	a.recalled = make(map[Allowance]bool)
	a.mu.Unlock()
	if len(recalled) == 0 {
		return
	}
	err := a.giveBack(ctx, allOf(func(id Allowance) bool { return recalled[id] }))
	if err == nil {
		return
	}
	a.mu.Lock()
	maps.Copy(a.recalled, recalled)
	a.mu.Unlock()
	a.report(ctx, err)
}

// GiveBackIdle returns what is left of allowances whose period has ended, and,
// unless this node is the only one, what it has much more of than it needs.
func (a *Authorizer) GiveBackIdle(ctx context.Context, now time.Time) error {
	return a.giveBack(ctx, func(id Allowance, l *lease) Money {
		switch {
		case id.ended(now):
			return l.free()
		case a.options.Sole || l.free() <= 2*min(l.target, maxAmount/2):
			return 0
		default:
			return l.free() - l.target
		}
	})
}

// share returns what other nodes have asked for, and what is promised. What is
// free while requests wait here, too, is not enough for any of them: it may be
// for another node's.
func (a *Authorizer) share(ctx context.Context, attended []Allowance) {
	a.mu.Lock()
	shared := slices.ContainsFunc(attended, func(id Allowance) bool { return a.lease(id).spare() > 0 })
	a.mu.Unlock()
	if !shared {
		return
	}
	var promised []Allowance
	err := a.giveBack(ctx, func(id Allowance, l *lease) Money {
		back := l.spare()
		if l.promised > 0 {
			promised = append(promised, id)
		}
		l.promised = 0
		return back
	})
	if err == nil {
		return
	}
	a.mu.Lock()
	for _, id := range promised {
		a.recalled[id] = true
	}
	a.mu.Unlock()
	a.report(ctx, err)
}

// Asked says that other nodes need some of these allowances.
func (a *Authorizer) Asked(ids []Allowance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for _, id := range ids {
		if l := a.leases[id]; l != nil {
			l.asked = now
			a.attend(id)
		}
		for other, l := range a.rivals(id) {
			l.asked = now
			a.attend(other)
		}
	}
}

// listen hears what other nodes tell.
func (a *Authorizer) listen(ctx context.Context) {
	for ctx.Err() == nil {
		a.report(ctx, a.store.Listen(ctx, a.node, Listener{Asked: a.Asked, Changed: a.options.Changed}))
		select {
		case <-time.After(keepEvery):
		case <-ctx.Done():
		}
	}
}

// allOf gives back all of some leases: what is free now, and what open requests
// hold and do not spend as they end. They were granted under another limit, and
// what is left of them would let the next requests pass.
func allOf(which func(Allowance) bool) func(Allowance, *lease) Money {
	return func(id Allowance, l *lease) Money {
		if !which(id) {
			return 0
		}
		back := l.free() + l.promised
		l.promised, l.recalled = 0, l.held
		return back
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
	if a.isFenced() {
		return nil
	}
	return a.returnLeases(ctx, a.takeBack(amount))
}

// giveBackRivals returns what is free of leases in the way of others. It needs
// the poster's turn.
func (a *Authorizer) giveBackRivals(ctx context.Context, ids []Allowance) error {
	var back []Lease
	a.mu.Lock()
	for _, id := range ids {
		for other, l := range a.rivals(id) {
			if n := l.free(); n > 0 {
				l.leased -= n
				back = append(back, Lease{Allowance: other, Amount: n})
			}
		}
	}
	a.mu.Unlock()
	return a.returnLeases(ctx, back)
}

// returnLeases returns what was taken out of leases in memory.
func (a *Authorizer) returnLeases(ctx context.Context, back []Lease) error {
	if len(back) == 0 {
		return nil
	}
	if err := a.store.Return(ctx, a.node, back); err != nil {
		a.doubt()
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}

// takeBack takes amounts out of leases: also out of those that somebody wants
// more of, who has to wait for the poster's turn. It forgets leases that are
// idle.
func (a *Authorizer) takeBack(amount func(Allowance, *lease) Money) (back []Lease) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.leases {
		if n := amount(id, l); n > 0 {
			l.leased -= n
			l.dry = false // not any more
			back = append(back, Lease{Allowance: id, Amount: n})
		} else if l.idle() {
			a.forget(id)
		}
	}
	return back
}
