package billing

import (
	"fmt"
	"math"
	"time"
)

// VerifyMode is how much of the books a verification reads.
type VerifyMode string

const (
	// Incremental reads what came after the last sound verification, every sum
	// that changed since, and all allowances and leases. A year of requests
	// takes it a second or so. It does not read old rows and entries again.
	Incremental VerifyMode = "incremental"
	// Full reads everything, and compares it with what earlier verifications
	// remembered of it.
	Full VerifyMode = "full"
)

// DefaultExamples is how many examples a check gives if it is not told.
const DefaultExamples = 5

// VerifyOptions say how to verify.
type VerifyOptions struct {
	// Mode is Incremental if it is empty.
	Mode VerifyMode
	// Examples is how many differences each check names at most;
	// DefaultExamples if it is 0.
	Examples int
}

// The checks of a verification, in their order.
const (
	// CheckBalances: each entry follows the one before it without a gap and
	// with its balance; the account is at the last one's.
	CheckBalances = "balances"
	// CheckDebits: each row with a cost has one debit of that cost and time,
	// and each debit its row.
	CheckDebits = "debits"
	// CheckContent: the hashes of rows and entries are those of their columns,
	// and a debit's is its row's.
	CheckContent = "content"
	// CheckHistory: what was verified before is still there, unchanged.
	CheckHistory = "history"
	// CheckRollups: the sums of each hour are those of its rows.
	CheckRollups = "rollups"
	// CheckAllowances: what is credited and settled of each allowance is the
	// sum of entries and of costs in its period.
	CheckAllowances = "allowances"
	// CheckLeases: what is leased of each allowance is the sum of its leases.
	CheckLeases = "leases"
)

// Checks are all checks of a store.
var Checks = []string{
	CheckBalances, CheckDebits, CheckContent, CheckHistory, CheckRollups, CheckAllowances, CheckLeases,
}

// Verification is the report of a verification, of all organizations as of one
// moment.
type Verification struct {
	Mode VerifyMode
	// At is when it began, the moment that it tells about.
	At       time.Time
	Duration time.Duration
	// Entries and Requests are how many lines of the ledger and how many audit
	// rows were read and hashed.
	Entries  int64
	Requests int64
	Checks   []Check
}

// Check compares two records of the same facts.
type Check struct {
	Name string
	// Imbalance is the sum of absolute differences: amounts count in nano-USD,
	// numbers of things and tokens as such, and a changed text or hash as 1.
	Imbalance Money
	// Examples are the first differences.
	Examples []Difference
}

// Difference is one that an operator can look at.
type Difference struct {
	OrganizationID string
	// Subject is what differs, such as "entry 5", and Field what of it.
	Subject string
	Field   string
	// Expected is what the other records say.
	Expected string
	Found    string
}

// String says in one line what differs.
func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: %s is %s, expected %s", d.OrganizationID, d.Subject, d.Field, d.Found, d.Expected)
}

// Imbalance is the sum of all differences. It is 0 in sound books.
func (v Verification) Imbalance() Money {
	var sum Money
	for _, c := range v.Checks {
		sum = AddImbalance(sum, c.Imbalance)
	}
	return sum
}

// Failed returns the checks that found a difference.
func (v Verification) Failed() []Check {
	var failed []Check
	for _, c := range v.Checks {
		if c.Imbalance != 0 {
			failed = append(failed, c)
		}
	}
	return failed
}

// AddImbalance returns the sum of two imbalances. It does not wrap: what is
// wrong without measure must not look sound.
func AddImbalance(a, b Money) Money {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
