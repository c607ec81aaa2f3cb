package proof

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// Dropped is what requests of a quarter of an hour that are dropped add up to, in
// the place of their rows: so that the rollups of quarters are still rows plus
// dropped, and so are debits.
type Dropped struct {
	books.Rollup
	// Debits is how many of the requests have one.
	Debits int64
}

// droppedDebits are the debits of dropped requests, by hour.
type droppedDebits map[time.Time]debitSum

type debitSum struct {
	count int64
	cost  billing.Money
}

func (d droppedDebits) add(at time.Time, count int64, cost billing.Money) {
	hour := at.Truncate(time.Hour)
	sum := d[hour]
	d[hour] = debitSum{sum.count + count, sum.cost + cost}
}

// compare compares debits without rows with what is remembered of dropped ones.
func (d droppedDebits) compare(ctx context.Context, p *proof, org string) error {
	remembered := droppedDebits{}
	err := p.books.dropped(ctx, org, books.Always.From, books.Always.To, func(s *Dropped) {
		remembered.add(s.Start, s.Debits, s.Cost)
	})
	if err != nil {
		return fmt.Errorf("read sums of dropped requests: %w", err)
	}
	hours := slices.Collect(maps.Keys(d))
	for hour := range remembered {
		if _, both := d[hour]; !both {
			hours = append(hours, hour)
		}
	}
	slices.SortFunc(hours, time.Time.Compare)
	for _, hour := range hours {
		s := p.report.of(billing.CheckDebits, org, "dropped requests of "+hourName(hour))
		s.number("debits", remembered[hour].count, d[hour].count)
		s.number("cost", int64(remembered[hour].cost), int64(d[hour].cost))
	}
	return nil
}

// Dropping proves requests before they are dropped, as of one moment, and sums
// them up: those of a range of ids that arrived before a time.
type Dropping struct {
	proof  *proof
	ids    idRange
	before time.Time
	sums   map[books.RollupKey]*Dropped
	later  []books.ID
}

// NewDropping returns one for the ids from one to before another.
func NewDropping(tx *sql.Tx, q *Queries, from, to string, before time.Time) *Dropping {
	return &Dropping{
		proof:  &proof{books: snapshot{tx: tx, queries: q}, report: newReport(1)},
		ids:    idRange{from, to},
		before: before,
		sums:   make(map[books.RollupKey]*Dropped),
	}
}

// Organizations lists all that may have requests.
func (d *Dropping) Organizations(ctx context.Context) ([]string, error) {
	orgs, err := d.proof.books.organizations(ctx)
	if err != nil {
		return nil, fmt.Errorf("list organizations: %w", err)
	}
	return orgs, nil
}

// All proves all requests of the range. billing.ErrUnproven says that one is at
// odds with the books, or that no verification has seen its debit yet.
func (d *Dropping) All(ctx context.Context) error {
	orgs, err := d.Organizations(ctx)
	if err != nil {
		return err
	}
	for _, org := range orgs {
		for after, more := "", true; more; {
			if _, after, more, err = d.page(ctx, org, after); err != nil {
				return err
			}
		}
		if err := d.hours(ctx, org); err != nil {
			return err
		}
	}
	return nil
}

