package billing

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

var (
	// ErrInsufficientCredits: the organization's credits do not cover the hold.
	ErrInsufficientCredits = errors.New("insufficient credits")
	// ErrSpendExceeded: the key's spend limit does not cover the hold.
	ErrSpendExceeded = errors.New("key spend limit exceeded")
	// ErrBudgetExceeded: the organization's budget does not cover the hold.
	ErrBudgetExceeded = errors.New("organization budget exceeded")
	// ErrUnavailable: neither a lease nor the store nor the journal could
	// authorize the spend. The request must not be sent.
	ErrUnavailable = errors.New("ledger unavailable")
)

// Segment is a part of a node's journal that holds a record.
type Segment uint64

// RecordKind says what a journal record is.
type RecordKind byte

const (
	// RecordBegin: a request is about to be sent. It holds the settlement to
	// post should the gateway end before anything more is known.
	RecordBegin RecordKind = 1 + iota
	// RecordProgress: a better such settlement, while the response streams.
	RecordProgress
	// RecordSettle: the outcome.
	RecordSettle
)

// Journal is where a node writes what requests owe before the effect that
// each record announces. Package billing/journal implements it.
type Journal interface {
	// Append returns when the record will survive the end of the process.
	Append(RecordKind, *Settlement) (Segment, error)
	// Posted says that what these segments hold is in the store.
	Posted(...Segment)
}

// Authorizer decides in memory, from leases, whether a request may spend. It
// asks the store only when a lease runs low.
type Authorizer struct {
	store   Leases
	journal Journal
	poster  *Poster
	node    string
	sole    bool

	mu     sync.Mutex
	leases map[Allowance]*lease
	// stale tells that the outcome of an operation on the store is unknown,
	// so that the leases must be read from it before they are believed.
	stale bool
}

// lease is what this node may spend of one allowance.
type lease struct {
	// leased is what the store has handed to this node: always the same
	// number as in the store, unless the leases are stale.
	leased Money
	// held is reserved by open requests.
	held Money
	// spent is settled out of holds, and not in the store yet.
	spent Money
	// used is what was held since idle leases were last given back.
	used Money
	// busy is closed when the operation on the store that is under way for
	// this lease ends; nil if none is.
	busy chan struct{}
}

// free is what may be held. It is negative while a request that cost more
// than its hold is on its way to the store.
func (l *lease) free() Money { return l.leased - l.held - l.spent }

// leaseAhead is how many holds' worth a node leases at once when it shares
// the allowance with others.
const leaseAhead = 16

// idleShare is how many times what was held since the last time a node keeps
// when it gives back what it does not use.
const idleShare = 2

// storeTimeout bounds how long a request waits for the store.
const storeTimeout = 5 * time.Second

// NewAuthorizer returns an authorizer for a node that has no leases yet. A
// sole node leases all there is; one of several takes what it needs soon.
// The poster tells it what has been posted, so nothing may be posted before.
func NewAuthorizer(store Leases, journal Journal, poster *Poster, sole bool) *Authorizer {
	a := &Authorizer{
		store: store, journal: journal, poster: poster,
		node: poster.node, sole: sole,
		leases: make(map[Allowance]*lease),
	}
	poster.follower = a
	return a
}

// Hold reserves what an open request may cost, in all its allowances or in
// none. It ends exactly once, with Settle.
type Hold struct {
	authorizer *Authorizer
	allowances []Allowance
	amount     Money
	segments   []Segment
	ended      bool
}

