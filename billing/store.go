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
	Members
	Projects
	Keys
	Leases
	Quotas
	Nodes
	Ledger
	ChangeLog
	Reports
	Access
	Retention
	// Identity names the database: a random id, made with its schema and never
	// changed. A restored backup has the id of the original.
	Identity(ctx context.Context) (string, error)
	// Ping tells whether the store can be reached.
	Ping(ctx context.Context) error
	Close() error
}

// Organizations are the tenants. UpdateOrganization is a change that Changes
// lists.
type Organizations interface {
	// Account returns an organization and its balance, or ErrNotFound.
	Account(ctx context.Context, org string) (Account, error)
	// Organization returns an organization, or ErrNotFound.
	Organization(ctx context.Context, id string) (Organization, error)
	// EnsureOrganization creates the organization unless it exists.
	EnsureOrganization(ctx context.Context, org Organization) error
	// CreateOrganization creates the organization with its first members, in one
	// transaction, or is ErrExists.
	CreateOrganization(ctx context.Context, org Organization, members ...Member) error
	// ListOrganizations returns organizations and their balances in the order of
	// their ids.
	ListOrganizations(ctx context.Context, page Page) ([]Account, error)
	// UpdateOrganization reads the organization, lets change alter it, and
	// writes it back, all in one transaction; an error from change is returned
	// and nothing is written. Id and creation time do not change.
	UpdateOrganization(ctx context.Context, id string, change func(*Organization) error) (Organization, error)
}

// Projects are the settings of groups of keys. Each method that changes a
// project also advances the version of its organization in the same transaction.
type Projects interface {
	// ListProjects returns projects in the order of their names.
	ListProjects(ctx context.Context, org string, page Page) ([]Project, error)
	// Project returns a project, or ErrNotFound.
	Project(ctx context.Context, org, name string) (Project, error)
	// PutProject reads the project, or makes one of this name, which has no
	// creation time yet, lets change alter it, and writes it, all in one
	// transaction; an error from change is returned and nothing is written.
	// Organization, name and creation time do not change.
	// An organization that does not exist is ErrNotFound.
	PutProject(ctx context.Context, org, name string, change func(*Project) error) (Project, error)
	// DeleteProject removes a project's settings, or is ErrNotFound; an error from
	// check, in the same transaction, is returned and nothing is removed. What is
	// spent of it stays in the books, and keys go on to name it.
	DeleteProject(ctx context.Context, org, name string, check func(Project) error) error
}

// Keys are the proxy keys. Whatever decides what a key may do, of the key itself,
// its project or its organization, has a version: each transaction that changes it takes
// the next one, in the order of the commits.
type Keys interface {
	CreateKey(ctx context.Context, k Key) error
	// KeysByHash returns those keys, of any organization, that have one of the
	// secrets, by the secrets' hashes: none for a secret that is nobody's. It is
	// how requests are authenticated. A secret that was replaced finds its key,
	// too; whether it has ended is for the caller to decide, from SecretExpiresAt.
	KeysByHash(ctx context.Context, hashes []KeyHash) (map[KeyHash]Key, error)
	// Key returns one key of the organization, or ErrNotFound.
	Key(ctx context.Context, org, id string) (Key, error)
	// ListKeys returns keys in order of creation, newest first.
	ListKeys(ctx context.Context, org string, f KeyFilter, page Page) ([]Key, error)
	// UpdateKey reads the key, lets change alter it, and writes it back, all
	// in one transaction; an error from change is returned and nothing is
	// written. Id, organization, secrets, and the times of creation and of the
	// last use do not change.
	UpdateKey(ctx context.Context, org, id string, change func(*Key) error) (Key, error)
	// RotateKey gives the key another secret and returns it with the reply of
	// r.Retry, if that is set. A rotation that was made before is not made
	// again: the reply is that of the first time, the key as it is now.
	// ErrConflict says that r.Retry.ID was used for another request, ErrRevoked
	// that the key is revoked, and ErrTooManySecrets that with the one that is to
	// be replaced more than MaxPreviousSecrets would work.
	RotateKey(ctx context.Context, org, id string, r Rotation) (k Key, reply []byte, err error)
	// DropSecrets deletes what rotations have left behind: secrets that ended
	// and replies that were made before the given time.
	DropSecrets(ctx context.Context, before time.Time) error
	// Changes returns what has changed after a version. None has after
	// math.MaxInt64, which returns the newest version alone.
	Changes(ctx context.Context, since int64) (Changes, error)
}

