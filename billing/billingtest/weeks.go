package billingtest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testWeeks(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"a week is the sum of its days, whatever day it starts on": sumsWeeks,
		"a limit counts in the organization's own weeks":           limitsWeeks,
		"without a choice weeks of all starts share the limit":     limitsAnyWeek,
		"requests at a boundary count in exactly one period":       splitsPeriods,
		"a new period counts what is leased of the one before":     overlappingPeriods,
	})
	t.Run("a period ends in the middle of concurrent requests", func(t *testing.T) {
		t.Parallel()
		crossesABoundary(t, openNodes(t, open))
	})
}

func weekOf(at time.Time, week billing.WeekStart, amount billing.Money) billing.Lease {
	return billing.Lease{Allowance: billing.BudgetOf(org, billing.Weekly, at, week), Amount: amount}
}

func setWeek(t *testing.T, s billing.Store, week billing.WeekStart) {
	t.Helper()
	_, err := s.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
		o.WeekStart = week
		return nil
	})
	check(t, err)
}

// spendThreeWeeks spends 1, 2, 4, ... dollars on the days from Monday the 9th to
// Wednesday the 25th, and returns what was spent from one day to before another.
func spendThreeWeeks(t *testing.T, s billing.Store) func(from, to int) billing.Money {
	t.Helper()
	for day := 9; day <= 25; day++ {
		at := time.Date(2026, 11, day, 23, 59, 59, 999_999_000, time.UTC)
		if day%2 == 0 {
			at = at.Truncate(24 * time.Hour)
		}
		post(t, s, node, settlementAt(day, at, usd<<(day-9)))
	}
	return func(from, to int) (sum billing.Money) {
		for day := max(9, from); day < min(to, 26); day++ {
			sum += usd << (day - 9)
		}
		return sum
	}
}

func sumsWeeks(t *testing.T, s billing.Store) {
	between := spendThreeWeeks(t, s)
	for week, first := range map[billing.WeekStart]int{billing.Sunday: 8, billing.Monday: 9, billing.Saturday: 7, "": 8} {
		for from := first; from < 26; from += 7 {
			at := time.Date(2026, 11, from+3, 12, 0, 0, 0, time.UTC)
			got, err := s.Spend(t.Context(), []billing.Allowance{weekOf(at, week, 0).Allowance})
			check(t, err)
			equal(t, "spend of the week from "+string(week)+" around "+at.Format(time.DateOnly), got[0], between(from, from+7))
		}
	}
	balanced(t, s)
}

func limitsWeeks(t *testing.T, s billing.Store) {
	between := spendThreeWeeks(t, s)
	limit := between(0, 30) + usd
	setBudget(t, s, pointer(limit), billing.Weekly)
	for _, own := range billing.WeekStarts {
		setWeek(t, s, own)
		for _, week := range billing.WeekStarts {
			start := billing.Weekly.Start(noon, week)
			room := limit - between(start.Day(), start.Day()+7)
			if week != own {
				room = 0
			}
			granted := lease(t, s, node, weekOf(noon, week, limit))
			equal(t, "granted from "+string(week)+" where weeks start on "+string(own), granted, []billing.Lease{weekOf(noon, week, room)})
			check(t, s.Return(t.Context(), node, granted))
		}
	}
	balanced(t, s)
}

func limitsAnyWeek(t *testing.T, s billing.Store) {
	setBudget(t, s, pointer(9*usd), billing.Weekly)
	want := []billing.Lease{weekOf(noon, billing.Sunday, 3*usd), weekOf(noon, billing.Monday, 4*usd), weekOf(noon, billing.Saturday, 4*usd)}
	granted := lease(t, s, node, want...)
	want[2].Amount = 2 * usd // is what the others leave
	equal(t, "granted", granted, want)
	post(t, s, node, settlement(1, 2*usd)) // comes out of all that there is
	equal(t, "leases", leasesOf(t, s, node), []billing.Lease{
		weekOf(noon, billing.Sunday, usd), weekOf(noon, billing.Monday, 2*usd),
	})
	for _, week := range billing.WeekStarts {
		granted := lease(t, s, "node_2", weekOf(noon, week, 9*usd))
		equal(t, "room from "+string(week), granted[0].Amount, 4*usd)
		check(t, s.Return(t.Context(), "node_2", granted))
	}
	next := lease(t, s, "node_2", weekOf(noon.AddDate(0, 0, 7), billing.Sunday, 9*usd))
	equal(t, "room of the next week, where the first has ended", next[0].Amount, 7*usd)
	balanced(t, s)
}

