package billing

import (
	"fmt"
	"iter"
	"time"
)

// Period is how often a limit starts anew. All periods are in UTC.
type Period string

const (
	Daily   Period = "daily"   // from 00:00
	Weekly  Period = "weekly"  // from Sunday 00:00
	Monthly Period = "monthly" // from the 1st 00:00
	Never   Period = "never"   // cumulative
)

// Periods are all periods. A store keeps settled spend for each of them, so
// that a limit may be set or changed at any time and be exact at once.
var Periods = []Period{Daily, Weekly, Monthly, Never}

// ParsePeriod reads a period's name.
func ParsePeriod(s string) (Period, error) {
	switch p := Period(s); p {
	case Daily, Weekly, Monthly, Never:
		return p, nil
	}
	return "", fmt.Errorf("unknown period %q: use daily, weekly, monthly or never", s)
}

// Start returns the start of the period that contains t; the Unix epoch for
// Never.
func (p Period) Start(t time.Time) time.Time {
	t = t.UTC()
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch p {
	case Daily:
		return day
	case Weekly:
		return day.AddDate(0, 0, -int(day.Weekday()))
	case Monthly:
		return day.AddDate(0, 0, 1-day.Day())
	default:
		return time.Unix(0, 0).UTC()
	}
}

// End returns the end of the period that contains t, which is the start of the
// next one; the zero time for Never.
func (p Period) End(t time.Time) time.Time {
	start := p.Start(t)
	switch p {
	case Daily:
		return start.AddDate(0, 0, 1)
	case Weekly:
		return start.AddDate(0, 0, 7)
	case Monthly:
		return start.AddDate(0, 1, 0)
	default:
		return time.Time{}
	}
}

// AllowanceKind is what an allowance limits.
type AllowanceKind string

const (
	// Credits of an organization: what it has paid for.
	Credits AllowanceKind = "credits"
	// Budget of an organization: what it wants to spend in a period.
	Budget AllowanceKind = "budget"
	// KeySpend of one proxy key in a period.
	KeySpend AllowanceKind = "key"
)

// Allowance names a limit in one period. Nothing is ever reset: the next
// period is another allowance.
type Allowance struct {
	OrganizationID string
	Kind           AllowanceKind
	// KeyID is set for KeySpend.
	KeyID  string
	Period Period
	// Start of the period, as Period.Start returns it.
	Start time.Time
}

// CreditsOf is the allowance of an organization's credits.
func CreditsOf(org string) Allowance {
	return Allowance{OrganizationID: org, Kind: Credits, Period: Never, Start: Never.Start(time.Time{})}
}

// BudgetOf is the allowance of an organization's budget in the period that
// contains t.
func BudgetOf(org string, p Period, t time.Time) Allowance {
	return Allowance{OrganizationID: org, Kind: Budget, Period: p, Start: p.Start(t)}
}

// Spent sums what settlements cost in each allowance that they count in, be
// there a limit or not: the organization's credits, and budget and key spend
// in the periods of their arrival.
func Spent(settlements iter.Seq[*Settlement]) map[Allowance]Money {
	type group struct {
		org, key string
		day      time.Time // no period begins within a day
	}
	days := make(map[group]Money, 1)
	for s := range settlements {
		if s.Cost > 0 {
			days[group{s.OrganizationID, s.KeyID, Daily.Start(s.At)}] += s.Cost
		}
	}
	sums := make(map[Allowance]Money, len(days)*(1+2*len(Periods)))
	for g, cost := range days {
		sums[CreditsOf(g.org)] += cost
		for _, p := range Periods {
			budget := BudgetOf(g.org, p, g.day)
			spend := budget
			spend.Kind, spend.KeyID = KeySpend, g.key
			sums[budget] += cost
			sums[spend] += cost
		}
	}
	return sums
}

// Lease is a part of an allowance that the store has handed to one node, for
// that node to spend without asking again.
type Lease struct {
	Allowance Allowance
	Amount    Money
}

// Want is what a node would like to lease of an allowance.
type Want struct {
	Allowance Allowance
	// Need is what its requests are short of now. It is granted as far as
	// there is room.
	Need Money
	// Ahead is for requests to come. Of what room there is after Need, no more
	// than a quarter is granted for it, so that nodes do not starve each other.
	Ahead Money
}

// Grant answers a Want.
type Grant struct {
	Lease
	// Elsewhere is what other nodes have leased of the allowance. They may
	// give some of it back.
	Elsewhere Money
}
