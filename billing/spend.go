package billing

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// SoftLimit is a limit that refuses nothing: from this spend on, in the
// allowance's period, requests are served with a warning.
type SoftLimit struct {
	Allowance Allowance
	Spend     Money
}

// SoftReached is a soft limit that is reached, and what was spent by then.
type SoftReached struct {
	SoftLimit
	Spent Money
}

// SpendStore is what an authorizer needs of a store.
type SpendStore interface {
	Leases
	Spend(ctx context.Context, allowances []Allowance) ([]Money, error)
}

// followFor is how long what is spent in an allowance is followed after the last
// request that a soft limit of it was for.
const followFor = time.Minute

// spend is what is known of an allowance with a soft limit, so that requests can
// be warned without asking the store. It is guarded by the poster's mu.
type spend struct {
	allowance Allowance
	// settled in the store by all nodes, as of the last time that it was asked,
	// and by this one since.
	settled Money
	// unposted is what this node has settled, and not posted yet.
	unposted Money
	// heard tells that settled is known.
	heard bool
	// after is how many settlements of this node were queued before it was
	// followed. It cannot be heard before they are in the store.
	after uint64
	// asked is closed when the store was asked for the first time.
	asked chan struct{}
	used  time.Time
}

// spends are those that are followed, of each organization, project and key.
type spends map[Payer][]*spend

// counting returns those that a settlement counts in.
func (f spends) counting(s *Settlement) (list []*spend) {
	if len(f) == 0 || s.Cost <= 0 {
		return nil
	}
	for _, p := range [...]Payer{
		{s.OrganizationID, Budget, ""}, {s.OrganizationID, ProjectBudget, s.Project}, {s.OrganizationID, KeySpend, s.KeyID},
	} {
		for _, known := range f[p] {
			if known.allowance.contains(s.At) {
				list = append(list, known)
			}
		}
	}
	return list
}

// settled counts a settlement that is queued to be posted.
func (f spends) settled(q *posting) {
	q.followed = f.counting(&q.settlement)
	for _, s := range q.followed {
		s.unposted += q.settlement.Cost
	}
}

// posted counts a settlement that is in the store now.
func (f spends) posted(q *posting) {
	for _, s := range f.counting(&q.settlement) {
		s.settled += q.settlement.Cost
	}
	f.gone(q)
}

// gone says that a settlement is not on its way to the store any more.
func (f spends) gone(q *posting) {
	for _, s := range q.followed {
		s.unposted -= q.settlement.Cost
	}
}

// reached returns the soft limits that are reached by what all
// nodes have settled in the store, and this one besides. What other nodes have
// settled is known as of at most about a second ago. The first request of a
// period waits a moment for the store to say it; if it does not, nobody is
// warned until it does.
func (a *Authorizer) reached(ctx context.Context, limits []SoftLimit) (list []SoftReached) {
	for _, l := range limits {
		if spent, known := a.spent(ctx, l.Allowance); known && spent >= l.Spend {
			list = append(list, SoftReached{SoftLimit: l, Spent: spent})
		}
	}
	return list
}

func (a *Authorizer) spent(ctx context.Context, id Allowance) (amount Money, known bool) {
	p := a.poster
	p.mu.Lock()
	s, isNew := p.follow(id)
	if s.heard {
		defer p.mu.Unlock()
		return s.settled + s.unposted, true
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, a.options.Patience)
	defer cancel()
	if isNew {
		err := p.Flush(ctx)
		if err == nil {
			err = a.hear(ctx)
		}
		close(s.asked)
		a.report(ctx, err)
	} else {
		select {
		case <-s.asked:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.settled + s.unposted, s.heard
}

// follow returns the spend in an allowance, which is followed from now on. The
// caller holds mu.
func (p *Poster) follow(id Allowance) (s *spend, isNew bool) {
	now, of := time.Now(), id.Payer()
	for _, s := range p.spends[of] {
		if s.allowance == id {
			s.used = now
			return s, false
		}
	}
	s = &spend{allowance: id, after: p.queued, asked: make(chan struct{}), used: now}
	if p.spends == nil {
		p.spends = make(spends)
	}
	p.spends[of] = append(p.spends[of], s)
	return s, true
}

// hear asks the store for what is settled in all allowances that are followed.
// It takes the poster's turn: whatever is posted is either in the answer, or
// added to it.
func (a *Authorizer) hear(ctx context.Context) error {
	p := a.poster
	if err := p.takeTurn(ctx); err != nil {
		return fmt.Errorf("read spend: %w", err)
	}
	defer p.endTurn()
	if p.unsure {
		return nil // a batch may count twice: it is read when that is known
	}
	p.mu.Lock()
	var (
		ids  []Allowance
		list []*spend
	)
	for _, of := range p.spends {
		for _, s := range of {
			if p.done >= s.after {
				ids, list = append(ids, s.allowance), append(list, s)
			}
		}
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	settled, err := a.store.Spend(ctx, ids)
	if err != nil {
		return fmt.Errorf("read spend: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range list {
		s.settled, s.heard = settled[i], true
	}
	p.misheard = false
	return nil
}

// followSpends forgets what no request has asked for lately, and keeps up with
// what other nodes spend of the rest.
func (a *Authorizer) followSpends(ctx context.Context, now time.Time) {
	p := a.poster
	p.mu.Lock()
	ask := len(p.spends) > 0 && (!a.options.Sole || p.misheard)
	for of, list := range p.spends {
		list = slices.DeleteFunc(list, func(s *spend) bool {
			return s.heard && s.unposted == 0 && now.Sub(s.used) > followFor
		})
		if p.spends[of] = list; len(list) == 0 {
			delete(p.spends, of)
		}
		ask = ask || slices.ContainsFunc(list, func(s *spend) bool { return !s.heard })
	}
	p.mu.Unlock()
	if !ask {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	a.report(ctx, a.hear(ctx))
}
