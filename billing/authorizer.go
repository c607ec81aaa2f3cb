package billing

import (
	"context"
	"errors"
	"fmt"
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
	// ErrProjectBudgetExceeded: the project's budget does not cover the hold.
	ErrProjectBudgetExceeded = errors.New("project budget exceeded")
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
	// Posted says that what these segments hold is in the store, or need not be.
	Posted(...Segment)
	// SetAside keeps a settlement that the store cannot book in a file, for a
	// human, and returns the file's name. When it returns without an error, the
	// file is on disk.
	SetAside(s *Settlement, reason string) (file string, err error)
}

// Options are how a node leases. The zero value is the default.
type Options struct {
	// Sole is set for the only node: it leases all there is.
	Sole bool
	// Ahead tells how long a node's leases are to last at the pace of its
	// recent spend, if allowances have that much left: for so long it can do
	// without the store. Default: DefaultLeaseAhead.
	Ahead func() time.Duration
	// Patience is how long a request waits for money that other requests or
	// nodes hold, before it is refused. Default: DefaultPatience.
	Patience time.Duration
	// Failed hears of leases that could not be changed in the background, and of
	// a connection to listen on that was lost. Both are tried again.
	Failed func(error)
	// Changed hears that a key or an organization has changed in the store, or
	// may have. It must not block.
	Changed func()
}

const (
	// DefaultLeaseAhead covers a restart or a failover of the database.
	DefaultLeaseAhead = 2 * time.Minute
	// DefaultPatience is long enough for most requests that have begun to end,
	// and short enough for a client to wait.
	DefaultPatience = 2 * time.Second
)

// Authorizer decides in memory, from leases, whether a request may spend. It
// asks the store only when a lease runs low, mostly in the background.
type Authorizer struct {
	store   SpendStore
	journal Journal
	poster  *Poster
	node    string
	options Options

	mu     sync.Mutex
	leases map[Allowance]*lease
	// periods has the allowances of the leases, of each organization, project
	// and key.
	periods map[Payer][]Allowance
	// stale tells that the outcome of an operation on the store is unknown,
	// so that the leases must be read from it before more is leased.
	stale bool
	fence fence
	// epoch counts how often all leases were dropped: what the store has
	// answered to a question of before says nothing any more.
	epoch uint64
	// waiting counts the claims in queues.
	waiting int
	// failed is when a claim was last refused because the store was away.
	failed time.Time
	// attention has the allowances that the keeper is to look at.
	attention map[Allowance]bool
	// recalled are those to give back, since their limits have changed.
	recalled map[Allowance]bool

	kick    chan struct{} // 1 deep: the keeper has something to do
	stop    context.CancelFunc
	running sync.WaitGroup
}

