package billing

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"
)

// LimiterOptions are how a node shares quotas. The zero value is the default.
type LimiterOptions struct {
	// Sole is set for the only node.
	Sole bool
	// Now is the clock that requests are counted by. Default: time.Now.
	Now func() time.Time
	// Ahead tells for how long the node's share of quotas in use is drawn in
	// advance, in whole minutes, the next one always. Default:
	// DefaultLeaseAhead.
	Ahead func() time.Duration
	// TTL tells how long after its last draw the node may admit further
	// requests out of KeyConcurrency that it was granted: after its lease TTL
	// others may have been given that. 0 or less is for ever, the default.
	TTL func() time.Duration
	// Nodes tells how many there are, or 0 if that is not known yet. Default: 1.
	Nodes func() int
	// Failed hears of draws that failed. They are tried again.
	Failed func(error)
}

// Limiter counts requests and tokens against quotas, in memory, out of what
// the node has drawn from the store. It draws more in the background before
// that runs out, and ahead for the minutes to come.
type Limiter struct {
	store   Quotas
	node    string
	options LimiterOptions

	mu       sync.Mutex
	counters map[Quota]*counter // by quotas without a start
	// attention has the counters that the keeper is to look at.
	attention map[*counter]bool
	// round is closed when the next round of draws has ended. Requests wait for
	// it.
	round chan struct{}
	// waiting counts the requests that wait for one.
	waiting int
	// serial is that of the last draw.
	serial int64
	// failure is why the last round has failed, if it has.
	failure error

	kick    chan struct{} // 1 deep: the keeper has something to do
	stop    context.CancelFunc
	running sync.WaitGroup
}

// NewLimiter returns a limiter for a node that has drawn nothing yet. It draws
// in the background until Close.
func NewLimiter(store Quotas, node string, options LimiterOptions) *Limiter {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Ahead == nil {
		options.Ahead = func() time.Duration { return DefaultLeaseAhead }
	}
	if options.TTL == nil || options.Sole {
		options.TTL = func() time.Duration { return 0 }
	}
	if options.Nodes == nil || options.Sole {
		options.Nodes = func() int { return 1 }
	}
	if options.Failed == nil {
		options.Failed = func(error) {}
	}
	l := &Limiter{
		store: store, node: node, options: options,
		counters: make(map[Quota]*counter), attention: make(map[*counter]bool),
		round: make(chan struct{}), kick: make(chan struct{}, 1),
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() { l.keep(ctx) })
	return l
}

// Close ends the background work and gives back what is not used.
func (l *Limiter) Close(ctx context.Context) error {
	l.stop()
	l.running.Wait()
	return l.giveBackAll(ctx)
}

// QuotaClaim is what a request wants of one quota.
type QuotaClaim struct {
	// Quota without its Start.
	Quota Quota
	// Limit of the quota, and Amount that the request wants of it. 0 takes
	// nothing, and is never refused. Where Amount is a guess, Least is what is
	// enough if there is no more: Take sets Amount to what it has taken. 0
	// stands for Amount.
	Limit, Amount, Least int64
	// Remaining is what is left of the limit, as far as the node knows, and
	// Reset when the minute ends. Take and Look fill them in.
	Remaining int64
	Reset     time.Time

	window *window // that it was taken in
}

func (c *QuotaClaim) amount() int64 { return c.Amount }

func (c *QuotaClaim) least() int64 {
	if c.Least == 0 {
		return c.Amount
	}
	return min(c.Least, c.Amount)
}

// Take takes all claims or none. It returns the index of the first claim that
// its limit has no room for; -1 if all were taken. What other nodes have and
// do not use is waited for, for a moment. Where the store is needed and does
// not answer, the error is ErrUnavailable.
//
// A request is counted in the minute that it is taken in, or in a later one
// that others have reached.
func (l *Limiter) Take(ctx context.Context, claims []QuotaClaim) (short int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if short = l.take(claims, (*QuotaClaim).amount); short < 0 {
		return short, nil
	}
	return l.wait(ctx, claims)
}

// Correct makes a claim count as another amount, in the minute that Take has
// taken it in: 0 gives it back. If that minute has ended, it changes nothing.
func (l *Limiter) Correct(claim *QuotaClaim, amount int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := claim.window
	w.used += amount - claim.Amount
	claim.Amount = amount
	if w.used > w.granted || w.needed > 0 || !w.asked.IsZero() {
		l.attend(w.counter)
	}
}

// Look fills in what is left for a claim, and takes nothing.
func (l *Limiter) Look(claim *QuotaClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.options.Now()
	if c := l.counters[claim.Quota]; c != nil {
		claim.fill(c.current(now))
		return
	}
	claim.fill(&window{start: minuteOf(now)})
}

// fill tells what is left.
func (c *QuotaClaim) fill(w *window) {
	c.Remaining = max(0, c.Limit-w.used-w.elsewhere.UsedElsewhere)
	c.Reset = w.start.Add(time.Minute)
}

