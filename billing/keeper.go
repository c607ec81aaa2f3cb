package billing

import (
	"context"
	"fmt"
	"math"
	"time"
)

const (
	// storeTimeout bounds how long a request waits for the store.
	storeTimeout = 5 * time.Second
	// keepEvery is how often demand is measured, and leases are filled up.
	keepEvery = time.Second
	// sweepEvery is how often what is not used is given back.
	sweepEvery = 5 * time.Second
	// pullEvery is how often more is asked of the store for those who wait.
	pullEvery = 20 * time.Millisecond
	// restBetween is the least time between two rounds, whoever calls for one.
	restBetween = 5 * time.Millisecond
	// askEvery is how often other nodes are asked to give back; askLasts is
	// how long they go on to share what gets free.
	askEvery = 100 * time.Millisecond
	askLasts = 5 * askEvery
	// firstAhead is how many times its first hold a node leases ahead, before
	// it knows its demand.
	firstAhead = 16
)

// keep is the work in the background: it fills leases up before they run out,
// gives back what is not used, and asks for what requests wait for.
func (a *Authorizer) keep(ctx context.Context) {
	var measured, swept, asked time.Time
	for {
		now := time.Now()
		if now.Sub(measured) >= keepEvery {
			measured = now
			a.measure(now)
			a.followSpends(ctx, now)
		}
		if a.isStale() {
			a.report(ctx, a.giveBack(ctx, func(Allowance, *lease) Money { return 0 }))
		}
		a.returnRecalled(ctx)
		ids := a.attended()
		a.fillUp(ctx, ids)
		a.pull(ctx, ids, &asked)
		a.share(ctx, ids)
		if now.Sub(swept) >= sweepEvery {
			swept = now
			a.report(ctx, a.GiveBackIdle(ctx, now))
		}
		if !a.rest(ctx) {
			return
		}
	}
}

// attended returns the allowances to look at now. Those that requests wait
// for, here or elsewhere, stay on the list.
func (a *Authorizer) attended() []Allowance {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]Allowance, 0, len(a.attention))
	for id := range a.attention {
		ids = append(ids, id)
		if l := a.lease(id); len(l.queue) == 0 && l.asked.IsZero() {
			delete(a.attention, id)
		}
	}
	return ids
}

// rest waits until there is something to do, and returns false at the end.
func (a *Authorizer) rest(ctx context.Context) bool {
	select {
	case <-time.After(restBetween):
	case <-ctx.Done():
		return false
	}
	wait := keepEvery
	a.mu.Lock()
	if a.waiting > 0 {
		wait = pullEvery
	}
	a.mu.Unlock()
	select {
	case <-a.kick:
	case <-time.After(wait):
	case <-ctx.Done():
		return false
	}
	return true
}

// report tells of a failure, unless it is the end.
func (a *Authorizer) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		a.options.Failed(err)
	}
}

func (a *Authorizer) measure(now time.Time) {
	ahead := a.options.Ahead()
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.leases {
		if !a.options.Sole {
			l.measure(ahead)
			if l.free() < l.low {
				a.attention[id] = true
			}
		}
		if now.Sub(l.asked) > askLasts {
			l.asked = time.Time{}
		}
	}
}

// fillUp leases ahead where less than half of what a node wants is left.
func (a *Authorizer) fillUp(ctx context.Context, attended []Allowance) {
	var want []Want
	var ids []Allowance
	a.mu.Lock()
	for _, id := range attended {
		l := a.lease(id)
		if l.free() >= l.low || l.busy != nil || !l.asked.IsZero() || len(l.queue) > 0 || l.filled {
			continue
		}
		l.filled = true
		want = append(want, Want{Allowance: id, Ahead: l.target - l.free()})
		ids = append(ids, id)
	}
	a.occupy(ids)
	a.mu.Unlock()
	if len(want) > 0 {
		_, err := a.lend(ctx, want, ids)
		a.report(ctx, err)
	}
}