// Hold reserves amount in each of the allowances and journals the estimate,
// which is the settlement to post if the process ends before the request.
// Errors: ErrInsufficientCredits, ErrSpendExceeded, ErrBudgetExceeded,
// ErrUnavailable.
func (a *Authorizer) Hold(ctx context.Context, allowances []Allowance, amount Money, estimate *Settlement) (*Hold, error) {
	if err := a.reserve(ctx, allowances, amount); err != nil {
		return nil, err
	}
	h := &Hold{authorizer: a, allowances: allowances, amount: amount, segments: make([]Segment, 0, 2)}
	if err := h.append(RecordBegin, estimate); err != nil {
		a.settle(allowances, amount, 0)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return h, nil
}

// Extend reserves more for a request that outgrows its hold.
func (h *Hold) Extend(ctx context.Context, amount Money) error {
	if err := h.authorizer.reserve(ctx, h.allowances, amount); err != nil {
		return err
	}
	h.amount += amount
	return nil
}

// Progress journals a better estimate of what the request will have cost
// should the process end now.
func (h *Hold) Progress(estimate *Settlement) error { return h.append(RecordProgress, estimate) }

// Settle ends the hold with what the request cost. When it returns, the
// settlement is in the journal and on its way to the store. An error says
// that the journal could not take it; the settlement is posted all the same.
func (h *Hold) Settle(s *Settlement) error {
	if h.ended {
		return fmt.Errorf("settle %s: the hold has ended", s.RequestID)
	}
	h.ended = true
	err := h.append(RecordSettle, s)
	h.authorizer.settle(h.allowances, h.amount, s.Cost)
	h.authorizer.poster.post(posting{settlement: *s, segments: h.segments, allowances: h.allowances})
	return err
}

func (h *Hold) append(kind RecordKind, s *Settlement) error {
	segment, err := h.authorizer.journal.Append(kind, s)
	if err != nil {
		return err
	}
	h.segments = append(h.segments, segment)
	return nil
}

// Held is the sum of an organization's open holds on this node.
func (a *Authorizer) Held(org string) Money {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.leases[CreditsOf(org)]; l != nil {
		return l.held
	}
	return 0
}

// reserve holds amount in all of the allowances, with more leased where it
// takes that, or returns why not.
func (a *Authorizer) reserve(ctx context.Context, allowances []Allowance, amount Money) error {
	for {
		short, wait := a.tryReserve(allowances, amount)
		switch {
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
		case len(short) == 0:
			return nil
		default:
			if err := a.refill(ctx, short, amount); err != nil {
				return err
			}
		}
	}
}

// tryReserve reserves in all allowances or returns those that are short. If
// the store is at work on one of these, it returns what to wait for instead;
// otherwise they are the caller's to refill.
func (a *Authorizer) tryReserve(allowances []Allowance, amount Money) (short []Allowance, wait <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range allowances {
		l := a.lease(id)
		if l.free() >= amount {
			continue
		}
		if l.busy != nil {
			return nil, l.busy
		}
		short = append(short, id)
	}
	if len(short) > 0 {
		a.occupy(short)
		return short, nil
	}
	for _, id := range allowances {
		l := a.leases[id]
		l.held += amount
		l.used += amount
	}
	return nil, nil
}

// occupy marks leases as being changed in the store. The caller holds mu.
func (a *Authorizer) occupy(ids []Allowance) {
	done := make(chan struct{})
	for _, id := range ids {
		a.leases[id].busy = done
	}
}

// vacate ends what occupy began. The caller holds mu.
func (a *Authorizer) vacate(ids []Allowance) {
	for i, id := range ids {
		l := a.leases[id]
		if i == 0 {
			close(l.busy)
		}
		l.busy = nil
	}
}

// refill leases what is missing for a hold and some more. It fails if the
// allowances have no room for the hold.
func (a *Authorizer) refill(ctx context.Context, short []Allowance, amount Money) error {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.vacate(short)
	}()
	// The client may leave, but what the store grants must not get lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := a.poster.takeTurn(ctx); err != nil {
		return fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	defer a.poster.endTurn()
	if err := a.reconcile(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	granted, err := a.store.Lease(ctx, a.node, a.wanted(short, amount))

	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.stale = true
		return fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	var refused error
	for _, g := range granted {
		l := a.leases[g.Allowance]
		l.leased += g.Amount
		if refused == nil && l.free() < amount {
			refused = exceeded(g.Allowance.Kind)
		}
	}
	return refused
}

// wanted is what to ask the store for.
func (a *Authorizer) wanted(short []Allowance, amount Money) []Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	want := make([]Lease, 0, len(short))
	for _, id := range short {
		missing := max(0, amount-a.leases[id].free())
		if a.sole {
			missing = math.MaxInt64
		} else {
			missing += leaseAhead * amount
		}
		want = append(want, Lease{Allowance: id, Amount: missing})
	}
	return want
}

func exceeded(kind AllowanceKind) error {
	switch kind {
	case KeySpend:
		return ErrSpendExceeded
	case Budget:
		return ErrBudgetExceeded
	default:
		return ErrInsufficientCredits
	}
}

// settle ends a hold: cost is spent of it, the rest is free again.
func (a *Authorizer) settle(allowances []Allowance, amount, cost Money) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range allowances {
		l := a.lease(id)
		l.held -= amount
		l.spent += cost
	}
}

