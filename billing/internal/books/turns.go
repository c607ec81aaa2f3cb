package books

import (
	"context"
	"sync"
)

// Turns bounds how many reports are read at once, each of which may take as
// long as an organization's history is. The connections that are left are for
// what requests wait for. Of several turns an organization has half at most, so
// that there is always one for another.
type Turns struct {
	all   chan struct{}
	share int

	mu   sync.Mutex
	orgs map[string]*orgTurns
}

// orgTurns are those of an organization that has any, or waits for one.
type orgTurns struct {
	taken chan struct{}
	users int
}

// NewTurns returns as many turns as a store with so many connections has.
func NewTurns(connections int) *Turns {
	n := max(1, connections/2)
	return &Turns{all: make(chan struct{}, n), share: max(1, n/2), orgs: make(map[string]*orgTurns)}
}

// Take waits for a turn, which lasts until done is called. An error is the
// context's.
func (t *Turns) Take(ctx context.Context, org string) (done func(), err error) {
	own := t.enter(org)
	if err := take(ctx, own.taken); err != nil {
		t.leave(org)
		return nil, err
	}
	if err := take(ctx, t.all); err != nil {
		<-own.taken
		t.leave(org)
		return nil, err
	}
	return func() {
		<-t.all
		<-own.taken
		t.leave(org)
	}, nil
}

func take(ctx context.Context, turns chan struct{}) error {
	select {
	case turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Turns) enter(org string) *orgTurns {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.orgs[org]
	if own == nil {
		own = &orgTurns{taken: make(chan struct{}, t.share)}
		t.orgs[org] = own
	}
	own.users++
	return own
}

func (t *Turns) leave(org string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.orgs[org]
	if own.users--; own.users == 0 {
		delete(t.orgs, org)
	}
}
