package billing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// waiter is a claim that waits for others to end, or for other nodes to give
// back what they do not use. It is in the queue of each of its allowances.
type waiter struct {
	claim  Claim
	answer chan answer // 1 deep
	// cause is why nothing comes, if it is not that others hold it all.
	cause error
	// exceeded is the limit that the store had too little of, when it said so
	// last.
	exceeded error
	done     bool
}

// answer is what a claim got, or why it got nothing.
type answer struct {
	amount Money
	err    error
}

// reserve holds what is claimed in all of its allowances, with more leased
// where it takes that, and returns how much it holds, or why it does not.
func (a *Authorizer) reserve(ctx context.Context, claim Claim) (Money, error) {
	if len(claim.Allowances) == 0 {
		return claim.Amount, nil
	}
	a.mu.Lock()
	a.checkFence()
	if a.take(claim.Allowances, claim.Amount) {
		a.mu.Unlock()
		return claim.Amount, nil
	}
	return a.reserveMore(ctx, claim, time.Now().Add(a.options.Patience))
}

// tryReserve is reserve from what the node has leased already.
func (a *Authorizer) tryReserve(claim Claim) (Money, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkFence()
	for _, amount := range [...]Money{claim.Amount, claim.least()} {
		if a.take(claim.Allowances, amount) {
			return amount, true
		}
	}
	for _, id := range claim.Allowances {
		if l := a.lease(id); l.free() < claim.Amount && !l.filled {
			l.low, l.target = max(l.low, claim.Amount), max(l.target, 2*min(claim.Amount, maxAmount/2))
			a.attend(id)
		}
	}
	return 0, false
}

// reserveMore is the rest of reserve, for when leases are short. It takes over
// mu.
func (a *Authorizer) reserveMore(ctx context.Context, claim Claim, deadline time.Time) (Money, error) {
	last := deadline.Add(storeTimeout)
	for {
		short, busy, queued := a.short(claim)
		switch {
		case queued:
			w := a.enqueue(claim)
			a.mu.Unlock()
			return a.await(ctx, w, deadline)
		case busy != nil:
			a.mu.Unlock()
			select {
			case <-busy:
			case <-time.After(time.Until(last)):
				return 0, a.late(claim)
			case <-ctx.Done():
				return 0, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
		default:
			a.occupy(short)
			a.mu.Unlock()
			if exhausted, err := a.refill(ctx, last, short, claim.Amount); exhausted || err != nil {
				a.mu.Lock()
				w := a.enqueue(claim)
				w.cause = err
				a.mu.Unlock()
				return a.await(ctx, w, deadline)
			}
		}
		a.mu.Lock()
		a.checkFence()
		if a.take(claim.Allowances, claim.Amount) {
			a.mu.Unlock()
			return claim.Amount, nil
		}
	}
}

// late is why a claim is refused that the store was too slow for: a limit, if
// the store has said before that there is too little of it.
func (a *Authorizer) late(claim Claim) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.exceeded(&waiter{claim: claim}); err != nil {
		return err
	}
	return fmt.Errorf("%w: the store has not answered in time", ErrUnavailable)
}

// take holds amount in all allowances, or in none. The caller holds mu.
func (a *Authorizer) take(allowances []Allowance, amount Money) bool {
	for _, id := range allowances {
		if l := a.lease(id); l.free() < amount || len(l.queue) > 0 && amount > 0 {
			return false
		}
	}
	a.grant(allowances, amount)
	return true
}

func (a *Authorizer) grant(allowances []Allowance, amount Money) {
	for _, id := range allowances {
		l := a.leases[id]
		l.held += amount
		l.peak = max(l.peak, l.held)
		if l.free() < l.low && !l.filled {
			a.attend(id)
		}
	}
}

// attend makes the keeper look at an allowance. The caller holds mu.
func (a *Authorizer) attend(id Allowance) {
	a.attention[id] = true
	signal(a.kick)
}

// short returns the allowances that a claim does not fit in: with what to wait
// for, if the store is at work on one of them, or that others wait already.
// The caller holds mu.
func (a *Authorizer) short(claim Claim) (short []Allowance, busy <-chan struct{}, queued bool) {
	for _, id := range claim.Allowances {
		l := a.lease(id)
		if len(l.queue) > 0 {
			queued = true
		} else if l.free() >= claim.Amount {
			continue
		}
		if l.busy != nil {
			busy = l.busy
		}
		short = append(short, id)
	}
	return short, busy, queued
}

// enqueue puts a claim at the end of the queues of its allowances, behind its
// like: requests that are under way come before those that have not begun. It
// tries what is enough for it first. The caller holds mu.
func (a *Authorizer) enqueue(claim Claim) *waiter {
	w := &waiter{claim: claim, answer: make(chan answer, 1)}
	a.waiting++
	for _, id := range claim.Allowances {
		l := a.lease(id)
		at := len(l.queue)
		if claim.held > 0 {
			at = slices.IndexFunc(l.queue, func(w *waiter) bool { return w.claim.held == 0 })
		}
		if at < 0 {
			at = len(l.queue)
		}
		l.queue = slices.Insert(l.queue, at, w)
		a.attend(id)
	}
	a.serve(a.leases[claim.Allowances[0]])
	return w
}