// Leases hand parts of allowances to nodes. At every commit, for each
// allowance with a limit: settled + leased <= limit, unless a settlement came
// out above its hold.
type Leases interface {
	// Lease grants what is wanted as far as the allowances' limits leave room,
	// in one transaction: the answer has one grant for each want, in the same
	// order. Limits are the store's own: purchases for Credits, the
	// organization's Budget for Budget, the project's for ProjectBudget, the
	// key's UsageLimit for KeySpend. An allowance without a limit is granted
	// whole; one of another period than its limit's is granted nothing, nor is
	// one of a week that starts on another day than the organization's. If the
	// organization has not chosen a day, each will do.
	Lease(ctx context.Context, node string, want []Want) ([]Grant, error)
	// Return gives leases back, whole or in part. More than the node has is
	// cut to what it has.
	Return(ctx context.Context, node string, leases []Lease) error
	// ReturnAll gives back all that the node has leased, or where a node's id
	// is given, all that was leased under that id.
	ReturnAll(ctx context.Context, node string) error
	// LeasesOf lists what a node has leased, or what was leased under its id,
	// after changes that are under way.
	LeasesOf(ctx context.Context, node string) ([]Lease, error)
	// Ask asks all other nodes to give back what they can spare of these
	// allowances. It is a hint, and may get lost.
	Ask(ctx context.Context, node string, ids []Allowance) error
	// Listen hears what other nodes tell until ctx ends, or returns an error
	// when the connection is lost.
	Listen(ctx context.Context, node string, to Listener) error
}

// Listener is called with what a node hears. What was told while it did not
// listen is lost.
type Listener struct {
	// Asked: another node asks for these allowances.
	Asked func([]Allowance)
	// Changed: a key or an organization has changed, here or elsewhere, or may
	// have, before the node began to listen.
	Changed func()
}

// Nodes are the gateways that share the books. None of what is decided from
// them depends on the clock of the database.
type Nodes interface {
	// Join registers a node that starts, in the place of any process that ran
	// under its id before, and returns what that had leased.
	Join(ctx context.Context, n Node) error
	// Beat says that the node is alive. It returns all nodes, and whether the
	// node's leases were returned for it since it last did so. ErrReplaced
	// says that another process runs under its id.
	Beat(ctx context.Context, n Node) (all []Node, expired bool, err error)
	// Expire returns all that a node has leased, unless it has sent another
	// heartbeat than the one that was seen last: then it does nothing.
	Expire(ctx context.Context, id string, beats int64) (bool, error)
	// Leave removes a node that ends in good order. Its leases are returned.
	Leave(ctx context.Context, n Node) error
	// ListNodes returns all nodes, by id.
	ListNodes(ctx context.Context) ([]Node, error)
}

// Ledger is the append-only record of money.
type Ledger interface {
	// Post writes settlements of a node in one transaction: the audit rows,
	// a usage_debit for each with a cost, the settled sums of their
	// allowances and the leases that they came out of, and the rollups. It
	// may be repeated after an unknown outcome: a settlement that is already
	// there is left alone. It returns the ids of settlements that are already
	// there with other content, other than recovered ones; those need a human.
	// A batch with a settlement that cannot be booked is refused whole with
	// ErrInvalid, and would be again; any other error may pass.
	Post(ctx context.Context, node string, batch []Settlement) (conflicts []string, err error)
	// Append adds an entry other than a usage_debit and returns it with its
	// balance. The same IdempotencyKey with the same content returns the
	// first entry again, whatever the balance is now; with other content,
	// ErrConflict. ErrBalanceRange says that the balance would not be a Money.
	Append(ctx context.Context, e Entry) (Entry, error)
	// Transactions returns an organization's entries in the order of the ledger,
	// newest first unless the page says otherwise.
	Transactions(ctx context.Context, org string, f EntryFilter, page Page) ([]Entry, error)
}

// Reports read the books.
type Reports interface {
	// Requests returns audit rows in order of arrival, newest first unless the
	// page says otherwise. Their price sheets are not read.
	Requests(ctx context.Context, org string, f Filter, page Page) ([]Settlement, error)
	// Request returns one audit row, or ErrNotFound; ErrNotKept, too, if it is
	// from before the requests that are kept.
	Request(ctx context.Context, org, id string) (Settlement, error)
	// Usage returns the totals of the rows that Requests would return, or that it
	// would have, and their groups as of the same moment; ErrTooManyGroups if
	// these are too many. It looks at no Detail of the filter. Before the requests
	// that are kept, times are rounded down to quarters of hours.
	Usage(ctx context.Context, org string, f Filter, g Grouping) (Usage, error)
	// Spend returns what is settled in each of the allowances, whatever their
	// limits, in the same order.
	Spend(ctx context.Context, allowances []Allowance) ([]Money, error)
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
	// OldestFirst turns the order round, where the list can be read so: of
	// requests and of transactions.
	OldestFirst bool
}

// Filter selects requests. Zero values select all; of several values in a list,
// each will do.
type Filter struct {
	// From is inclusive, To exclusive.
	From, To time.Time
	KeyIDs   []string
	// Owner is the id of a member: requests with keys that are the member's now.
	Owner     string
	Projects  []string
	Providers []string
	Models    []string
	// Detail is what only the audit rows themselves know.
	Detail Detail
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

// Plus returns the sum of two totals.
func (t Totals) Plus(other Totals) Totals {
	return Totals{
		Requests:         t.Requests + other.Requests,
		PromptTokens:     t.PromptTokens + other.PromptTokens,
		CompletionTokens: t.CompletionTokens + other.CompletionTokens,
		CachedTokens:     t.CachedTokens + other.CachedTokens,
		ReasoningTokens:  t.ReasoningTokens + other.ReasoningTokens,
		Cost:             t.Cost + other.Cost,
		MarketCost:       t.MarketCost + other.MarketCost,
	}
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
