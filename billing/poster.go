package billing

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// postEvery bounds how long a settlement waits for others to be posted
	// with it. Larger batches cost less for each settlement; what the store may
	// lag is 250 ms, of which this leaves 50 to post in.
	postEvery = 200 * time.Millisecond
	// postBatch is how many settlements go into one transaction at most: some
	// 20 ms of work, for which other writers may have to wait.
	postBatch = 1024
	// postTimeout bounds one attempt.
	postTimeout = 30 * time.Second
	// A store that is away is asked again after retryFirst, and later about
	// every retryLast: requests spend from leases that last for seconds, so the
	// node must notice soon that they can be renewed. One attempt a second is
	// nothing to a database.
	retryFirst = 50 * time.Millisecond
	retryLast  = time.Second
)

// PostObserver hears what becomes of settlements, for logs and metrics.
type PostObserver interface {
	// Posted: a batch is in the store.
	Posted(batch []Settlement)
	// PostFailed: the store did not take a batch, which is tried again.
	PostFailed(err error)
	// PostConflict: the store has other content for these requests. It keeps
	// what it has; a human must look.
	PostConflict(requestIDs []string)
	// PostRejected: the store cannot book this settlement, for this reason. It
	// is in the file instead; a human must look.
	PostRejected(s *Settlement, reason error, file string)
}

// Poster writes settlements to the store, in batches and in order, until the
// store has taken each of them. What it cannot book is set aside, so that it
// blocks nothing behind it. One goroutine, ended by Close, does the work.
type Poster struct {
	store    Ledger
	journal  Journal
	node     string
	observer PostObserver

	// follower hears of each batch before anything else changes leases.
	follower *Authorizer
	// turn is taken by whoever changes this node's leases in the store. Those
	// who wait get it in order, so that between two batches of a long queue all
	// others have theirs.
	turn chan struct{}
	// unsure tells that an attempt at the batch has failed: what it has done to
	// the leases is not known, even if the next one succeeds.
	unsure bool
	// batch is reused from one transaction to the next.
	batch   []Settlement
	started time.Time

	mu sync.Mutex
	// queue is in parts of postBatch at most: in an outage it gets long, and to
	// move all of it to a larger place would make requests wait.
	queue  [][]posting
	queued uint64 // settlements ever queued
	done   uint64 // and posted, in the same order
	spends spends
	// misheard tells that what is settled in them may be off.
	misheard bool
	waiting  []flush       // in the order of their targets
	wake     chan struct{} // 1 deep: there is something to do
	hurry    chan struct{} // 1 deep: do it now
	stop     context.CancelFunc
	ended    chan struct{}
}

// flush waits until so many settlements are posted.
type flush struct {
	target uint64
	done   chan struct{}
}

// posting is a settlement on its way to the store.
type posting struct {
	settlement Settlement
	// segments of the journal hold its records.
	segments []Segment
	// allowances are those that it was held in.
	allowances []Allowance
	// followed are the spends that it counts in as unposted.
	followed []*spend
	// since is when it was queued, after the poster was started.
	since time.Duration
}

// NewPoster starts a poster.
func NewPoster(store Ledger, journal Journal, node string, observer PostObserver) *Poster {
	ctx, stop := context.WithCancel(context.Background())
	p := &Poster{
		store: store, journal: journal, node: node, observer: observer,
		turn: make(chan struct{}, 1), started: time.Now(),
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		stop: stop, ended: make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// Post queues a settlement that nothing was held for. The segments are those of
// the journal that hold its records; they are let go when it is in the store.
func (p *Poster) Post(s Settlement, segments ...Segment) {
	p.post(posting{settlement: s, segments: segments})
}

func (p *Poster) post(q posting) {
	q.since = time.Since(p.started)
	p.mu.Lock()
	p.spends.settled(&q)
	last := len(p.queue) - 1
	if last < 0 || len(p.queue[last]) == postBatch {
		p.queue = append(p.queue, nil)
		last++
	}
	p.queue[last] = append(p.queue[last], q)
	p.queued++
	full := len(p.queue[last]) == postBatch
	p.mu.Unlock()
	signal(p.wake)
	if full {
		signal(p.hurry)
	}
}

// takeTurn waits until nothing else changes this node's leases in the store.
func (p *Poster) takeTurn(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Poster) endTurn() { <-p.turn }

// Pending is the number of settlements that are not in the store yet.
func (p *Poster) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.queued - p.done)
}

