package billing

import (
	"context"
	"time"
)

// Store keeps the books. Package billing/sqlite keeps them in a file on this
// machine, billing/postgres in a database that many nodes share; the suite in
// billing/billingtest says what both must do. All methods may be called
// concurrently, and return when what they did is durable.
type Store interface {
	Organizations
	Keys
	Leases
	Ledger
	Reports
	// Ping tells whether the store can be reached.
	Ping(ctx context.Context) error
	Close() error
}

// Organizations are the tenants.
type Organizations interface {
	// Account returns an organization and its balance, or ErrNotFound.
	Account(ctx context.Context, org string) (Account, error)
	// EnsureOrganization creates the organization unless it exists.
	EnsureOrganization(ctx context.Context, org Organization) error
}

// Keys are the proxy keys. Each method that changes a key also advances
// KeysVersion in the same transaction.
type Keys interface {
	CreateKey(ctx context.Context, k Key) error
	// KeyByHash returns a key of any organization, or ErrNotFound. It is how
	// a request is authenticated.
	KeyByHash(ctx context.Context, h KeyHash) (Key, error)
	// Key returns one key of the organization, or ErrNotFound.
	Key(ctx context.Context, org, id string) (Key, error)
	// ListKeys returns keys in order of creation, newest first.
	ListKeys(ctx context.Context, org string, page Page) ([]Key, error)
	// UpdateKey reads the key, lets change alter it, and writes it back, all
	// in one transaction; an error from change is returned and nothing is
	// written. Id, organization, hash and creation time do not change.
	UpdateKey(ctx context.Context, org, id string, change func(*Key) error) (Key, error)
	// KeysVersion is a number that grows with each change of any key.
	KeysVersion(ctx context.Context) (int64, error)
}

// Leases hand parts of allowances to nodes. At every commit, for each
// allowance with a limit: settled + leased <= limit, unless a settlement came
// out above its hold.
type Leases interface {
	// Lease grants each wanted amount as far as the allowance's limit leaves
	// room, in one transaction: the answer has one lease for each wanted one,
	// in the same order, with what was granted of it, 0 if nothing is left.
	// Limits are the store's own: purchases for Credits, the key's
	// UsageLimit for KeySpend. An allowance without a limit is granted whole.
	Lease(ctx context.Context, node string, want []Lease) ([]Lease, error)
	// Return gives leases back, whole or in part. More than the node has is
	// cut to what it has.
	Return(ctx context.Context, node string, leases []Lease) error
	// ReturnAll gives back all that the node has leased.
	ReturnAll(ctx context.Context, node string) error
	// LeasesOf lists what a node has leased, for proofs.
	LeasesOf(ctx context.Context, node string) ([]Lease, error)
}

// Ledger is the append-only record of money.
type Ledger interface {
	// Post writes settlements of a node in one transaction: the audit rows,
	// a usage_debit for each with a cost, the settled sums of their
	// allowances and the leases that they came out of, and the rollups. It
	// may be repeated after an unknown outcome: a settlement that is already
	// there is left alone. It returns the ids of settlements that are already
	// there with other content, other than recovered ones; those need a human.
	Post(ctx context.Context, node string, batch []Settlement) (conflicts []string, err error)
	// Append adds an entry other than a usage_debit and returns it with its
	// balance. The same IdempotencyKey with the same content returns the
	// first entry again; with other content, ErrConflict.
	Append(ctx context.Context, e Entry) (Entry, error)
	// Transactions returns an organization's entries, newest first.
	Transactions(ctx context.Context, org string, page Page) ([]Entry, error)
}

// Reports read the books.
type Reports interface {
	// Requests returns audit rows in order of arrival, newest first.
	Requests(ctx context.Context, org string, f Filter, page Page) ([]Settlement, error)
	// Request returns one audit row, or ErrNotFound.
	Request(ctx context.Context, org, id string) (Settlement, error)
	// Usage returns the totals of the rows that Requests would return.
	Usage(ctx context.Context, org string, f Filter) (Totals, error)
	// KeySpend returns what each of the keys has spent in its current period
	// at the given time, by key id; all time for keys without a limit.
	KeySpend(ctx context.Context, org string, keys []Key, now time.Time) (map[string]Money, error)
	// Verify proves, as of one moment, that the books balance, and says where
	// they do not. It blocks no one. What it finds sound it remembers, so that
	// incremental verifications go on from there.
	Verify(ctx context.Context, o VerifyOptions) (Verification, error)
}

// Page is a cursor into a list that is ordered newest first.
type Page struct {
	// After is the id of the last element of the page before; "" starts.
	// Ids grow with time, so a page is stable while new rows arrive.
	After string
	// Limit is how many elements to return at most; 100 if it is 0.
	Limit int
}

// Filter selects requests. Zero values select all.
type Filter struct {
	// From is inclusive, To exclusive.
	From, To time.Time
	KeyID    string
	Provider string
	Model    string
}

// Totals are sums over requests.
type Totals struct {
	Requests         int64
	PromptTokens     int64
	CompletionTokens int64
	CachedTokens     int64
	ReasoningTokens  int64
	Cost             Money
	MarketCost       Money
}

// TotalsOf returns the totals of one settlement.
func TotalsOf(s Settlement) Totals {
	return Totals{
		Requests:         1,
		PromptTokens:     s.Usage.Prompt(),
		CompletionTokens: s.Usage.Completion(),
		CachedTokens:     s.Usage.Cached(),
		ReasoningTokens:  s.Usage.Reasoning,
		Cost:             s.Cost,
		MarketCost:       s.MarketCost,
	}
}