// Some proves some of an organization's requests, and returns their ids: none
// if there are none. Errors are those of All.
func (d *Dropping) Some(ctx context.Context, org string) (ids []string, err error) {
	for after, more := "", true; more && len(ids) == 0; {
		if ids, after, more, err = d.page(ctx, org, after); err != nil {
			return nil, err
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return ids, d.hours(ctx, org)
}

// Sums returns what the requests add up to, in the order of their names.
func (d *Dropping) Sums() []Dropped {
	sums := make([]Dropped, 0, len(d.sums))
	for _, key := range slices.SortedFunc(maps.Keys(d.sums), books.RollupKey.Compare) {
		sums = append(sums, *d.sums[key])
	}
	return sums
}

// Later returns the requests of the range that arrived later than their ids say,
// and are kept.
func (d *Dropping) Later() []books.ID { return d.later }

// page proves a page of an organization's requests after an id.
func (d *Dropping) page(ctx context.Context, org, after string) (ids []string, last string, more bool, err error) {
	rows, err := d.proof.books.requestPage(ctx, org, d.ids, after)
	if err != nil {
		return nil, "", false, fmt.Errorf("read requests: %w", err)
	}
	if len(rows) == 0 {
		return nil, "", false, nil
	}
	for _, r := range rows {
		if r.At.Before(d.before) {
			ids = append(ids, r.RequestID)
		} else {
			d.later = append(d.later, books.ID{OrganizationID: org, RequestID: r.RequestID})
		}
	}
	a, err := d.proof.books.account(ctx, org)
	if err != nil {
		return nil, "", false, fmt.Errorf("read account: %w", err)
	}
	debits, err := d.proof.books.debits(ctx, org, ids)
	if err != nil {
		return nil, "", false, fmt.Errorf("read debits: %w", err)
	}
	for _, r := range rows {
		if r.At.Before(d.before) {
			d.proof.droppable(r, debits[r.RequestID], a.remembered.Entries)
			d.add(r)
		}
	}
	return ids, rows[len(rows)-1].RequestID, len(rows) == pageSize, unproven(d.proof.report.checks)
}

// droppable checks a row and its debit, nil if there is none, which must be
// among the entries that are verified.
func (p *proof) droppable(r *Request, debit *books.Line, verified int64) {
	p.content(r)
	s := p.report.of(billing.CheckDebits, r.OrganizationID, requestName(r.RequestID))
	if debit == nil {
		s.number("debit", -int64(r.Cost), 0)
		return
	}
	s.number("debit", -int64(r.Cost), int64(debit.Amount))
	s.time("created_at", r.At, debit.CreatedAt)
	s.hash(r.Hash, debit.Hash)
	if debit.Seq > verified {
		s.number("entry that is verified", debit.Seq, verified)
	}
}

func (d *Dropping) add(r *Request) {
	key := books.RollupKey{
		OrganizationID: r.OrganizationID, Start: r.At,
		KeyID: r.KeyID, Project: r.Project, Provider: r.Provider, Model: r.Model,
	}.In(books.KeyQuarters)
	sum := d.sums[key]
	if sum == nil {
		sum = &Dropped{Rollup: books.Rollup{RollupKey: key}}
		d.sums[key] = sum
	}
	sum.Totals = sum.Totals.Plus(billing.TotalsOf(r.Settlement))
	if r.Cost != 0 {
		sum.Debits++
	}
}

// hours compares the rollups of quarters, in the hours in which an organization's
// requests arrived. The other series are sums of these, dropped or not.
func (d *Dropping) hours(ctx context.Context, org string) error {
	starts := make(map[time.Time]bool)
	for key := range d.sums {
		if key.OrganizationID == org {
			starts[key.Start.Truncate(time.Hour)] = true
		}
	}
	hours := make([]changedHour, 0, len(starts))
	for _, start := range slices.SortedFunc(maps.Keys(starts), time.Time.Compare) {
		hours = append(hours, changedHour{Hour: Hour{Start: start}})
	}
	if err := d.proof.eachHour(ctx, org, hours, make(map[time.Time]bool)); err != nil {
		return err
	}
	return unproven(d.proof.report.checks)
}

// MustBalance returns billing.ErrUnproven with the first difference that a
// verification has found, nil without one.
func MustBalance(v billing.Verification) error { return unproven(v.Checks) }

func unproven(checks []billing.Check) error {
	for _, c := range checks {
		for _, d := range c.Examples {
			return fmt.Errorf("%w: %s: %s", billing.ErrUnproven, c.Name, d)
		}
	}
	return nil
}
