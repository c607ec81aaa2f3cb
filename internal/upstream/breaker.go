package upstream

import (
	"fmt"
	"sync"
	"time"
)

const (
	// span is how far back failures count.
	span = time.Minute
	// openFor is how long an open breaker lets nothing through, and how long a
	// probe may take until another one is let through beside it.
	openFor = 30 * time.Second
	// maxConsecutive is how many failures in a row open a breaker.
	maxConsecutive = 10
	// leastRequests is from how many requests on their share of failures may
	// open a breaker: half of them.
	leastRequests = 20
)

// State of a breaker.
type State uint8

// A breaker is Closed while the provider works, Open while nothing is sent to
// it, and HalfOpen when the next request is a probe, or one is under way.
const (
	Closed State = iota
	HalfOpen
	Open
)

func (s State) String() string { return [...]string{"closed", "half_open", "open"}[s] }

// Breaker stops requests to a provider that fails: after ten failures in a row,
// or when half of at least twenty requests failed, within a minute. It stays
// open for half a minute. Then it lets one request through as a probe: if that
// succeeds it closes, if not it stays open for another half minute.
//
// Each attempt counts for itself.
type Breaker struct {
	now     func() time.Time
	changed func(Change)

	mu          sync.Mutex
	state       State
	phase       uint64 // counts changes of state and probes
	consecutive int
	trip        window // what may open it
	recent      window // what it tells about itself
	opened      time.Time
	reason      string    // why it opened
	retry       time.Time // when the next probe may go
}

// Change is a change of a breaker's state.
type Change struct {
	From, To State
	// Reason is why it opened, and RetryAt when the next probe may go.
	Reason  string
	RetryAt time.Time
}

// NewBreaker returns a closed breaker that calls changed after each change of
// its state.
func NewBreaker(now func() time.Time, changed func(Change)) *Breaker {
	return &Breaker{now: now, changed: changed}
}

// Pass is the permission for one attempt. It is to be given back by Record.
type Pass struct{ phase uint64 }

// Allow asks for the permission for one attempt. If it is refused, wait is how
// long it will be so at least.
func (b *Breaker) Allow() (pass Pass, wait time.Duration, ok bool) {
	b.mu.Lock()
	if b.state == Closed {
		defer b.mu.Unlock()
		return Pass{b.phase}, 0, true
	}
	now := b.now()
	if wait := b.retry.Sub(now); wait > 0 {
		defer b.mu.Unlock()
		return Pass{}, wait, false
	}
	from := b.state
	b.state, b.retry = HalfOpen, now.Add(openFor)
	b.phase++ // an older probe has no say any more
	pass = Pass{b.phase}
	change := b.since(from)
	b.mu.Unlock()
	b.tell(change)
	return pass, 0, true
}

// Record says what became of an attempt. One that began before the breaker's
// state last changed is counted, and changes nothing.
func (b *Breaker) Record(pass Pass, class Class) {
	b.mu.Lock()
	now := b.now()
	if class != Abandoned {
		b.recent.add(now, class)
	}
	from := b.state
	if pass.phase == b.phase {
		b.judge(now, class)
	}
	change := b.since(from)
	b.mu.Unlock()
	b.tell(change)
}

func (b *Breaker) judge(now time.Time, class Class) {
	switch {
	case b.state == HalfOpen && class == Abandoned:
		b.retry = now // the next one is the probe
	case class == Abandoned:
	case b.state == HalfOpen && class.Failure():
		b.open(now, "the probe failed")
	case b.state == HalfOpen:
		b.state, b.consecutive, b.trip = Closed, 0, window{}
		b.phase++
	case !class.Failure():
		b.trip.add(now, class)
		b.consecutive = 0
	default:
		b.trip.add(now, class)
		b.fail(now)
	}
}

// fail counts a failure while the breaker is closed.
func (b *Breaker) fail(now time.Time) {
	counts := b.trip.counts(now)
	b.consecutive = min(b.consecutive+1, counts.Failures())
	switch failures, total := counts.Failures(), counts.Total(); {
	case b.consecutive >= maxConsecutive:
		b.open(now, fmt.Sprintf("%d failures in a row", b.consecutive))
	case total >= leastRequests && 2*failures >= total:
		b.open(now, fmt.Sprintf("%d of %d requests failed", failures, total))
	}
}

func (b *Breaker) open(now time.Time, reason string) {
	b.state, b.opened, b.reason, b.retry = Open, now, reason, now.Add(openFor)
	b.phase++
}

// since is the change from an earlier state. The caller holds mu.
func (b *Breaker) since(from State) Change {
	c := Change{From: from, To: b.state}
	if c.To == Open {
		c.Reason, c.RetryAt = b.reason, b.retry
	}
	return c
}

func (b *Breaker) tell(c Change) {
	if c.From != c.To {
		b.changed(c)
	}
}

// BreakerStatus is what a breaker tells about itself.
type BreakerStatus struct {
	State State
	// Consecutive is the number of failures in a row.
	Consecutive int
	// OpenedAt is when it last opened, and RetryAt when the next probe may go;
	// zero while it is closed.
	OpenedAt, RetryAt time.Time
	// LastMinute are the attempts of the last sixty seconds.
	LastMinute Counts
}

// Status tells how the breaker stands.
func (b *Breaker) Status() BreakerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	s := BreakerStatus{State: b.state, Consecutive: b.consecutive, LastMinute: *b.recent.counts(now)}
	if b.state == Open && !b.retry.After(now) {
		s.State = HalfOpen
	}
	if b.state != Closed {
		s.OpenedAt, s.RetryAt = b.opened, b.retry
	}
	return s
}
