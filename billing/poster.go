package billing

import (
	"context"
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
	retryFirst  = 50 * time.Millisecond
	retryLast   = 5 * time.Second
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
}

// Poster writes settlements to the store, in batches and in order, until the
// store has taken each of them. One goroutine, ended by Close, does the work.
type Poster struct {
	store    Ledger
	journal  Journal
	node     string
	observer PostObserver

	mu      sync.Mutex
	queue   []posting
	queued  uint64        // settlements ever queued
	posted  uint64        // and posted, in the same order
	waiting []flush       // in the order of their targets
	wake    chan struct{} // 1 deep: there is something to do
	hurry   chan struct{} // 1 deep: do it now
	stop    context.CancelFunc
	done    chan struct{}
}

// flush waits until so many settlements are posted.
type flush struct {
	target uint64
	done   chan struct{}
}

type posting struct {
	settlement Settlement
	segments   [2]Segment
	more       []Segment
}

// NewPoster starts a poster.
func NewPoster(store Ledger, journal Journal, node string, observer PostObserver) *Poster {
	ctx, stop := context.WithCancel(context.Background())
	p := &Poster{
		store: store, journal: journal, node: node, observer: observer,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		stop: stop, done: make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// Post queues a settlement. The segments are those of the journal that hold
// its records; they are let go when it is in the store.
func (p *Poster) Post(s Settlement, segments ...Segment) {
	q := posting{settlement: s}
	if n := copy(q.segments[:], segments); n < len(segments) {
		q.more = segments[n:]
	}
	p.mu.Lock()
	p.queue = append(p.queue, q)
	p.queued++
	full := len(p.queue) == postBatch
	p.mu.Unlock()
	signal(p.wake)
	if full {
		signal(p.hurry)
	}
}

// Pending is the number of settlements that are not in the store yet.
func (p *Poster) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// Flush returns when all that was queued before is in the store.
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
	<-p.done
	return err
}

func (p *Poster) run(ctx context.Context) {
	defer close(p.done)
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
	n := min(len(p.queue), postBatch)
	batch := make([]Settlement, n)
	for i := range batch {
		batch[i] = p.queue[i].settlement
	}
	p.mu.Unlock()
	if n == 0 || !p.post(ctx, batch) {
		return false
	}

	p.mu.Lock()
	segments := make([]Segment, 0, 2*n)
	for _, q := range p.queue[:n] {
		for _, s := range append(q.segments[:], q.more...) {
			if s != 0 {
				segments = append(segments, s)
			}
		}
	}
	p.queue = append(p.queue[:0], p.queue[n:]...)
	clear(p.queue[len(p.queue):cap(p.queue)])
	p.posted += uint64(n)
	var reached []flush
	for len(p.waiting) > 0 && p.waiting[0].target <= p.posted {
		reached = append(reached, p.waiting[0])
		p.waiting = p.waiting[1:]
	}
	p.mu.Unlock()
	p.journal.Posted(segments...)
	for _, f := range reached {
		close(f.done)
	}
	return true
}

func (p *Poster) post(ctx context.Context, batch []Settlement) bool {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = retryFirst, retryLast
	for {
		attempt, cancel := context.WithTimeout(ctx, postTimeout)
		conflicts, err := p.store.Post(attempt, p.node, batch)
		cancel()
		if err == nil {
			if len(conflicts) > 0 {
				p.observer.PostConflict(conflicts)
			}
			p.observer.Posted(batch)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		p.observer.PostFailed(err)
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return false
		}
	}
}

// signal sets a one-deep flag.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
