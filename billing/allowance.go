package billing

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// Period is how often a limit starts anew. All periods are in UTC.
type Period string

const (
	Daily   Period = "daily"   // from 00:00
	Weekly  Period = "weekly"  // from 00:00 of the day that weeks start on
	Monthly Period = "monthly" // from the 1st 00:00
	Never   Period = "never"   // cumulative
)

// Periods are all periods. What is settled is kept by day and for ever, of
// which all of them are made: a limit may be set or changed at any time, and is
// exact at once.
var Periods = []Period{Daily, Weekly, Monthly, Never}

// ParsePeriod reads a period's name.
func ParsePeriod(s string) (Period, error) {
	switch p := Period(s); p {
	case Daily, Weekly, Monthly, Never:
		return p, nil
	}
	return "", fmt.Errorf("unknown period %q: use daily, weekly, monthly or never", s)
}

// WeekStart is the day that a week begins on; "" is Sunday.
type WeekStart string

const (
	Sunday   WeekStart = "sunday"
	Monday   WeekStart = "monday"
	Saturday WeekStart = "saturday"
)

// WeekStarts are all days that a week may begin on.
var WeekStarts = []WeekStart{Sunday, Monday, Saturday}

// ParseWeekStart reads a day's name.
func ParseWeekStart(s string) (WeekStart, error) {
	if w := WeekStart(s); slices.Contains(WeekStarts, w) {
		return w, nil
	}
	return "", fmt.Errorf("unknown week start %q: use sunday, monday or saturday", s)
}

// Weekday returns the day.
func (w WeekStart) Weekday() time.Weekday {
	switch w {
	case Monday:
		return time.Monday
	case Saturday:
		return time.Saturday
	default:
		return time.Sunday
	}
}

// Start returns the start of the period that contains t; the Unix epoch for
// Never. Where weeks start matters to Weekly alone.
func (p Period) Start(t time.Time, week WeekStart) time.Time {
	t = t.UTC()
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch p {
	case Daily:
		return day
	case Weekly:
		const days = 7
		return day.AddDate(0, 0, -int(day.Weekday()-week.Weekday()+days)%days)
	case Monthly:
		return day.AddDate(0, 0, 1-day.Day())
	default:
		return time.Unix(0, 0).UTC()
	}
}

// End returns the end of the period that contains t, which is the start of the
// next one; the zero time for Never.
func (p Period) End(t time.Time, week WeekStart) time.Time { return p.next(p.Start(t, week)) }

// next returns the end of the period with this start.
func (p Period) next(start time.Time) time.Time {
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
	// ProjectBudget of the keys of one project in a period.
	ProjectBudget AllowanceKind = "project"
	// KeySpend of one proxy key in a period.
	KeySpend AllowanceKind = "key"
)

// Allowance names a limit in one period. Nothing is ever reset: the next
// period is another allowance.
type Allowance struct {
	OrganizationID string
	Kind           AllowanceKind
	// Subject is the key's id, or the project's name, that Kind is of; "" for
	// what is the organization's.
	Subject string
	Period  Period
	// Start of the period, as Period.Start returns it.
	Start time.Time
}

// CreditsOf is the allowance of an organization's credits.
func CreditsOf(org string) Allowance {
	return Allowance{OrganizationID: org, Kind: Credits, Period: Never, Start: Never.Start(time.Time{}, Sunday)}
}

// BudgetOf is the allowance of an organization's budget in the period that
// contains t.
func BudgetOf(org string, p Period, t time.Time, week WeekStart) Allowance {
	return Allowance{OrganizationID: org, Kind: Budget, Period: p, Start: p.Start(t, week)}
}

// SpendOf is the allowance that a key's spend counts against at the time t,
// limited or not: all time for a key without a period.
func SpendOf(k *Key, t time.Time, week WeekStart) Allowance {
	p := k.UsageLimitReset
	if p == "" {
		p = Never
	}
	return Allowance{
		OrganizationID: k.OrganizationID, Kind: KeySpend, Subject: k.ID, Period: p, Start: p.Start(t, week),
	}
}

// End returns the end of the allowance's period; the zero time for Never.
func (a Allowance) End() time.Time { return a.Period.next(a.Start) }

// ended tells whether the allowance's period is over.
func (a Allowance) ended(now time.Time) bool {
	end := a.End()
	return !end.IsZero() && !now.Before(end)
}

// Overlaps tells whether there is a time in the periods of both allowances.
func (a Allowance) Overlaps(b Allowance) bool {
	if a.Period == Never || b.Period == Never {
		return true
	}
	return a.Start.Before(b.End()) && b.Start.Before(a.End())
}

// Payer is whose spend an allowance limits, in whatever period.
type Payer struct {
	OrganizationID string
	Kind           AllowanceKind
	Subject        string
}

// Payer returns whose spend the allowance limits.
func (a Allowance) Payer() Payer { return Payer{a.OrganizationID, a.Kind, a.Subject} }

// contains tells whether t is in the allowance's period.
func (a Allowance) contains(t time.Time) bool {
	return a.Period == Never || !t.Before(a.Start) && !a.ended(t)
}

// Spent sums what settlements cost in each allowance that they count in, be
// there a limit or not: the organization's credits; and the spend of the
// organization, the project and the key in the periods of their arrival, with
// each day that weeks may start on.
func Spent(settlements iter.Seq[*Settlement]) map[Allowance]Money {
	type group struct {
		org, project, key string
		day               time.Time // no period begins within a day
	}
	days := make(map[group]Money, 1)
	for s := range settlements {
		if s.Cost > 0 {
			days[group{s.OrganizationID, s.Project, s.KeyID, Daily.Start(s.At, Sunday)}] += s.Cost
		}
	}
	sums := make(map[Allowance]Money, len(days)*(1+3*(len(Periods)+len(WeekStarts)-1)))
	for g, cost := range days {
		sums[CreditsOf(g.org)] += cost
		for _, p := range Periods {
			weeks := WeekStarts
			if p != Weekly {
				weeks = weeks[:1]
			}
			for _, week := range weeks {
				a := BudgetOf(g.org, p, g.day, week)
				sums[a] += cost
				a.Kind, a.Subject = KeySpend, g.key
				sums[a] += cost
				if g.project != "" {
					a.Kind, a.Subject = ProjectBudget, g.project
					sums[a] += cost
				}
			}
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
