package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Breakdown are the parameters that divide usage into groups.
type Breakdown struct {
	GroupBy []string `query:"group_by" maxItems:"2" uniqueItems:"true" enum:"date,key,provider,model,project" doc:"One or two of date, key, provider, model and project." example:"date,model"`
	Every   string   `query:"interval" enum:"hour,day,week,month" default:"day" doc:"How long a date is. Weeks start on the organization's week_start."`
	Sort    string   `query:"sort" enum:"date,key,provider,model,project,requests,prompt_tokens,completion_tokens,cached_tokens,reasoning_tokens,cost,market_cost,savings" doc:"What groups are sorted by; if absent, by date, or without dates by cost."`
	Order   string   `query:"order" enum:"asc,desc" doc:"If absent, asc for dates and names, desc for numbers."`
	Limit   int      `query:"limit" minimum:"1" maximum:"10000" doc:"The most groups to answer. The rest is summed up in one more group, other."`
}

// usageGroup is the part of usage that is alike in what it is grouped by.
type usageGroup struct {
	Key   groupKey   `json:"key" doc:"What the requests have in common: the fields of group_by. Empty for other."`
	Start *time.Time `json:"start" doc:"When the date begins, in the time zone of the request; null without dates."`
	Other bool       `json:"other" doc:"This is the sum of all groups beyond the limit."`
	totals
}

type groupKey struct {
	Date     *string  `json:"date,omitempty" doc:"The first day of a day, week or month, such as 2026-11-01; the start of an hour."`
	Key      *keyName `json:"key,omitempty"`
	Provider *string  `json:"provider,omitempty"`
	Model    *string  `json:"model,omitempty"`
	Project  *string  `json:"project,omitempty" doc:"Empty for requests of no project."`
}

type keyName struct {
	ID   string `json:"id"`
	Name string `json:"name" doc:"The name that the key has now; empty if there is no such key."`
}

// sortColumns are what groups are sorted by, smallest first.
var sortColumns = map[string]func(a, b billing.UsageGroup) int{
	"date": func(a, b billing.UsageGroup) int { return a.Start.Compare(b.Start) },
	"key": func(a, b billing.UsageGroup) int {
		return cmp.Or(strings.Compare(a.KeyName, b.KeyName), strings.Compare(a.KeyID, b.KeyID))
	},
	"provider":          func(a, b billing.UsageGroup) int { return strings.Compare(a.Provider, b.Provider) },
	"model":             func(a, b billing.UsageGroup) int { return strings.Compare(a.Model, b.Model) },
	"project":           func(a, b billing.UsageGroup) int { return strings.Compare(a.Project, b.Project) },
	"requests":          func(a, b billing.UsageGroup) int { return cmp.Compare(a.Requests, b.Requests) },
	"prompt_tokens":     func(a, b billing.UsageGroup) int { return cmp.Compare(a.PromptTokens, b.PromptTokens) },
	"completion_tokens": func(a, b billing.UsageGroup) int { return cmp.Compare(a.CompletionTokens, b.CompletionTokens) },
	"cached_tokens":     func(a, b billing.UsageGroup) int { return cmp.Compare(a.CachedTokens, b.CachedTokens) },
	"reasoning_tokens":  func(a, b billing.UsageGroup) int { return cmp.Compare(a.ReasoningTokens, b.ReasoningTokens) },
	"cost":              func(a, b billing.UsageGroup) int { return cmp.Compare(a.Cost, b.Cost) },
	"market_cost":       func(a, b billing.UsageGroup) int { return cmp.Compare(a.MarketCost, b.MarketCost) },
	"savings":           func(a, b billing.UsageGroup) int { return cmp.Compare(a.MarketCost-a.Cost, b.MarketCost-b.Cost) },
}

// dimensions are the values of group_by.
var dimensions = []string{"date", "key", "provider", "model", "project"}

// check finds what the parameters of one request contradict each other in.
func (b Breakdown) check() error {
	var f faults
	if slices.Contains(dimensions, b.Sort) && !slices.Contains(b.GroupBy, b.Sort) {
		f.add("query.sort", fmt.Sprintf("expected group_by to have %s, or to sort by a sum", b.Sort))
	}
	return f.err()
}

func (b Breakdown) tooManyGroups() error {
	var f faults
	location, advice := "query.group_by", "use filters, a shorter span or one group_by"
	if slices.Contains(b.GroupBy, string(billing.ByDate)) {
		location, advice = "query.interval", "use a longer interval, a shorter span or filters"
	}
	f.add(location, fmt.Sprintf("there are more than %d groups: %s", billing.MaxUsageGroups, advice))
	return f.err()
}

// groups sorts the groups, and sums up those beyond the limit.
func (b Breakdown) groups(found []billing.UsageGroup) []usageGroup {
	b.sort(found)
	if b.Limit == 0 || len(found) <= b.Limit {
		return mapped(found, b.newGroup)
	}
	var rest billing.Totals
	for _, g := range found[b.Limit:] {
		rest = rest.Plus(g.Totals) // does not overflow: the sum of all does not
	}
	return append(mapped(found[:b.Limit], b.newGroup), usageGroup{Other: true, totals: newTotals(rest)})
}

func (b Breakdown) sort(found []billing.UsageGroup) {
	by := b.Sort
	if by == "" {
		by = "cost"
		if slices.Contains(b.GroupBy, string(billing.ByDate)) {
			by = "date"
		}
	}
	order := b.Order
	if order == "" {
		order = "desc"
		if slices.Contains(dimensions, by) {
			order = "asc"
		}
	}
	column := sortColumns[by]
	slices.SortStableFunc(found, func(x, y billing.UsageGroup) int {
		if order == "desc" {
			return column(y, x)
		}
		return column(x, y)
	})
}

func (b Breakdown) newGroup(g billing.UsageGroup) usageGroup {
	out := usageGroup{totals: newTotals(g.Totals)}
	for _, by := range b.GroupBy {
		switch billing.Dimension(by) {
		case billing.ByDate:
			out.Start, out.Key.Date = &g.Start, new(b.date(g.Start))
		case billing.ByKey:
			out.Key.Key = &keyName{ID: g.KeyID, Name: g.KeyName}
		case billing.ByProvider:
			out.Key.Provider = &g.Provider
		case billing.ByModel:
			out.Key.Model = &g.Model
		case billing.ByProject:
			out.Key.Project = &g.Project
		}
	}
	return out
}

// date names a date. Of an hour it has the offset from UTC, too: one of the clock
// may come twice in a day.
func (b Breakdown) date(start time.Time) string {
	if billing.Interval(b.Every) == billing.Hour {
		return start.Format(time.RFC3339)
	}
	return start.Format(time.DateOnly)
}