// take takes all claims from memory, if there is enough for each, or none, and
// returns the first that is short. The caller holds mu.
func (l *Limiter) take(claims []QuotaClaim, enough func(*QuotaClaim) int64) (short int) {
	now := l.options.Now()
	short = -1
	for i := range claims {
		c := &claims[i]
		c.window = l.counter(c.Quota).current(now)
		c.window.counter.limit(c.Limit)
		l.lapse(c.window)
		if short < 0 && c.Amount > 0 && c.window.free() < enough(c) {
			short = i
		}
	}
	for i := range claims {
		c := &claims[i]
		if short < 0 {
			if c.Amount > 0 {
				c.Amount = min(c.Amount, c.window.free())
			}
			c.window.use(c.Amount)
			if c.window.low() {
				l.attend(c.window.counter)
			}
		}
		c.fill(c.window)
	}
	return short
}

// lapse forgets what was granted of open requests by a draw that is too long
// ago. The caller holds mu.
func (l *Limiter) lapse(w *window) {
	if w.counter.quota.Kind != KeyConcurrency || w.granted <= w.used {
		return
	}
	ttl := l.options.TTL()
	if f := (fence{beat: w.answered, ttl: ttl}); ttl > 0 && f.overdue(time.Now()) {
		w.granted = w.used
	}
}

const (
	// probeFor is how long a request waits for what other nodes have and do
	// not use. More is drawn every pullEvery meanwhile.
	probeFor = 250 * time.Millisecond
	// restAfter is how long requests are refused without asking the store
	// again, after it had nothing left: twice as long after each time that it
	// has nothing again, up to restAtMost.
	restAfter  = 100 * time.Millisecond
	restAtMost = time.Second
)

// wait waits for draws until all claims can be taken, or one is refused. The
// caller holds mu, which is free meanwhile.
func (l *Limiter) wait(ctx context.Context, claims []QuotaClaim) (short int, err error) {
	began, since := time.Now(), l.serial
	patience := time.NewTimer(DefaultPatience)
	defer patience.Stop()
	for {
		if short = l.take(claims, (*QuotaClaim).amount); short < 0 {
			return short, nil
		}
		if l.refuses(&claims[short], since, time.Since(began)) {
			return l.takeLeast(claims), nil
		}
		if err := l.await(ctx, claims, patience.C); err != nil {
			return short, err
		}
	}
}

// takeLeast takes what is enough of each claim, if that is there. The caller
// holds mu.
func (l *Limiter) takeLeast(claims []QuotaClaim) (short int) {
	short = l.take(claims, (*QuotaClaim).least)
	if short >= 0 && claims[short].Amount == 1 {
		claims[short].Remaining = 0 // what others have, and keep, is not for this client
	}
	return short
}

// await waits for the end of a round of draws that knows of the claims.
func (l *Limiter) await(ctx context.Context, claims []QuotaClaim, patience <-chan time.Time) error {
	var needed [4]*window // at most one of each kind: no allocation
	windows := needed[:0]
	for i := range claims {
		windows = append(windows, claims[i].window)
		claims[i].window.need(claims[i].Amount, claims[i].least())
		l.attend(claims[i].window.counter)
	}
	l.waiting++
	round := l.round
	l.mu.Unlock()
	var err error
	select {
	case <-round:
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience:
		err = errNoDraw
	}
	l.mu.Lock()
	l.waiting--
	for i, w := range windows {
		w.needed -= claims[i].Amount
	}
	if err != nil {
		return fmt.Errorf("%w: draw quotas: %w", ErrUnavailable, cmp.Or(l.failure, err))
	}
	return nil
}

// refuses tells whether a claim that is short is to be refused now, by what
// draws since it came have shown. The caller holds mu.
func (l *Limiter) refuses(c *QuotaClaim, since int64, waited time.Duration) bool {
	w, now := c.window, time.Now()
	switch {
	case c.Amount > c.Limit, w.used+c.least() > c.Limit:
		return true // whatever the store and other nodes have
	case w.dry, w.rests(now) && c.least() >= w.refused:
		return true
	case w.serial <= since, !w.scarce:
		return false // the store has more, for all that is known
	case w.counter.quota.Kind == KeyConcurrency && w.elsewhere.UsedElsewhere > 0 && w.rest == 0 && waited < probeFor:
		return false // of what is open elsewhere, some may be over by now, unless that was waited for in vain
	case w.elsewhere.UnusedElsewhere == 0:
		// What was used of requests a minute never comes back.
		w.dry = w.counter.quota.Kind == KeyRPM || w.counter.quota.Kind == OrganizationRPM
	case w.elsewhere.UnusedElsewhere != w.withheld && waited < probeFor:
		return false
	}
	w.withheld = w.elsewhere.UnusedElsewhere
	w.restFrom(now, c.least())
	return true
}

// counter returns the counter of a quota. The caller holds mu.
func (l *Limiter) counter(q Quota) *counter {
	c := l.counters[q]
	if c == nil {
		c = &counter{quota: q, touched: time.Now()}
		l.counters[q] = c
	}
	return c
}

// attend makes the keeper look at a counter. The caller holds mu.
func (l *Limiter) attend(c *counter) {
	l.attention[c] = true
	signal(l.kick)
}
