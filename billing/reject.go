package billing

import (
	"context"
	"errors"
	"fmt"
)

// sift posts a batch, and where the store refuses it for one that cannot be
// booked, halves it until that one is found, to be rejected. All others are
// posted, in order.
func sift[T any](batch []T, post func([]T) error, reject func(*T, error) error) error {
	err := post(batch)
	switch {
	case !errors.Is(err, ErrInvalid):
		return err
	case len(batch) == 1:
		return reject(&batch[0], err)
	}
	half := len(batch) / 2
	if err := sift(batch[:half], post, reject); err != nil {
		return err
	}
	return sift(batch[half:], post, reject)
}

// setAside keeps a settlement that the store cannot book in the journal's file.
// It tries for as long as that takes: there is no other place to remember it
// but the segment that it would release. Its error is that of ctx.
func (p *Poster) setAside(ctx context.Context, q *posting, reason error) error {
	for wait := newRetry(); ; {
		file, err := p.journal.SetAside(&q.settlement, reason.Error())
		if err == nil {
			if p.follower != nil {
				p.follower.rejected(q)
			}
			p.observer.PostRejected(&q.settlement, reason, file)
			return nil
		}
		p.observer.PostFailed(err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// rejected follows in memory that a settlement will not be in the store: what
// it cost is still leased, and free again.
func (a *Authorizer) rejected(q *posting) {
	a.mu.Lock()
	for _, id := range q.allowances {
		a.lease(id).spent -= max(0, q.settlement.Cost)
	}
	a.mu.Unlock()
	a.poster.mu.Lock()
	defer a.poster.mu.Unlock()
	a.poster.spends.gone(q)
}

// Recovery posts what an earlier process of a node has left in its journal.
type Recovery struct {
	Store    Ledger
	Journal  Journal
	Node     string
	Observer PostObserver
}

// recoveryBatch is smaller than postBatch: a start that is cut off should have
// got somewhere.
const recoveryBatch = 256

// Post posts the settlements, except for what the store cannot book, which is
// set aside. After an error, which may pass, it may be repeated from the start.
func (r Recovery) Post(ctx context.Context, settlements []Settlement) error {
	for rest := settlements; len(rest) > 0; {
		n := min(len(rest), recoveryBatch)
		post := func(part []Settlement) error { return r.post(ctx, part) }
		if err := sift(rest[:n], post, r.setAside); err != nil {
			return fmt.Errorf("post recovered settlements: %w", err)
		}
		rest = rest[n:]
	}
	return nil
}

func (r Recovery) post(ctx context.Context, batch []Settlement) error {
	conflicts, err := r.Store.Post(ctx, r.Node, batch)
	if err == nil && len(conflicts) > 0 {
		r.Observer.PostConflict(conflicts)
	}
	return err
}

func (r Recovery) setAside(s *Settlement, reason error) error {
	file, err := r.Journal.SetAside(s, reason.Error())
	if err != nil {
		return err
	}
	r.Observer.PostRejected(s, reason, file)
	return nil
}
