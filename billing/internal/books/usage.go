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
	// Piece is the index of the piece of time that the part belongs to.
	Piece int
	// Sign is 1 if the part is added, -1 if it is subtracted.
	Sign int
}

// Share is what a piece of time is to a date: part of it, or to be subtracted.
type Share struct {
	Piece int
	// Date is the index of the date; 0 without dates.
	Date int
	Sign int
}

// UsageQuery is what a store sums up to answer for usage: rollups, and at the
// edges rows, into pieces of time, and these into dates. Between one date and the
// next is a piece that one has and the other has not: it is summed up once.
type UsageQuery struct {
	Rollups, Rows []Part
	Shares        []Share

	grouping billing.Grouping
	from, to time.Time
	starts   []time.Time
	rowsFrom time.Time
	pieces   int
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
	if q.Groups(billing.ByDate) {
		if f.From.IsZero() {
			span.From = recorded.From
		}
		if f.To.IsZero() {
			span.To = recorded.To
		}
	}
	if !span.From.Before(span.To) {
		return q, nil
	}
	bounds := []time.Time{span.From, span.To}
	longest := span.To.Sub(span.From)
	if q.Groups(billing.ByDate) {
		var err error
		if bounds, err = q.divide(span); err != nil {
			return nil, err
		}
		if g.Interval == billing.Hour {
			longest = min(longest, time.Hour)
		}
	}
	q.cut(bounds, seriesUpTo(longest, len(f.KeyIDs) > 0 || f.Owner != "" || q.Groups(billing.ByKey)))
	return q, nil
}

func (q *UsageQuery) round(t time.Time) time.Time {
	if t.Before(q.rowsFrom) {
		return t.Truncate(KeyQuarters.Grain)
	}
	return t
}

// divide divides a span into the dates of the calendar. It returns where the
// first begins, and where each of them ends.
func (q *UsageQuery) divide(span Span) (bounds []time.Time, err error) {
	c := newCalendar(q.grouping)
	bounds = []time.Time{span.From}
	for start, from := c.start(span.From), span.From; from.Before(span.To); {
		if len(q.starts) == billing.MaxUsageGroups {
			return nil, fmt.Errorf("%w: more than %d dates", billing.ErrTooManyGroups, billing.MaxUsageGroups)
		}
		q.starts = append(q.starts, start)
		start = c.next(start)
		if from = q.round(start.UTC()); from.After(span.To) {
			from = span.To
		}
		bounds = append(bounds, from)
	}
	return bounds, nil
}

// cut cuts the dates between bounds into pieces. A date is whole rollups of the
// first series, from where one begins that is near its first bound to where one
// begins that is near its last; less what is from there to the first bound, and
// what is from there to the last.
func (q *UsageQuery) cut(bounds []time.Time, series []Series) {
	last := len(bounds) - 1
	var before time.Time // near the bound before
	for i, bound := range bounds {
		near, parts := approach(bound, series)
		var shares []Share
		if i > 0 {
			shares = append(shares, Share{Date: i - 1, Sign: 1})
			q.add(leap(nil, series, before, near), shares...)
		}
		if i < last {
			shares = append(shares, Share{Date: i, Sign: -1})
		}
		q.add(parts, shares...)
		before = near
	}
}

// approach returns where a rollup of the first series begins that is near the
// bound, and the parts that lead from there to the bound. They overshoot where
// less is to be subtracted again than would be added: so they are one rollup of
// each of the finer series, or two.
func approach(bound time.Time, series []Series) (near time.Time, parts []Part) {
	if len(series) == 0 {
		return bound, nil
	}
	near = nearest(bound, series[0].Grain, bound)
	at := near
	for finer := series[1:]; len(finer) > 0; finer = finer[1:] {
		next := nearest(bound, finer[0].Grain, at)
		parts = leap(parts, finer, at, next)
		at = next
	}
	return near, leap(parts, nil, at, bound)
}

// nearest returns the multiple of the grain that is nearest to t, and of two the
// one that is nearer to another time, or the first.
func nearest(t time.Time, grain time.Duration, other time.Time) time.Time {
	down := t.Truncate(grain)
	up := down.Add(grain)
	switch below, above := t.Sub(down), up.Sub(t); {
	case below < above:
		return down
	case below > above:
		return up
	}
	if other.Sub(down) > up.Sub(other) {
		return up
	}
	return down
}

// leap appends the part from one time to another, be it before, in rollups of
// the first series, or in rows where there is none.
func leap(parts []Part, series []Series, from, to time.Time) []Part {
	p := Part{Span: Span{from, to}, Sign: 1}
	switch {
	case from.Equal(to):
		return parts
	case to.Before(from):
		p = Part{Span: Span{to, from}, Sign: -1}
	}
	if len(series) > 0 {
		p.Series = series[0].Name
	}
	return append(parts, p)
}

// add adds a piece of time.
func (q *UsageQuery) add(parts []Part, shares ...Share) {
	if len(parts) == 0 {
		return
	}
	for _, p := range parts {
		p.Piece = q.pieces
		if p.Series == "" {
			q.Rows = append(q.Rows, p)
			continue
		}
		q.Rollups = append(q.Rollups, p)
	}
	for _, s := range shares {
		s.Piece = q.pieces
		q.Shares = append(q.Shares, s)
	}
	q.pieces++
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
