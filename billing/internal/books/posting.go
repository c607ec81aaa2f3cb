package books

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Posting is what a set of new rows does to the books, summed up so that a
// store writes each of its records once, in an order that is always the same.
type Posting struct {
	rows []Row
	// Rollups of all series.
	Rollups []Rollup
	// Spent by allowance, and those of them that are kept as numbers.
	Spent, Settled []billing.Lease
	// Uses of keys.
	Uses []Use
}

// Use is when a key was last used.
type Use struct {
	OrganizationID string
	KeyID          string
	At             time.Time
}

// NewPosting sums up rows that are not in the books yet.
func NewPosting(rows []Row) Posting {
	p := Posting{rows: rows, Rollups: Rollups(rows), Spent: spent(rows), Uses: uses(rows)}
	for _, l := range p.Spent {
		if IsKept(l.Allowance) {
			p.Settled = append(p.Settled, l)
		}
	}
	return p
}

// Account is the state of an organization's ledger.
type Account struct {
	Balance billing.Money
	// Entries is how many there are. They are numbered from 1 without gaps.
	Entries int64
}

// Line is an entry on its way into the ledger.
type Line struct {
	billing.Entry
	Seq  int64
	Hash []byte
}

// Organizations returns the ids of all organizations in the rows, sorted.
func Organizations(rows []Row) []string {
	ids := make([]string, 0, 1)
	for i := range rows {
		if id := rows[i].OrganizationID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Debits returns the ledger lines of the rows that cost anything, and moves
// the accounts along. The lines are for storing: they lack their ids, which
// follow from their numbers.
func (p Posting) Debits(accounts map[string]Account) ([]Line, error) {
	lines := make([]Line, 0, len(p.rows))
	for i := range p.rows {
		r := &p.rows[i]
		if r.Cost == 0 {
			continue
		}
		a, err := accounts[r.OrganizationID].add(-r.Cost)
		if err != nil {
			return nil, Invalid(r.RequestID, err)
		}
		accounts[r.OrganizationID] = a
		lines = append(lines, Line{
			Seq:  a.Entries,
			Hash: r.Hash,
			Entry: billing.Entry{
				OrganizationID: r.OrganizationID,
				Type:           billing.UsageDebit,
				Amount:         -r.Cost,
				BalanceAfter:   a.Balance,
				// The time of the request, so that the ledger and the usage
				// report of any period agree.
				CreatedAt:      r.At,
				RequestID:      r.RequestID,
				IdempotencyKey: DebitKey(r.RequestID),
			},
		})
	}
	return lines, nil
}

// spent is what leases are cut by: each cost in each allowance that it may have
// been leased from.
func spent(rows []Row) []billing.Lease {
	return sorted(billing.Spent(func(yield func(*billing.Settlement) bool) {
		for i := range rows {
			if !yield(rows[i].Settlement) {
				return
			}
		}
	}))
}

func uses(rows []Row) []Use {
	type key struct{ org, id string }
	last := make(map[key]time.Time, 1)
	for i := range rows {
		r := &rows[i]
		k := key{r.OrganizationID, r.KeyID}
		if r.KeyID != "" && last[k].Before(r.At) {
			last[k] = r.At
		}
	}
	list := make([]Use, 0, len(last))
	for k, at := range last {
		list = append(list, Use{OrganizationID: k.org, KeyID: k.id, At: at})
	}
	slices.SortFunc(list, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.OrganizationID, b.OrganizationID), cmp.Compare(a.KeyID, b.KeyID))
	})
	return list
}