// await returns the answer to a waiting claim, or why there is none when time
// is up. A store that is slow to say how much there is gets more time.
func (a *Authorizer) await(ctx context.Context, w *waiter, deadline time.Time) (Money, error) {
	last := deadline.Add(storeTimeout)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		select {
		case got := <-w.answer:
			return got.amount, got.err
		case <-timer.C:
		case <-ctx.Done():
		}
		if err := a.giveUp(ctx, w, last); err != nil {
			return 0, err
		}
		timer.Reset(time.Until(last)) // unless the answer has come in the meantime
	}
}

// giveUp takes a claim out of the queues and returns why, unless it has its
// answer, or the store has not said yet that there is too little, and there is
// time left for that.
func (a *Authorizer) giveUp(ctx context.Context, w *waiter, last time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.done {
		return nil
	}
	err := cmp.Or(w.cause, a.exceeded(w))
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case err == nil && time.Now().Before(last):
		return nil
	case err == nil:
		err = ErrUnavailable
	}
	a.leave(w, answer{err: err})
	return err
}

// exceeded returns the limit that a claim has waited for in vain: the first of
// its allowances that the store has too little of, or had; nil if it has never
// said so. A claim that is in no queue yet does not keep leases from being
// forgotten. The caller holds mu.
func (a *Authorizer) exceeded(w *waiter) error {
	for _, id := range w.claim.Allowances {
		if l := a.leases[id]; l != nil && l.dry && l.free() < w.claim.least() {
			return exceeded(id.Kind)
		}
	}
	return w.exceeded
}

// leave answers a waiter and takes it out of all queues. The caller holds mu.
func (a *Authorizer) leave(w *waiter, got answer) {
	w.done = true
	w.answer <- got
	a.waiting--
	for _, id := range w.claim.Allowances {
		l := a.leases[id]
		l.queue = without(l.queue, w)
	}
}

// without removes a waiter and keeps the order of the others.
func without(queue []*waiter, w *waiter) []*waiter {
	for i := range queue {
		if queue[i] == w {
			copy(queue[i:], queue[i+1:])
			queue[len(queue)-1] = nil
			return queue[:len(queue)-1]
		}
	}
	return queue
}

// serve gives what is free to those who wait for it, the first one first, if all
// that it needs is there: its amount, or what is enough for it. One that needs
// more than there is lets the others pass. The caller holds mu.
func (a *Authorizer) serve(l *lease) {
	for i := 0; i < len(l.queue) && l.free() > 0; {
		w := l.queue[i]
		amount := w.claim.Amount
		if !a.fits(&w.claim, amount) {
			amount = w.claim.least()
			if !a.fits(&w.claim, amount) {
				i++
				continue
			}
		}
		a.grant(w.claim.Allowances, amount)
		a.leave(w, answer{amount: amount}) // and the next one moves up
	}
}

func (a *Authorizer) fits(claim *Claim, amount Money) bool {
	for _, id := range claim.Allowances {
		if a.leases[id].free() < amount {
			return false
		}
	}
	return true
}

// settle ends a hold: cost is spent of it, the rest is free again.
func (a *Authorizer) settle(allowances []Allowance, amount, cost Money) {
	cost = max(0, cost) // or what the store rejects would be lent to others first
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkFence()
	for _, id := range allowances {
		l := a.lease(id)
		l.held -= amount
		l.spent += cost
		l.cost += cost
	}
	for _, id := range allowances {
		l := a.leases[id]
		if l.recalled > 0 {
			a.freedOfRecalled(id, l, amount, amount-cost)
		}
		if len(l.queue) > 0 || !l.asked.IsZero() {
			a.freed(id, l, amount-cost)
		}
	}
}

// freedOfRecalled keeps what a hold has left of an allowance from the next
// requests if the hold is of before its limit changed. The caller holds mu.
func (a *Authorizer) freedOfRecalled(id Allowance, l *lease, hold, rest Money) {
	of := min(l.recalled, hold)
	l.recalled -= of
	l.promised += max(0, min(of, rest, l.free()))
	a.attend(id)
}

// freed shares what has become free of an allowance that is short: among those
// who wait here, and every other time with other nodes that have asked for it.
// The caller holds mu.
func (a *Authorizer) freed(id Allowance, l *lease, amount Money) {
	if !l.asked.IsZero() {
		if l.shared = !l.shared; l.shared {
			l.promised += max(0, min(amount, l.free()))
		}
		a.attend(id)
	}
	a.serve(l)
}
