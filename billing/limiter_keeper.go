package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// idleAfter is how long what is not used stays with the node, where there
	// are others; forgetAfter is how long it stays with the only one, and
	// until a counter is forgotten.
	idleAfter   = time.Second
	forgetAfter = 2 * time.Minute
	// healthyFor is how long after an answer nothing is said against the store.
	healthyFor = 2 * keepEvery
	// aheadAtMost is how many minutes are drawn ahead at most, whatever the
	// lease ahead is, and aheadAgain how often what was short is tried again.
	aheadAtMost = 10
	aheadAgain  = 10 * time.Second
	// endedFor is how long ago a minute has ended that is forgotten in the
	// store: clocks of nodes may differ by less.
	endedFor = 2 * time.Minute
	// drawAtOnce is how many quotas one draw is for.
	drawAtOnce = 200
)

// errNoDraw: the store has not answered in time.
var errNoDraw = errors.New("no answer in time")

// draft is a draw that is under way.
type draft struct {
	Draw
	window *window
	needed int64
	sent   time.Time
}

// keep is the work in the background: it draws for requests that wait, fills
// up before a grant runs out, draws ahead, and gives back what is not used.
func (l *Limiter) keep(ctx context.Context) {
	var measured, swept time.Time
	var listening bool
	for {
		now := time.Now()
		if !listening && l.counts() && !l.options.Sole {
			listening = true
			l.running.Go(func() { l.listen(ctx) })
		}
		if now.Sub(measured) >= keepEvery {
			measured = now
			l.measure(now)
		}
		err := l.draw(ctx, l.drafts(now))
		if err == nil && now.Sub(swept) >= sweepEvery {
			var more bool
			if more, err = l.sweep(ctx); more {
				signal(l.kick) // after the next draws, which requests may wait for
			} else {
				swept = now
			}
		}
		if err != nil && ctx.Err() == nil {
			l.options.Failed(err)
		}
		if !l.pause(ctx, err != nil) {
			return
		}
	}
}

// pause waits until there is something to do, and returns false at the end.
func (l *Limiter) pause(ctx context.Context, failed bool) bool {
	least := restBetween
	if failed {
		least = askEvery
	}
	select {
	case <-time.After(least):
	case <-ctx.Done():
		return false
	}
	wait := keepEvery
	l.mu.Lock()
	if l.waiting > 0 {
		wait = pullEvery
	}
	l.mu.Unlock()
	select {
	case <-l.kick:
	case <-time.After(wait):
	case <-ctx.Done():
		return false
	}
	return true
}

// measure ends a second of measuring, makes room for the minutes to come, and
// forgets what is not used any more.
func (l *Limiter) measure(now time.Time) {
	nodes, ahead := int64(max(1, l.options.Nodes())), l.options.Ahead()
	l.mu.Lock()
	defer l.mu.Unlock()
	clock := l.options.Now()
	for q, c := range l.counters {
		w := c.current(clock)
		c.measure()
		c.plan(nodes, w.start.Add(time.Minute).Sub(clock), l.options.Sole)
		for _, w := range c.windows {
			if now.Sub(w.asked) > askLasts {
				w.asked = time.Time{}
			}
		}
		unused := now.Sub(c.touched)
		switch {
		case unused > forgetAfter && len(c.windows) == 1 && w.used == 0 && w.settled():
			delete(l.counters, q)
			continue
		case unused <= forgetAfter && q.Kind != KeyConcurrency:
			l.openAhead(c, clock, ahead)
		}
		l.attention[c] = true
	}
}

// openAhead makes the windows that are to be drawn ahead.
func (l *Limiter) openAhead(c *counter, clock time.Time, ahead time.Duration) {
	for n := range aheadAtMost {
		start := c.reached.Add(time.Duration(n+1) * time.Minute)
		if n > 0 && (l.options.Sole || start.After(clock.Add(ahead))) {
			return
		}
		c.window(start)
	}
}

// settled tells that the store knows all there is to know of the window.
func (w *window) settled() bool {
	return !w.open && w.needed == 0 && w.used == w.reported && w.granted <= w.used
}

// drafts returns the draws that are needed now.
func (l *Limiter) drafts(now time.Time) []draft {
	several := l.options.Nodes() > 1
	l.mu.Lock()
	defer l.mu.Unlock()
	clock := l.options.Now()
	var drafts []draft
	for c := range l.attention {
		current := c.current(clock)
		for _, w := range c.windows {
			d, due := w.draft(w == current, several, now)
			if !due {
				continue
			}
			l.serial++
			d.Serial = l.serial
			drafts = append(drafts, d)
		}
		if current.needed == 0 {
			delete(l.attention, c)
		}
	}
	return drafts
}