// Lag is how far the store is behind: the number of settlements that it does not
// have yet, and for how long the oldest of them has waited.
func (p *Poster) Lag() (settlements int, oldest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return 0, 0
	}
	return int(p.queued - p.done), time.Since(p.started) - p.queue[0][0].since
}

// Flush returns when all that was queued before is in the store, or set aside.
func (p *Poster) Flush(ctx context.Context) error {
	p.mu.Lock()
	if len(p.queue) == 0 {
		p.mu.Unlock()
		return nil
	}
	f := flush{target: p.queued, done: make(chan struct{})}
	p.waiting = append(p.waiting, f)
	p.mu.Unlock()
	signal(p.wake)
	signal(p.hurry)
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close posts what is queued, for as long as ctx allows, and ends the poster.
// What is left then is still in the journal.
func (p *Poster) Close(ctx context.Context) error {
	err := p.Flush(ctx)
	p.stop()
	<-p.ended
	return err
}

func (p *Poster) run(ctx context.Context) {
	defer close(p.ended)
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(postEvery):
		case <-p.hurry:
		case <-ctx.Done():
			return
		}
		for p.postOne(ctx) {
		}
	}
}

// postOne posts one batch, for as long as it takes, and reports whether it
// posted any.
func (p *Poster) postOne(ctx context.Context) bool {
	p.mu.Lock()
	var batch []posting
	if len(p.queue) > 0 {
		batch = p.queue[0] // others only append behind it
	}
	p.mu.Unlock()
	if len(batch) == 0 || p.postAll(ctx, batch) != nil {
		return false
	}
	segments := make([]Segment, 0, 2*len(batch))
	for i := range batch {
		segments = append(segments, batch[i].segments...)
	}
	p.mu.Lock()
	if p.queue[0] = p.queue[0][len(batch):]; len(p.queue[0]) == 0 {
		p.queue[0] = nil // or what it has grown to stays in memory
		p.queue = p.queue[1:]
	}
	p.done += uint64(len(batch))
	var reached []flush
	for len(p.waiting) > 0 && p.waiting[0].target <= p.done {
		reached = append(reached, p.waiting[0])
		p.waiting = p.waiting[1:]
	}
	p.mu.Unlock()
	clear(batch) // nobody else sees it any more
	p.journal.Posted(segments...)
	for _, f := range reached {
		close(f.done)
	}
	return true
}

// postAll posts a batch, for as long as it takes, except for what the store
// cannot book. Its error is that of ctx.
func (p *Poster) postAll(ctx context.Context, batch []posting) error {
	post := func(part []posting) error { return p.keepTrying(ctx, part) }
	return sift(batch, post, func(q *posting, reason error) error { return p.setAside(ctx, q, reason) })
}

// keepTrying posts a batch until the store has taken it. Its error is
// ErrInvalid, or that of ctx.
func (p *Poster) keepTrying(ctx context.Context, batch []posting) error {
	p.batch = p.batch[:0]
	for i := range batch {
		p.batch = append(p.batch, batch[i].settlement)
	}
	for wait := newRetry(); ; {
		err := p.try(ctx, batch)
		if err == nil {
			p.observer.Posted(p.batch)
			return nil
		}
		if errors.Is(err, ErrInvalid) || ctx.Err() != nil {
			return err
		}
		p.observer.PostFailed(err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func newRetry() *backoff.ExponentialBackOff {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = retryFirst, retryLast
	return wait
}

// pause waits until it is time to try again.
func pause(ctx context.Context, wait *backoff.ExponentialBackOff) error {
	select {
	case <-time.After(wait.NextBackOff()):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try posts a batch once. After an error it is not known whether the store has
// taken it, nor what it has done to the leases.
func (p *Poster) try(ctx context.Context, batch []posting) error {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	if err := p.takeTurn(ctx); err != nil {
		return err
	}
	defer p.endTurn()
	conflicts, err := p.store.Post(ctx, p.node, p.batch)
	if p.follower != nil {
		if p.unsure || err != nil || len(conflicts) > 0 {
			p.follower.doubt()
		}
		if err == nil {
			err = p.follower.posted(ctx, batch)
		}
		p.unsure = err != nil
	}
	if err == nil && len(conflicts) > 0 {
		p.observer.PostConflict(conflicts)
	}
	return err
}

// signal sets a one-deep flag.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
