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
}

// lease is what this node may still spend of one allowance.
type lease struct {
	// free is leased, and neither held nor spent. It is negative after a
	// request that cost more than its hold.
	free Money
	held Money
	// refill is closed when the refill that is under way ends; nil if none is.
	refill chan struct{}
}

// leaseAhead is how many holds' worth a node leases at once when it shares
// the allowance with others.
const leaseAhead = 32

// leaseTimeout bounds how long a request waits for the store.
const leaseTimeout = 5 * time.Second

// NewAuthorizer returns an authorizer for a node that has no leases yet. A
// sole node leases all there is; one of several takes what it needs soon.
func NewAuthorizer(store Leases, journal Journal, poster *Poster, sole bool) *Authorizer {
	return &Authorizer{
		store: store, journal: journal, poster: poster,
		node: poster.node, sole: sole,
		leases: make(map[Allowance]*lease),
	}
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
		a.release(allowances, amount, 0)
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

// Amount is what the hold reserves in each allowance.
func (h *Hold) Amount() Money { return h.amount }

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
	h.authorizer.release(h.allowances, h.amount, s.Cost)
	h.authorizer.poster.Post(*s, h.segments...)
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

// reserve moves amount from free to held in all of the allowances, with more
// leased where it takes that, or returns why not.
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
// one of these is being refilled, it returns what to wait for instead;
// otherwise it marks them all as being refilled by the caller.
func (a *Authorizer) tryReserve(allowances []Allowance, amount Money) (short []Lease, wait <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range allowances {
		l := a.lease(id)
		if l.free >= amount {
			continue
		}
		if l.refill != nil {
			return nil, l.refill
		}
		short = append(short, Lease{Allowance: id, Amount: amount - l.free})
	}
	if len(short) > 0 {
		done := make(chan struct{})
		for _, s := range short {
			a.leases[s.Allowance].refill = done
		}
		return short, nil
	}
	for _, id := range allowances {
		l := a.leases[id]
		l.free -= amount
		l.held += amount
	}
	return nil, nil
}

// refill leases what is missing for a hold and some more. It fails if the
// allowances have no room for the hold.
func (a *Authorizer) refill(ctx context.Context, short []Lease, amount Money) error {
	want := make([]Lease, len(short))
	for i, s := range short {
		want[i] = Lease{Allowance: s.Allowance, Amount: a.ahead(s.Amount, amount)}
	}
	// The client may leave, but what the store grants must not get lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
	defer cancel()
	granted, err := a.store.Lease(ctx, a.node, want)

	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.leases[short[0].Allowance].refill)
	var refused error
	for i, s := range short {
		l := a.leases[s.Allowance]
		l.refill = nil
		if err != nil {
			continue
		}
		l.free += granted[i].Amount
		if refused == nil && granted[i].Amount < s.Amount {
			refused = exceeded(s.Allowance.Kind)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: lease: %w", ErrUnavailable, err)
	}
	return refused
}

// ahead is how much to lease when missing is needed now.
func (a *Authorizer) ahead(missing, hold Money) Money {
	if a.sole {
		return math.MaxInt64
	}
	return missing + leaseAhead*hold
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

// release ends a hold: cost is spent of it, the rest is free again.
func (a *Authorizer) release(allowances []Allowance, amount, cost Money) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range allowances {
		l := a.lease(id)
		l.held -= amount
		l.free += amount - cost
	}
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

// GiveBackKeys returns the free part of all key spend leases to the store, so
// that changed limits apply to the next request.
func (a *Authorizer) GiveBackKeys(ctx context.Context) error {
	return a.giveBack(ctx, func(id Allowance) bool { return id.Kind == KeySpend })
}

// GiveBackEnded returns what is left of allowances whose period has ended,
// and forgets them.
func (a *Authorizer) GiveBackEnded(ctx context.Context, now time.Time) error {
	return a.giveBack(ctx, func(id Allowance) bool { return id.Start.Before(id.Period.Start(now)) })
}

func (a *Authorizer) giveBack(ctx context.Context, which func(Allowance) bool) error {
	var back []Lease
	a.mu.Lock()
	for id, l := range a.leases {
		if l.refill != nil || !which(id) {
			continue
		}
		if l.free > 0 {
			back = append(back, Lease{Allowance: id, Amount: l.free})
			l.free = 0
		}
		if l.held == 0 && l.free == 0 {
			delete(a.leases, id)
		}
	}
	a.mu.Unlock()
	if len(back) == 0 {
		return nil
	}
	if err := a.store.Return(ctx, a.node, back); err != nil {
		// Unknown outcome: not spending it again is the safe side. The store
		// takes it back when the node starts again.
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}
