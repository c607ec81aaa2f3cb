package billing

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// SetAside keeps a settlement that the store cannot book in a file, for a
	// human, and returns the file's name. When it returns without an error, the
	// file is on disk.
	SetAside(s *Settlement, reason string) (file string, err error)
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

// Claim is what a request wants to hold.
type Claim struct {
	// Allowances that its cost counts in: it holds in all or in none.
	Allowances []Allowance
	// Amount that it may cost.
	Amount Money
	// Least is what is enough where an allowance has less than Amount left:
	// the request extends its hold as it goes, or its Amount is a guess. 0
	// stands for Amount.
	Least Money
}

func (c Claim) least() Money {
	if c.Least == 0 {
		return c.Amount
	}
	return min(c.Least, c.Amount)
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

// Hold reserves what is claimed and journals the estimate, which is the
// settlement to post if the process ends before the request. Errors:
// ErrInsufficientCredits, ErrSpendExceeded, ErrBudgetExceeded, ErrUnavailable.
func (a *Authorizer) Hold(ctx context.Context, claim Claim, estimate *Settlement) (*Hold, error) {
	amount, err := a.reserve(ctx, claim)
	if err != nil {
		return nil, err
	}
	h := &Hold{authorizer: a, allowances: claim.Allowances, amount: amount, segments: make([]Segment, 0, 2)}
	if err := h.append(RecordBegin, estimate); err != nil {
		a.settle(h.allowances, amount, 0)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return h, nil
}

// Amount is what the hold reserves. It may be less than was claimed.
func (h *Hold) Amount() Money { return h.amount }

// Extend reserves more for a request that outgrows its hold: amount, or where
// an allowance has less left, at least least. Its errors are those of Hold.
func (h *Hold) Extend(ctx context.Context, amount, least Money) error {
	got, err := h.authorizer.reserve(ctx, Claim{Allowances: h.allowances, Amount: amount, Least: least})
	if err != nil {
		return err
	}
	h.amount += got
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

// reserve holds what is claimed in all of the allowances, with more leased
// where it takes that, and returns how much it holds, or why it does not.
func (a *Authorizer) reserve(ctx context.Context, claim Claim) (Money, error) {
	err := a.reserveAll(ctx, claim.Allowances, claim.Amount)
	if err == nil {
		return claim.Amount, nil
	}
	if least := claim.least(); least < claim.Amount && !errors.Is(err, ErrUnavailable) {
		return least, a.reserveAll(ctx, claim.Allowances, least)
	}
	return 0, err
}

func (a *Authorizer) reserveAll(ctx context.Context, allowances []Allowance, amount Money) error {
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