// posted follows in memory what the store has done with the leases: each one
// is smaller by what was posted in its allowance, as far as it reaches. What a
// request cost above that is the allowance's debt, and not this node's any
// more. The poster calls it before anything else changes leases.
func (a *Authorizer) posted(ctx context.Context, batch []posting) error {
	if err := a.shrink(ctx, batch); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range batch {
		if cost := batch[i].settlement.Cost; cost > 0 {
			for _, id := range batch[i].allowances {
				a.leases[id].spent -= cost
			}
		}
	}
	return nil
}

// shrink brings the leases to what the store has after a batch.
func (a *Authorizer) shrink(ctx context.Context, batch []posting) error {
	spent := Spent(func(yield func(*Settlement) bool) {
		for i := range batch {
			if !yield(&batch[i].settlement) {
				return
			}
		}
	})
	a.mu.Lock()
	stale := a.stale
	if !stale {
		for id, cost := range spent {
			if l := a.leases[id]; l != nil {
				l.leased -= min(l.leased, cost)
			}
		}
	}
	a.mu.Unlock()
	if stale {
		return a.reconcile(ctx)
	}
	return nil
}

// doubt says that what the store has done is not known for certain.
func (a *Authorizer) doubt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stale = true
}

// reconcile reads the leases from the store if they are stale. It needs the
// poster's turn, so that nothing changes them meanwhile.
func (a *Authorizer) reconcile(ctx context.Context) error {
	a.mu.Lock()
	stale := a.stale
	a.mu.Unlock()
	if !stale {
		return nil
	}
	leases, err := a.store.LeasesOf(ctx, a.node)
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leases {
		l.leased = 0
	}
	for _, l := range leases {
		a.lease(l.Allowance).leased = l.Amount
	}
	a.stale = false
	return nil
}

// lease returns the node's lease of an allowance. The caller holds mu.
func (a *Authorizer) lease(id Allowance) *lease {
	l := a.leases[id]
	if l == nil {
		l = &lease{}
		a.leases[id] = l
	}
	return l
}

// GiveBackKey returns the free part of a key's leases to the store, so that a
// changed limit applies to the next request. Requests wait for it.
func (a *Authorizer) GiveBackKey(ctx context.Context, keyID string) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind == KeySpend && id.KeyID == keyID }))
}

// GiveBackKeys does so for all keys.
func (a *Authorizer) GiveBackKeys(ctx context.Context) error {
	return a.giveBack(ctx, allOf(func(id Allowance) bool { return id.Kind == KeySpend }))
}

// GiveBackIdle returns what other nodes may need: what is left of allowances
// whose period has ended, and, unless this node is the only one, what was not
// used since it was last called.
func (a *Authorizer) GiveBackIdle(ctx context.Context, now time.Time) error {
	return a.giveBack(ctx, func(id Allowance, l *lease) Money {
		keep := idleShare * l.used
		l.used = 0
		switch {
		case id.Start.Before(id.Period.Start(now)):
			return l.free()
		case a.sole:
			return 0
		default:
			return l.free() - keep
		}
	})
}

// allOf gives back all that is free of some leases.
func allOf(which func(Allowance) bool) func(Allowance, *lease) Money {
	return func(id Allowance, l *lease) Money {
		if which(id) {
			return l.free()
		}
		return 0
	}
}

func (a *Authorizer) giveBack(ctx context.Context, amount func(Allowance, *lease) Money) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := a.poster.takeTurn(ctx); err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	defer a.poster.endTurn()
	if err := a.reconcile(ctx); err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	back, ids := a.takeBack(amount)
	if len(back) == 0 {
		return nil
	}
	err := a.store.Return(ctx, a.node, back)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vacate(ids)
	if err != nil {
		a.stale = true
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}

// takeBack takes amounts out of leases that are not busy and occupies them
// until the amounts are in the store. It forgets leases that are empty.
func (a *Authorizer) takeBack(amount func(Allowance, *lease) Money) (back []Lease, ids []Allowance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, l := range a.leases {
		if l.busy != nil {
			continue
		}
		if n := amount(id, l); n > 0 {
			l.leased -= n
			back = append(back, Lease{Allowance: id, Amount: n})
			ids = append(ids, id)
		} else if l.leased == 0 && l.held == 0 && l.spent == 0 {
			delete(a.leases, id)
		}
	}
	a.occupy(ids)
	return back, ids
}
