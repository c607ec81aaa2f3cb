package proof

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

// sumPageSize is how many rows the database sums up at once.
const sumPageSize = 20_000

// Queries read a store's books. What each takes and returns is said where it is
// used; times are arguments as Time makes them, and may be returned as
// microseconds since 1970 too.
type Queries struct {
	Organizations, Account, Entries, Requests, FreeRequests, Undebited string
	ChangedHours, SumPage, SumHour, Rollups, RollupDays                string
	Allowances, Leases                                                 string
	Kept, Dropped, RequestPage, Debits                                 string
	Time                                                               func(time.Time) any
}

// SeriesNames are the names of all series of rollups, as a list in SQL.
var SeriesNames = "'" + strings.Join(books.SeriesNames(), "', '") + "'"

// Request is a row with its stored hash.
type Request struct {
	billing.Settlement
	Hash []byte
	// Sheet is the hash of its price sheet.
	Sheet []byte
}

// snapshot reads the books as of one moment.
type snapshot struct {
	tx      *sql.Tx
	queries *Queries
}

// each calls f for each row of a query.
func (s snapshot) each(ctx context.Context, f func(columns.Row) error, query string, args ...any) error {
	rows, err := s.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func list[T any](ctx context.Context, s snapshot, scan func(columns.Row) (T, error), query string, args ...any) ([]T, error) {
	var all []T
	err := s.each(ctx, func(row columns.Row) error {
		v, err := scan(row)
		all = append(all, v)
		return err
	}, query, args...)
	return all, err
}

// organizations lists all that have books, known as organizations or not.
func (s snapshot) organizations(ctx context.Context) ([]string, error) {
	return list(ctx, s, func(row columns.Row) (id string, err error) {
		err = row.Scan(&id)
		return id, err
	}, s.queries.Organizations)
}

func (s snapshot) account(ctx context.Context, org string) (account, error) {
	var a account
	r := &a.remembered
	err := s.tx.QueryRowContext(ctx, s.queries.Account, org).Scan(&a.Balance, &a.Entries, &a.credited, &a.settled, &a.last,
		&r.Entries, &r.Balance, &r.Credited, &r.Debited, &r.Hash)
	return a, err
}

// entries returns a page of those after a number, in their order.
func (s snapshot) entries(ctx context.Context, org string, after int64) ([]books.Line, error) {
	return list(ctx, s, scanLine, s.queries.Entries, org, after, pageSize)
}

// requests returns those of the ids that there are.
func (s snapshot) requests(ctx context.Context, org string, ids []string) (map[string]*Request, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	array, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	found := make(map[string]*Request, len(ids))
	err = s.each(ctx, func(row columns.Row) error {
		r, err := scanRequest(row)
		found[r.RequestID] = r
		return err
	}, s.queries.Requests, org, string(array), slices.Min(ids), slices.Max(ids))
	return found, err
}

// debits returns the entries that are made from these requests, by their ids.
func (s snapshot) debits(ctx context.Context, org string, ids []string) (map[string]*books.Line, error) {
	array, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	found := make(map[string]*books.Line, len(ids))
	err = s.each(ctx, func(row columns.Row) error {
		l, err := scanLine(row)
		found[l.RequestID] = &l
		return err
	}, s.queries.Debits, org, string(array))
	return found, err
}

// requestPage returns a page of all of a range, by their ids.
func (s snapshot) requestPage(ctx context.Context, org string, ids idRange, after string) ([]*Request, error) {
	return list(ctx, s, scanRequest, s.queries.RequestPage, org, ids.from, ids.to, after, pageSize)
}

// kept returns the id below which requests may be dropped.
func (s snapshot) kept(ctx context.Context) (firstID string, err error) {
	err = s.tx.QueryRowContext(ctx, s.queries.Kept).Scan(&firstID)
	return firstID, err
}

// dropped calls f for each sum of requests that are dropped.
func (s snapshot) dropped(ctx context.Context, org string, from, to time.Time, f func(*Dropped)) error {
	return s.each(ctx, func(row columns.Row) error {
		d := Dropped{Rollup: books.Rollup{RollupKey: books.RollupKey{OrganizationID: org}}}
		if err := row.Scan(append(rollupColumns(&d.Rollup), &d.Debits)...); err != nil {
			return err
		}
		f(&d)
		return nil
	}, s.queries.Dropped, org, s.queries.Time(from), s.queries.Time(to))
}

// freeRequests returns a page of those that cost nothing, by their ids.
func (s snapshot) freeRequests(ctx context.Context, org string, ids idRange, after string) ([]*Request, error) {
	return list(ctx, s, scanRequest, s.queries.FreeRequests, org, ids.from, ids.to, after, pageSize)
}

// undebited calls f for each request that costs something and has no debit.
func (s snapshot) undebited(ctx context.Context, org string, f func(id string, cost billing.Money)) error {
	return s.each(ctx, func(row columns.Row) error {
		var (
			id   string
			cost billing.Money
		)
		if err := row.Scan(&id, &cost); err != nil {
			return err
		}
		f(id, cost)
		return nil
	}, s.queries.Undebited, org)
}

// changedHours returns the hours whose rollups, summed up, are not what is
// remembered, in their order.
func (s snapshot) changedHours(ctx context.Context, org string) ([]changedHour, error) {
	return list(ctx, s, func(row columns.Row) (h changedHour, err error) {
		dest := append([]any{columns.Time{To: &h.Start}}, totalsColumns(&h.Totals)...)
		err = row.Scan(append(dest, totalsColumns(&h.remembered)...)...)
		return h, err
	}, s.queries.ChangedHours, org)
}

// sumPage is the sums of some requests.
type sumPage struct {
	sums []books.Rollup
	// last is the greatest id among them.
	last string
	// full tells that there may be more after it.
	full bool
}

// end is when the latest of the sums ends.
func (p sumPage) end() time.Time {
	var t time.Time
	for _, s := range p.sums {
		if s.Start.After(t) {
			t = s.Start
		}
	}
	return t.Add(books.KeyQuarters.Grain)
}

func (s snapshot) sumPage(ctx context.Context, org, after string) (sumPage, error) {
	var (
		p sumPage
		n int64
	)
	err := s.each(ctx, func(row columns.Row) error {
		r := books.Rollup{RollupKey: books.RollupKey{OrganizationID: org}}
		var last string
		if err := row.Scan(append(rollupColumns(&r), &last)...); err != nil {
			return err
		}
		p.sums = append(p.sums, r)
		p.last = max(p.last, last)
		n += r.Requests
		return nil
	}, s.queries.SumPage, org, after, sumPageSize)
	p.full = n >= sumPageSize
	return p, err
}

// sumHour returns the sums of the requests that arrived in an hour, by its
// quarters.
func (s snapshot) sumHour(ctx context.Context, org string, hour time.Time, ids idRange) ([]books.Rollup, error) {
	return list(ctx, s, scanRollup(org), s.queries.SumHour, org, ids.from, ids.to,
		s.queries.Time(hour), s.queries.Time(hour.Add(time.Hour)))
}

// rollups returns those of a series that begin in a span of time.
func (s snapshot) rollups(ctx context.Context, org string, series books.Series, span books.Span) ([]books.Rollup, error) {
	return list(ctx, s, scanRollup(org), s.queries.Rollups, org, s.queries.Time(span.From), s.queries.Time(span.To), series.Name)
}

// rollupDays returns the days that rollups of any series begin on.
func (s snapshot) rollupDays(ctx context.Context, org string) ([]time.Time, error) {
	return list(ctx, s, func(row columns.Row) (t time.Time, err error) {
		err = row.Scan(columns.Time{To: &t})
		return t, err
	}, s.queries.RollupDays, org)
}

// sumDifference is an allowance of which the books have one sum and another is
// expected.
type sumDifference struct {
	allowance       billing.Allowance
	expected, found int64
}

// allowances calls f for each allowance that has not settled the costs of its
// period.
func (s snapshot) allowances(ctx context.Context, f func(sumDifference)) error {
	return s.sumDifferences(ctx, f, s.queries.Allowances)
}

// leases calls f for each allowance that has not leased what its leases are.
func (s snapshot) leases(ctx context.Context, f func(sumDifference)) error {
	return s.sumDifferences(ctx, f, s.queries.Leases)
}

func (s snapshot) sumDifferences(ctx context.Context, f func(sumDifference), query string) error {
	return s.each(ctx, func(row columns.Row) error {
		var d sumDifference
		a := &d.allowance
		err := row.Scan(&a.OrganizationID, &a.Subject, &a.Kind, &a.Period, columns.Time{To: &a.Start}, &d.expected, &d.found)
		if err != nil {
			return err
		}
		f(d)
		return nil
	}, query)
}

func scanLine(row columns.Row) (books.Line, error) {
	var l books.Line
	err := row.Scan(&l.OrganizationID, &l.Seq, &l.Type, &l.Amount, &l.BalanceAfter, columns.Time{To: &l.CreatedAt},
		&l.RequestID, &l.PaymentID, &l.Reason, &l.Actor, &l.IdempotencyKey, &l.Hash)
	return l, err
}

func scanRollup(org string) func(columns.Row) (books.Rollup, error) {
	return func(row columns.Row) (books.Rollup, error) {
		r := books.Rollup{RollupKey: books.RollupKey{OrganizationID: org}}
		err := row.Scan(rollupColumns(&r)...)
		return r, err
	}
}

func rollupColumns(r *books.Rollup) []any {
	return append([]any{&r.Series, columns.Time{To: &r.Start}, &r.KeyID, &r.Project, &r.Provider, &r.Model}, totalsColumns(&r.Totals)...)
}

func totalsColumns(t *billing.Totals) []any {
	return []any{
		&t.Requests, &t.PromptTokens, &t.CompletionTokens, &t.CachedTokens, &t.ReasoningTokens, &t.Cost, &t.MarketCost,
	}
}

func scanRequest(row columns.Row) (*Request, error) {
	var (
		r                 = new(Request)
		u                 = &r.Usage
		changes, attempts string
		flags             [3]flagColumn
	)
	if err := row.Scan(
		&r.RequestID, &r.OrganizationID, &r.KeyID, &r.KeyName, columns.Time{To: &r.At}, &r.Provider, &r.Model, &r.Endpoint,
		&u.Input, &u.InputAudio, &u.InputImage, &u.CacheRead, &u.CacheReadAudio,
		&u.CacheWrite, &u.CacheWriteLong, &u.Output, &u.OutputAudio, &u.OutputImage,
		&u.WebSearches, &u.Reasoning, &r.UsageSource, &flags[0], &r.ServiceTier, &r.Cost, &r.MarketCost,
		&r.PriceRuleID, &r.Latency, &r.TTFB, &r.Status, &r.Error, &r.ClientIP, &r.UserAgent, &flags[1], &r.Attempts,
		&changes, &flags[2], &r.Hash, &r.Project, &attempts, &r.Sheet,
	); err != nil {
		return r, err
	}
	r.UsageMismatch, r.Streaming, r.Recovered = flags[0].is, flags[1].is, flags[2].is
	var err error
	r.Changes, err = books.DecodeList[string](changes)
	if log, odd := books.DecodeList[billing.Attempt](attempts); odd == nil {
		r.AttemptLog = log
	} else {
		err = odd
	}
	if err != nil || flags[0].odd || flags[1].odd || flags[2].odd {
		// No store writes such a thing: let its hash be another.
		r.Changes = []string{"odd: " + changes}
	}
	return r, nil
}

// flagColumn scans a flag, which may be any number in SQLite.
type flagColumn struct{ is, odd bool }

func (c *flagColumn) Scan(v any) error {
	switch v := v.(type) {
	case bool:
		c.is = v
	case int64:
		c.is, c.odd = v == 1, v != 0 && v != 1
	default:
		return fmt.Errorf("%T is not a flag", v)
	}
	return nil
}
