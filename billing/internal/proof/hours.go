package proof

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// Hour is the sum of an organization's requests in an hour.
type Hour struct {
	Start time.Time
	billing.Totals
}

// changedHour is an hour whose sums are not what is remembered.
type changedHour struct {
	Hour
	remembered billing.Totals
}

// hours verifies rollups with rows, and the rows that no debit leads to. It
// returns the hours that changed since they were verified and are sound.
func (p *proof) hours(ctx context.Context, org string) ([]Hour, error) {
	changed, err := p.books.changedHours(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("compare hours: %w", err)
	}
	broken := make(map[time.Time]bool)
	for _, h := range changed {
		if p.shrunk(org, h) {
			broken[h.Start] = true
		}
	}
	if p.full {
		err = p.allHours(ctx, org, broken)
	} else {
		err = p.eachHour(ctx, org, changed, broken)
	}
	if err != nil {
		return nil, err
	}
	if err := p.derived(ctx, org, changed, broken); err != nil {
		return nil, err
	}
	sound := make([]Hour, 0, len(changed))
	for _, h := range changed {
		if !broken[h.Start] {
			sound = append(sound, h.Hour)
		}
	}
	return sound, nil
}

// shrunk reports an hour that has less than it had: rows are only ever added.
func (p *proof) shrunk(org string, h changedHour) bool {
	before := p.report.found
	was, is := h.remembered, h.Totals
	p.report.of(billing.CheckHistory, org, "hour "+hourName(h.Start)).totals(was, billing.Totals{
		Requests:         min(was.Requests, is.Requests),
		PromptTokens:     min(was.PromptTokens, is.PromptTokens),
		CompletionTokens: min(was.CompletionTokens, is.CompletionTokens),
		CachedTokens:     min(was.CachedTokens, is.CachedTokens),
		ReasoningTokens:  min(was.ReasoningTokens, is.ReasoningTokens),
		Cost:             min(was.Cost, is.Cost),
		MarketCost:       min(was.MarketCost, is.MarketCost),
	})
	return p.report.found > before
}

// allIDs is the range of all ids of requests.
var allIDs = idRange{from: "", to: books.AfterAllIDs}

// idRange is a range of ids, the first inclusive, the second exclusive.
type idRange struct{ from, to string }

// eachHour counts the rows of some hours. Their ids tell where they are; only
// if that finds a difference are they looked for among all, by their time.
func (p *proof) eachHour(ctx context.Context, org string, hours []changedHour, broken map[time.Time]bool) error {
	for _, h := range hours {
		end := h.Start.Add(time.Hour)
		ids := idRange{
			billing.IDFloor(billing.RequestIDPrefix, h.Start), billing.IDFloor(billing.RequestIDPrefix, end),
		}
		rollups, err := p.books.rollups(ctx, org, books.KeyQuarters, books.Span{From: h.Start, To: end})
		if err != nil {
			return fmt.Errorf("read rollups: %w", err)
		}
		for _, where := range []idRange{ids, allIDs} {
			rows, err := p.books.sumHour(ctx, org, h.Start, where)
			if err != nil {
				return fmt.Errorf("sum up requests: %w", err)
			}
			t := tally{}
			t.expect(rows)
			if err := p.expectDropped(ctx, t, org, h.Start, end); err != nil {
				return err
			}
			t.find(rollups)
			if len(t) == 0 {
				break
			}
			if where == allIDs {
				t.report(p.report, broken)
			}
		}
		if err := p.freeRequests(ctx, org, ids, broken); err != nil {
			return err
		}
	}
	return nil
}

// allHours counts all rows in the order of their ids, which is nearly that of
// the hours: so rollups and rows meet soon, and few of them wait for each other.
func (p *proof) allHours(ctx context.Context, org string, broken map[time.Time]bool) error {
	t := tally{}
	read := books.Always.From // the rollups before it
	for after := ""; ; {
		page, err := p.books.sumPage(ctx, org, after)
		if err != nil {
			return fmt.Errorf("sum up requests: %w", err)
		}
		t.expect(page.sums)
		to := books.Always.To
		if page.full {
			to = page.end()
		}
		if read.Before(to) {
			rollups, err := p.books.rollups(ctx, org, books.KeyQuarters, books.Span{From: read, To: to})
			if err != nil {
				return fmt.Errorf("read rollups: %w", err)
			}
			t.find(rollups)
			if err := p.expectDropped(ctx, t, org, read, to); err != nil {
				return err
			}
			read = to
		}
		if !page.full {
			break
		}
		after = page.last
	}
	t.report(p.report, broken)
	return p.freeRequests(ctx, org, allIDs, broken)
}