// draft is what to draw for a window, and whether it is time. What will or may
// be taken from the node is not counted on from now on.
func (w *window) draft(current, several bool, now time.Time) (draft, bool) {
	c := w.counter
	unused, age := now.Sub(c.touched), now.Sub(w.answered)
	idle := unused >= idleAfter && several || unused >= forgetAfter
	var want, least int64
	var due bool
	switch {
	case w.needed > 0:
		want, least = w.used+w.needed, w.used+w.least
		if w.asked.IsZero() && !w.scarce {
			want = w.target() + w.needed
		}
		due = w.free() < w.needed && (age >= pullEvery || w.fresh && !w.scarce)
	case !w.asked.IsZero(), idle && current, unused >= forgetAfter:
		want = w.used
		due = !w.settled()
	case !current:
		want = c.share
		due = w.open || want != w.wanted || w.granted < want && age >= aheadAgain
	default:
		want = w.target()
		told := w.used == w.reported && want == w.wanted && !w.open
		due = w.low() || w.used > w.granted && !told || age >= keepEvery && (!told || several && !w.dry)
	}
	if !due {
		return draft{}, false
	}
	if want < w.granted && w.asked.IsZero() && age > healthyFor {
		want = w.granted // in an outage it would be lost: see first whether this is one
	}
	want = max(w.used, min(want, c.allowed))
	d := draft{window: w, needed: w.needed, sent: now, Draw: Draw{
		Quota: c.quota, Limit: c.allowed, Used: w.used, Want: want, Least: min(least, want),
	}}
	d.Quota.Start = w.start
	w.wanted, w.open, w.fresh = want, true, false
	if w.granted = min(w.granted, want); w.granted < d.Least {
		w.granted = min(w.granted, w.used)
	}
	return d, true
}

// draw draws from the store, and wakes the requests that wait.
func (l *Limiter) draw(ctx context.Context, drafts []draft) error {
	if len(drafts) == 0 {
		l.wake()
		return nil
	}
	var failure error
	var ask []Quota
	for some := range slices.Chunk(drafts, drawAtOnce) {
		drawn, err := l.drawSome(ctx, some)
		if err != nil {
			failure = err
			break // what the store has done is found out by the next draws
		}
		ask = append(ask, l.apply(some, drawn)...)
	}
	l.mu.Lock()
	l.failure = failure
	l.mu.Unlock()
	l.wake()
	if failure == nil && len(ask) > 0 {
		failure = l.store.AskForQuotas(ctx, l.node, ask)
	}
	return failure
}

// wake lets the requests that wait look again: also where nothing was drawn,
// as others may have ended, or the minute.
func (l *Limiter) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 {
		close(l.round)
		l.round = make(chan struct{})
	}
}

func (l *Limiter) drawSome(ctx context.Context, drafts []draft) ([]Drawn, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	draws := make([]Draw, len(drafts))
	for i := range drafts {
		draws[i] = drafts[i].Draw
	}
	return l.store.Draw(ctx, l.node, draws)
}

// apply takes over what was drawn, and returns what to ask other nodes for.
func (l *Limiter) apply(drafts []draft, drawn []Drawn) (ask []Quota) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for i, d := range drafts {
		w := d.window
		w.granted, w.elsewhere = drawn[i].Granted, drawn[i]
		w.reported, w.open, w.serial, w.answered = d.Used, false, d.Serial, d.sent
		w.scarce = w.granted < d.Want || w.granted < d.Used+d.needed
		if w.granted > d.Used {
			w.rest = 0
		}
		if w.needed == 0 || !w.scarce || now.Sub(w.asking) < askEvery {
			continue
		}
		// Of what is used elsewhere, some may be over by now.
		returns := w.counter.quota.Kind == KeyConcurrency || w.counter.quota.Kind == KeyTPM
		if w.elsewhere.UnusedElsewhere > 0 || returns && w.elsewhere.UsedElsewhere > 0 {
			w.asking = now
			ask = append(ask, d.Quota)
		}
	}
	return ask
}

// sweep removes minutes from the store that have ended for all nodes: some at a
// time.
func (l *Limiter) sweep(ctx context.Context) (more bool, err error) {
	if !l.counts() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return l.store.ForgetQuotas(ctx, minuteOf(l.options.Now()).Add(-endedFor))
}

// counts tells whether there is anything to count.
func (l *Limiter) counts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.counters) > 0
}

// listen hears what other nodes ask for.
func (l *Limiter) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := l.store.ListenForQuotas(ctx, l.node, l.Asked); err != nil && ctx.Err() == nil {
			l.options.Failed(err)
		}
		select {
		case <-time.After(keepEvery):
		case <-ctx.Done():
		}
	}
}

// Asked says that other nodes need some of these quotas.
func (l *Limiter) Asked(quotas []Quota) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, q := range quotas {
		start := q.Start
		q.Start = time.Time{}
		c := l.counters[q]
		if c == nil {
			continue
		}
		if w := c.find(start); w != nil {
			w.asked = now
			l.attend(c)
		}
	}
}

// giveBackAll gives back all that is not used, at the end.
func (l *Limiter) giveBackAll(ctx context.Context) error {
	l.mu.Lock()
	var drafts []draft
	now := time.Now()
	for _, c := range l.counters {
		for _, w := range c.windows {
			w.needed, w.asked = 0, now
			if d, due := w.draft(true, true, now); due {
				l.serial++
				d.Serial = l.serial
				drafts = append(drafts, d)
			}
		}
	}
	l.mu.Unlock()
	if err := l.draw(ctx, drafts); err != nil {
		return fmt.Errorf("give back quotas: %w", err)
	}
	return nil
}