// refill leases what is missing for a hold and some more. It tells whether an
// allowance has no room for the hold.
func (a *Authorizer) refill(ctx context.Context, last time.Time, short []Allowance, amount Money) (exhausted bool, err error) {
	a.mu.Lock()
	want := make([]Want, 0, len(short))
	for _, id := range short {
		want = append(want, a.wanted(id, amount))
	}
	a.mu.Unlock()
	// The client may leave, but what the store grants must not get lost.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), last)
	defer cancel()
	grants, err := a.lend(ctx, want, short)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, g := range grants {
		// If the store gave all that was needed, there may be more where it
		// came from: others have spent meanwhile, and the caller tries again.
		l := a.lease(g.Allowance)
		exhausted = exhausted || g.Amount < want[i].Need && l.free() < amount
	}
	return exhausted, nil
}

// wanted is what to ask the store for, for a hold that does not fit. The
// caller holds mu.
func (a *Authorizer) wanted(id Allowance, amount Money) Want {
	l := a.lease(id)
	w := Want{Allowance: id, Need: max(0, amount-l.free())}
	switch {
	case a.options.Sole:
		w.Need = math.MaxInt64
	case l.asked.IsZero():
		w.Ahead = max(times(amount, firstAhead), l.target)
	}
	return w
}

// lend asks the store for leases, which the caller has occupied, and adds what
// is granted to them. Then they are vacant again.
func (a *Authorizer) lend(ctx context.Context, want []Want, ids []Allowance) ([]Grant, error) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.vacate(ids)
	}()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := a.poster.takeTurn(ctx); err != nil {
		return nil, fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	defer a.poster.endTurn()
	if err := a.reconcile(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	a.mu.Lock()
	a.checkFence()
	down, epoch := a.fence.down, a.epoch
	a.mu.Unlock()
	if down {
		return nil, errFenced
	}
	if err := a.giveBackRivals(ctx, ids); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	grants, err := a.store.Lease(ctx, a.node, want)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.stale = true
		return nil, fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	if a.checkFence(); a.epoch != epoch { // others may have been given what was granted here
		a.stale = true
		return nil, errFenced
	}
	for i, g := range grants {
		l := a.lease(g.Allowance)
		l.leased += g.Amount
		l.dry = g.Amount < want[i].Need
	}
	return grants, nil
}

// pull leases for the claims that wait, as much as is enough for them, and asks
// other nodes for what the store does not have. It refuses claims that nothing
// can come for any more.
func (a *Authorizer) pull(ctx context.Context, attended []Allowance, asked *time.Time) {
	want, ids := a.needs(attended)
	if len(want) == 0 {
		return
	}
	grants, err := a.lend(ctx, want, ids)
	a.mu.Lock()
	if err != nil {
		for _, id := range ids {
			for _, w := range a.lease(id).queue {
				w.cause = err
			}
		}
		a.mu.Unlock()
		a.report(ctx, err)
		return
	}
	var ask []Allowance
	for _, g := range grants {
		l := a.lease(g.Allowance)
		a.serve(l)
		a.refuse(l, g)
		if len(l.queue) > 0 && g.Elsewhere > 0 {
			ask = append(ask, g.Allowance)
		}
	}
	a.mu.Unlock()
	if now := time.Now(); len(ask) > 0 && now.Sub(*asked) >= askEvery {
		*asked = now
		a.report(ctx, a.store.Ask(ctx, a.node, ask))
	}
}

// needs is what all claims that wait are short of.
func (a *Authorizer) needs(attended []Allowance) (want []Want, ids []Allowance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range attended {
		l := a.lease(id)
		if len(l.queue) == 0 || l.busy != nil {
			continue
		}
		var enough Money
		for _, w := range l.queue {
			enough += min(w.claim.least(), maxAmount-enough)
		}
		w := Want{Allowance: id, Need: max(0, enough-l.free())}
		if a.options.Sole {
			w.Need = math.MaxInt64
		}
		want = append(want, w)
		ids = append(ids, id)
	}
	a.occupy(ids)
	return want, ids
}

// refuse answers those who wait for more than can become free, here and
// elsewhere together: what those hold who wait does not. The caller holds mu.
func (a *Authorizer) refuse(l *lease, g Grant) {
	ending := l.held
	for _, w := range l.queue {
		ending -= w.claim.held
	}
	for i := 0; i < len(l.queue); {
		w := l.queue[i]
		w.exceeded, w.cause = a.exceeded(w), nil
		missing := w.claim.least() - l.free() - l.promised - ending
		if w.exceeded != nil && missing > g.Elsewhere {
			a.leave(w, answer{err: w.exceeded})
			continue
		}
		i++
	}
}
