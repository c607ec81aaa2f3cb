package books

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Part is a span of time whose requests are summed up in rollups of one series,
// or are to be, in rows.
type Part struct {
	// Series is the name of the series.
	Series string
	Span
	// Date is the index of the date that the part belongs to; 0 without dates.
	Date int
	// Sign is 1 if the part is added, -1 if it is subtracted.
	Sign int
}

// UsageQuery is what a store sums up to answer for usage.
type UsageQuery struct {
	// Rollups and Rows are the parts: rollups, and at the edges rows. Added and
	// subtracted, they have each moment of the span once.
	Rollups, Rows []Part

	grouping billing.Grouping
	from, to time.Time
	starts   []time.Time
	rowsFrom time.Time
}

// NeedsRecorded tells whether a query depends on when requests were recorded.
func NeedsRecorded(f billing.Filter, g billing.Grouping) bool {
	return slices.Contains(g.By, billing.ByDate) && (f.From.IsZero() || f.To.IsZero())
}

// NewUsageQuery plans a query.
//
// Recorded is the time that all requests arrived in, of interest if
// NeedsRecorded, and rowsFrom, which is a whole hour, that from which on they
// have rows: before, there are rollups alone, and times are rounded down to
// their quarters of hours.
func NewUsageQuery(f billing.Filter, g billing.Grouping, recorded Span, rowsFrom time.Time) (*UsageQuery, error) {
	q := &UsageQuery{grouping: g, from: f.From, to: f.To, rowsFrom: rowsFrom}
	if !q.from.IsZero() {
		q.from = q.round(q.from)
	}
	if !q.to.IsZero() {
		q.to = q.round(q.to)
	}
	span := SpanOf(billing.Filter{From: q.from, To: q.to})
	series := coarsestFirst(len(f.KeyIDs) > 0 || f.Owner != "" || slices.Contains(g.By, billing.ByKey))
	if !slices.Contains(g.By, billing.ByDate) {
		q.cut(Part{Span: span, Sign: 1}, series)
		return q, nil
	}
	if f.From.IsZero() {
		span.From = recorded.From
	}
	if f.To.IsZero() {
		span.To = recorded.To
	}
	return q, q.cutDates(span, series)
}

func (q *UsageQuery) round(t time.Time) time.Time {
	if t.Before(q.rowsFrom) {
		return t.Truncate(KeyQuarters.Grain)
	}
	return t
}

// cutDates cuts a span into the dates of the calendar.
func (q *UsageQuery) cutDates(span Span, series []Series) error {
	if !span.From.Before(span.To) {
		return nil
	}
	c := newCalendar(q.grouping)
	for start, from := c.start(span.From), span.From; from.Before(span.To); {
		if len(q.starts) == billing.MaxUsageGroups {
			return fmt.Errorf("%w: more than %d dates", billing.ErrTooManyGroups, billing.MaxUsageGroups)
		}
		next := c.next(start)
		to := q.round(next.UTC())
		if to.After(span.To) {
			to = span.To
		}
		q.cut(Part{Span: Span{from, to}, Date: len(q.starts), Sign: 1}, series)
		q.starts = append(q.starts, start)
		start, from = next, to
	}
	return nil
}

// cut cuts a span into the whole rollups within it, the coarsest first, and what
// is before and after them.
func (q *UsageQuery) cut(p Part, series []Series) {
	if !p.From.Before(p.To) {
		return
	}
	if len(series) == 0 {
		q.Rows = append(q.Rows, p)
		return
	}
	grain := series[0].Grain
	from, to := ceil(p.From, grain), p.To.Truncate(grain)
	if to.Before(from) { // all of it is in one
		q.cutOne(p, series)
		return
	}
	if from.Before(to) {
		q.Rollups = append(q.Rollups, p.of(from, to).in(series[0]))
	}
	q.cutOne(p.of(p.From, from), series)
	q.cutOne(p.of(to, p.To), series)
}

// cutOne cuts a part of one rollup of the first series. It takes the whole of it
// if less is to be subtracted again than would be added: so the days of a zone
// are those of UTC but for the hours in between.
func (q *UsageQuery) cutOne(p Part, series []Series) {
	whole, finer := series[0], series[1:]
	if len(finer) == 0 || p.To.Sub(p.From) <= whole.Grain/2 {
		q.cut(p, finer)
		return
	}
	start := p.From.Truncate(whole.Grain)
	all := p.of(start, start.Add(whole.Grain))
	q.Rollups = append(q.Rollups, all.in(whole))
	rest := all
	rest.Sign = -p.Sign
	q.cut(rest.of(start, p.From), finer)
	q.cut(rest.of(p.To, all.To), finer)
}

// of returns the part with another span.
func (p Part) of(from, to time.Time) Part {
	p.Span = Span{from, to}
	return p
}

// in returns the part as rollups of a series.
func (p Part) in(s Series) Part {
	p.Series = s.Name
	return p
}

// Groups tells whether a query groups by a dimension.
func (q *UsageQuery) Groups(by billing.Dimension) bool { return slices.Contains(q.grouping.By, by) }

// UsageSum is the sum of the requests of a date.
type UsageSum struct {
	Date int
	billing.UsageGroup
}

// Usage returns what the sums of the parts come to. They are of all requests
// that are alike.
func (q *UsageQuery) Usage(sums []UsageSum) (billing.Usage, error) {
	u := billing.Usage{From: q.from, To: q.to}
	for _, s := range sums {
		var err error
		if u.Totals, err = checkedSum(u.Totals, s.Totals); err != nil {
			return billing.Usage{}, err
		}
	}
	if len(q.grouping.By) == 0 {
		return u, nil
	}
	if q.Groups(billing.ByDate) && len(q.grouping.By) == 1 {
		sums = q.eachDate(sums)
	}
	if len(sums) > billing.MaxUsageGroups {
		return billing.Usage{}, fmt.Errorf("%w: more than %d", billing.ErrTooManyGroups, billing.MaxUsageGroups)
	}
	u.Groups = make([]billing.UsageGroup, len(sums))
	for i, s := range sums {
		if q.Groups(billing.ByDate) {
			s.Start = q.starts[s.Date]
		}
		u.Groups[i] = s.UsageGroup
	}
	slices.SortFunc(u.Groups, compareGroups)
	return u, nil
}

// eachDate returns a sum for each date, be it of nothing.
func (q *UsageQuery) eachDate(sums []UsageSum) []UsageSum {
	all := make([]UsageSum, len(q.starts))
	for i := range all {
		all[i].Date = i
	}
	for _, s := range sums {
		all[s.Date] = s
	}
	return all
}

func compareGroups(a, b billing.UsageGroup) int {
	return cmp.Or(
		a.Start.Compare(b.Start),
		cmp.Compare(a.KeyID, b.KeyID),
		cmp.Compare(a.Provider, b.Provider),
		cmp.Compare(a.Model, b.Model),
		cmp.Compare(a.Project, b.Project),
	)
}

// checkedSum is Plus, or an error where that overflows. No part of a sum is
// negative.
func checkedSum(a, b billing.Totals) (billing.Totals, error) {
	sum := a.Plus(b)
	for _, n := range []int64{
		sum.Requests, sum.PromptTokens, sum.CompletionTokens, sum.CachedTokens, sum.ReasoningTokens,
		int64(sum.Cost), int64(sum.MarketCost),
	} {
		if n < 0 {
			return billing.Totals{}, errOverflow
		}
	}
	return sum, nil
}

var errOverflow = errors.New("the sum overflows")
