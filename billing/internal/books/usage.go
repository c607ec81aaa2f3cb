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
}

// UsageQuery is what a store sums up to answer for usage.
type UsageQuery struct {
	// Rollups and Rows are the parts, without gap or overlap: as many rollups
	// as are whole, and rows at the edges.
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
	series := coarsestFirst(f.KeyID != "" || f.Owner != "" || slices.Contains(g.By, billing.ByKey))
	if !slices.Contains(g.By, billing.ByDate) {
		q.cut(span, 0, series)
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
		q.cut(Span{from, to}, len(q.starts), series)
		q.starts = append(q.starts, start)
		start, from = next, to
	}
	return nil
}

// cut cuts a span into the whole rollups within it, the coarsest first, and rows
// before and after them.
func (q *UsageQuery) cut(s Span, date int, series []Series) {
	if !s.From.Before(s.To) {
		return
	}
	for i, level := range series {
		from, to := ceil(s.From, level.Grain), s.To.Truncate(level.Grain)
		if !from.Before(to) {
			continue
		}
		finer := series[i+1:]
		q.cut(Span{s.From, from}, date, finer)
		q.Rollups = append(q.Rollups, Part{level.Name, Span{from, to}, date})
		q.cut(Span{to, s.To}, date, finer)
		return
	}
	q.Rows = append(q.Rows, Part{Span: s, Date: date})
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

// checkedSum is Sum, or an error where that overflows. No part of a sum is
// negative.
func checkedSum(a, b billing.Totals) (billing.Totals, error) {
	sum := Sum(a, b)
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