// expectDropped expects what is left of rows that are dropped.
func (p *proof) expectDropped(ctx context.Context, t tally, org string, from, to time.Time) error {
	err := p.books.dropped(ctx, org, from, to, func(d *Dropped) { t.expect([]books.Rollup{d.Rollup}) })
	if err != nil {
		return fmt.Errorf("read sums of dropped requests: %w", err)
	}
	return nil
}

// freeRequests checks the rows that cost nothing. No entry leads to them.
func (p *proof) freeRequests(ctx context.Context, org string, ids idRange, broken map[time.Time]bool) error {
	for after := ""; ; {
		page, err := p.books.freeRequests(ctx, org, ids, after)
		if err != nil {
			return fmt.Errorf("read requests: %w", err)
		}
		for _, r := range page {
			before := p.report.found
			p.content(r)
			if p.report.found > before {
				broken[r.At.Truncate(time.Hour)] = true
			}
		}
		p.requests += int64(len(page))
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].RequestID
	}
}

// derived verifies the rollups of the other series with those of quarters, which
// were compared with rows: of the days that have changed hours, or of all.
func (p *proof) derived(ctx context.Context, org string, changed []changedHour, broken map[time.Time]bool) error {
	var days []time.Time
	for _, h := range changed {
		days = append(days, h.Start.Truncate(day))
	}
	if p.full {
		var err error
		if days, err = p.books.rollupDays(ctx, org); err != nil {
			return fmt.Errorf("list days: %w", err)
		}
	}
	for _, start := range slices.Compact(days) {
		t, err := p.tallyDay(ctx, org, books.Span{From: start, To: start.Add(day)})
		if err != nil {
			return fmt.Errorf("read rollups: %w", err)
		}
		if len(t) == 0 {
			continue
		}
		t.report(p.report, broken)
		for _, h := range changed {
			if h.Start.Truncate(day).Equal(start) {
				broken[h.Start] = true
			}
		}
	}
	return nil
}

const day = 24 * time.Hour

func (p *proof) tallyDay(ctx context.Context, org string, span books.Span) (tally, error) {
	quarters, err := p.books.rollups(ctx, org, books.KeyQuarters, span)
	if err != nil {
		return nil, err
	}
	t := tally{}
	for _, s := range books.DerivedSeries {
		rollups, err := p.books.rollups(ctx, org, s, span)
		if err != nil {
			return nil, err
		}
		for _, q := range quarters {
			t.expect([]books.Rollup{{RollupKey: q.In(s), Totals: q.Totals}})
		}
		t.find(rollups)
	}
	return t, nil
}

// tally compares rollups with the sums that they should be. It holds those that
// differ, be it because the other side was not read yet.
type tally map[books.RollupKey]sides

type sides struct{ expected, found billing.Totals }

func (t tally) expect(sums []books.Rollup) {
	for _, s := range sums {
		both := t[s.RollupKey]
		both.expected = both.expected.Plus(s.Totals)
		t.put(s.RollupKey, both)
	}
}

func (t tally) find(rollups []books.Rollup) {
	for _, r := range rollups {
		both := t[r.RollupKey]
		both.found = both.found.Plus(r.Totals)
		t.put(r.RollupKey, both)
	}
}

func (t tally) put(k books.RollupKey, both sides) {
	if both.expected == both.found {
		delete(t, k)
		return
	}
	t[k] = both
}

func (t tally) report(r *report, broken map[time.Time]bool) {
	for _, k := range slices.SortedFunc(maps.Keys(t), books.RollupKey.Compare) {
		r.of(billing.CheckRollups, k.OrganizationID, rollupName(k)).totals(t[k].expected, t[k].found)
		broken[k.Start.Truncate(time.Hour)] = true
	}
}