// NewAuthorizer returns an authorizer for a node that has no leases yet. The
// poster tells it what has been posted, so nothing may be posted before. It
// keeps the leases in the background until Close.
func NewAuthorizer(store SpendStore, journal Journal, poster *Poster, options Options) *Authorizer {
	if options.Ahead == nil {
		options.Ahead = func() time.Duration { return DefaultLeaseAhead }
	}
	if options.Patience == 0 {
		options.Patience = DefaultPatience
	}
	if options.Failed == nil {
		options.Failed = func(error) {}
	}
	if options.Changed == nil {
		options.Changed = func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &Authorizer{
		store: store, journal: journal, poster: poster,
		node: poster.node, options: options,
		leases: make(map[Allowance]*lease), periods: make(map[Payer][]Allowance), attention: make(map[Allowance]bool),
		recalled: make(map[Allowance]bool),
		kick:     make(chan struct{}, 1), stop: stop,
	}
	poster.follower = a
	a.running.Go(func() { a.keep(ctx) })
	if !options.Sole {
		a.running.Go(func() { a.listen(ctx) })
	}
	return a
}

// Close ends the background work. The leases stay with the node.
func (a *Authorizer) Close() {
	a.stop()
	a.running.Wait()
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

	// Soft are the limits to warn of.
	Soft []SoftLimit

	// held is what the request holds already.
	held Money
}

func (c *Claim) least() Money {
	if c.Least == 0 {
		return c.Amount
	}
	return min(c.Least, c.Amount)
}

// Hold reserves what an open request may cost, in all its allowances or in
// none. It ends exactly once, with Settle or Void.
type Hold struct {
	authorizer *Authorizer
	allowances []Allowance
	amount     Money
	segments   []Segment
	reached    []SoftReached
	ended      bool
}

// Hold reserves what is claimed and journals the estimate, which is the
// settlement to post if the process ends before the request. Where others hold
// what is missing it waits a moment for them to end. Errors:
// ErrInsufficientCredits, ErrSpendExceeded, ErrBudgetExceeded,
// ErrProjectBudgetExceeded, ErrUnavailable.
func (a *Authorizer) Hold(ctx context.Context, claim Claim, estimate *Settlement) (*Hold, error) {
	amount, err := a.reserve(ctx, claim)
	if err != nil {
		a.noteFailure(ctx, err)
		return nil, err
	}
	h := &Hold{authorizer: a, allowances: claim.Allowances, amount: amount, segments: make([]Segment, 0, 2)}
	if err := h.append(RecordBegin, estimate); err != nil {
		a.settle(h.allowances, amount, 0)
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	h.reached = a.reached(ctx, claim.Soft)
	return h, nil
}

// noteFailure remembers that the store was away when it was needed.
func (a *Authorizer) noteFailure(ctx context.Context, err error) {
	if ctx.Err() == nil && errors.Is(err, ErrUnavailable) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.failed = time.Now()
	}
}

// Amount is what the hold reserves. It may be less than was claimed.
func (h *Hold) Amount() Money { return h.amount }

// SoftReached are the claim's soft limits that were reached when the hold began.
func (h *Hold) SoftReached() []SoftReached { return h.reached }

// Extend reserves more for a request that outgrows its hold: amount, or where
// an allowance has less left, at least least. Its errors are those of Hold.
func (h *Hold) Extend(ctx context.Context, amount, least Money) error {
	got, err := h.authorizer.reserve(ctx, Claim{Allowances: h.allowances, Amount: amount, Least: least, held: h.amount})
	if err != nil {
		return err
	}
	h.amount += got
	return nil
}

// TryExtend is Extend for a request that can go on without, for the time being:
// it does not wait. Where there is too little it returns false, and the node
// leases more in the background if there is any.
func (h *Hold) TryExtend(amount, least Money) bool {
	got, ok := h.authorizer.tryReserve(Claim{Allowances: h.allowances, Amount: amount, Least: least})
	if ok {
		h.amount += got
	}
	return ok
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

// Void ends the hold of a request of which nothing was sent: it costs nothing,
// and the store hears nothing of it. What is journaled tells a replay so. An
// error says that the journal could not take that; the settlement is posted
// then, lest the replay finds the estimate alone.
func (h *Hold) Void(s *Settlement) error {
	if h.ended {
		return fmt.Errorf("void %s: the hold has ended", s.RequestID)
	}
	if err := h.append(RecordSettle, s); err != nil {
		return errors.Join(err, h.Settle(s))
	}
	h.ended = true
	h.authorizer.settle(h.allowances, h.amount, 0)
	h.authorizer.journal.Posted(h.segments...)
	return nil
}

func (h *Hold) append(kind RecordKind, s *Settlement) error {
	segment, err := h.authorizer.journal.Append(kind, s)
	if err != nil {
		return err
	}
	h.segments = append(h.segments, segment)
	return nil
}

// failedLasts is how long a node counts as one that refuses requests after it
// has refused one because the store was away.
const failedLasts = 10 * time.Second

// Ready returns why requests are refused at present, if they are. The store's
// own state is the caller's to tell.
func (a *Authorizer) Ready(store error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch a.checkFence(); {
	case a.fence.replaced:
		return errRetired
	case a.fence.down:
		return errFenced
	}
	if store != nil && time.Since(a.failed) < failedLasts {
		return fmt.Errorf("%w: leases have run out: %w", ErrUnavailable, store)
	}
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

func exceeded(kind AllowanceKind) error {
	switch kind {
	case KeySpend:
		return ErrSpendExceeded
	case Budget:
		return ErrBudgetExceeded
	case ProjectBudget:
		return ErrProjectBudgetExceeded
	default:
		return ErrInsufficientCredits
	}
}