// overlappingPeriods counts what is leased when a limit gets another period:
// what is spent of it counts there, too.
func overlappingPeriods(t *testing.T, s billing.Store) {
	for _, old := range billing.Periods {
		for _, p := range billing.Periods {
			setBudget(t, s, pointer(5*usd), old)
			lease(t, s, node, budget(old, 3*usd))
			setBudget(t, s, pointer(5*usd), p)
			equal(t, fmt.Sprintf("room beside a lease of %s in %s", old, p), lease(t, s, "node_2", budget(p, 9*usd))[0].Amount, 2*usd)
			check(t, s.ReturnAll(t.Context(), node))
			check(t, s.ReturnAll(t.Context(), "node_2"))
		}
	}
	setBudget(t, s, pointer(5*usd), billing.Daily)
	lease(t, s, node, budget(billing.Daily, 3*usd))
	setBudget(t, s, pointer(5*usd), billing.Weekly)
	next := billing.Lease{Allowance: billing.BudgetOf(org, billing.Weekly, noon.AddDate(0, 0, 7), billing.Sunday), Amount: 9 * usd}
	equal(t, "room in a week that does not have the day", lease(t, s, "node_2", next)[0].Amount, 5*usd)
	balanced(t, s)
}

// splitsPeriods books a request in the last moment of a period and one in the
// first of the next, for periods of all kinds that end in some odd places.
func splitsPeriods(t *testing.T, s billing.Store) {
	for i, boundary := range []struct {
		period billing.Period
		week   billing.WeekStart
		at     time.Time
	}{
		{billing.Daily, billing.Sunday, time.Date(2032, 2, 29, 0, 0, 0, 0, time.UTC)},
		{billing.Monthly, billing.Sunday, time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC)},
		{billing.Monthly, billing.Sunday, time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)},
		{billing.Weekly, billing.Monday, time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)},
		{billing.Weekly, billing.Sunday, time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)},
		{billing.Weekly, billing.Saturday, time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		post(t, s, node,
			settlementAt(2*i, boundary.at.Add(-time.Microsecond), usd), settlementAt(2*i+1, boundary.at, 2*usd))
		got, err := s.Spend(t.Context(), []billing.Allowance{
			billing.BudgetOf(org, boundary.period, boundary.at.Add(-time.Nanosecond), boundary.week),
			billing.BudgetOf(org, boundary.period, boundary.at, boundary.week),
		})
		check(t, err)
		equal(t, string(boundary.period)+" before and after "+boundary.at.String(), got, []billing.Money{usd, 2 * usd})
	}
	balanced(t, s)
}

// crossesABoundary sends 1,000 requests from all nodes at once, half of them
// before the end of a week and half after: both weeks have the whole limit.
func crossesABoundary(t *testing.T, stores [nodes]billing.Store) {
	const requests, limit = 1000, 300 * usd
	monday := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	setWeek(t, stores[0], billing.Monday)
	putProject(t, stores[0], "search", pointer(limit), billing.Weekly)
	inWeek := func(at time.Time) billing.Allowance {
		a := weekOf(at, billing.Monday, 0).Allowance
		a.Kind, a.Subject = billing.ProjectBudget, "search"
		return a
	}
	var sent, before, after atomic.Int64
	each(func(n, worker int) {
		name := fmt.Sprintf("worker_%d", worker)
		for i := int(sent.Add(1)) - 1; i < requests; i = int(sent.Add(1)) - 1 {
			at := monday.Add(time.Duration(i-requests/2) * time.Microsecond)
			granted, err := stores[n].Lease(t.Context(), name, needs(billing.Lease{Allowance: inWeek(at), Amount: usd}))
			if err != nil {
				t.Error(err)
				return
			}
			if granted[0].Amount < usd {
				continue // refused
			}
			if _, err := stores[n].Post(t.Context(), name, []billing.Settlement{settlementAt(i, at, usd)}); err != nil {
				t.Error(err)
				return
			}
			if at.Before(monday) {
				before.Add(int64(usd))
			} else {
				after.Add(int64(usd))
			}
		}
	})
	got, err := stores[0].Spend(t.Context(), []billing.Allowance{inWeek(monday.Add(-1)), inWeek(monday), inWeek(monday.AddDate(0, 0, 7))})
	check(t, err)
	equal(t, "spent before, after and in the week after that", got, []billing.Money{limit, limit, 0})
	equal(t, "served before and after", []int64{before.Load(), after.Load()}, []int64{int64(limit), int64(limit)})
	balanced(t, stores[0])
}
