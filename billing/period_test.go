package billing_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestPeriodsFollowEachOther(t *testing.T) {
	t.Parallel()
	day := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	for _, x := range []struct {
		period         billing.Period
		week           billing.WeekStart
		at, start, end time.Time
	}{
		{billing.Daily, "", day(2026, 11, 30).Add(24*time.Hour - 1), day(2026, 11, 30), day(2026, 12, 1)},
		{billing.Daily, billing.Monday, day(2028, 2, 29), day(2028, 2, 29), day(2028, 3, 1)},
		{billing.Weekly, "", day(2026, 11, 25), day(2026, 11, 22), day(2026, 11, 29)},
		{billing.Weekly, billing.Sunday, day(2026, 11, 29), day(2026, 11, 29), day(2026, 12, 6)},
		{billing.Weekly, billing.Monday, day(2026, 11, 29), day(2026, 11, 23), day(2026, 11, 30)},
		{billing.Weekly, billing.Monday, day(2026, 11, 30), day(2026, 11, 30), day(2026, 12, 7)},
		{billing.Weekly, billing.Saturday, day(2026, 11, 27), day(2026, 11, 21), day(2026, 11, 28)},
		{billing.Weekly, billing.Saturday, day(2026, 11, 28), day(2026, 11, 28), day(2026, 12, 5)},
		{billing.Weekly, billing.Monday, day(2024, 2, 29), day(2024, 2, 26), day(2024, 3, 4)}, // over a leap day
		{billing.Weekly, billing.Monday, day(2027, 1, 1), day(2026, 12, 28), day(2027, 1, 4)}, // over New Year
		{billing.Monthly, "", day(2026, 2, 28), day(2026, 2, 1), day(2026, 3, 1)},
		{billing.Monthly, "", day(2028, 2, 29), day(2028, 2, 1), day(2028, 3, 1)},
		{billing.Monthly, "", day(2100, 2, 28), day(2100, 2, 1), day(2100, 3, 1)}, // no leap year
		{billing.Monthly, "", day(2026, 12, 31), day(2026, 12, 1), day(2027, 1, 1)},
		// Still November in New York.
		{billing.Monthly, "", day(2026, 12, 1).In(time.FixedZone("New York", -5*3600)), day(2026, 12, 1), day(2027, 1, 1)},
		{billing.Never, "", day(2026, 11, 25), time.Unix(0, 0).UTC(), time.Time{}},
	} {
		got, want := [2]time.Time{x.period.Start(x.at, x.week), x.period.End(x.at, x.week)}, [2]time.Time{x.start, x.end}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (weeks from %s) of %s (-want +got):\n%s", x.period, x.week, x.at, diff)
		}
	}
}

// checkPeriod proves of an instant that it is in exactly one period, that the
// next one starts where this one ends, and that spend at that instant counts in
// it and in no other.
func checkPeriod(t *testing.T, at time.Time, p billing.Period, week billing.WeekStart) {
	t.Helper()
	start, end := p.Start(at, week), p.End(at, week)
	if p == billing.Never {
		if !start.Equal(time.Unix(0, 0)) || !end.IsZero() {
			t.Fatalf("never is from %s to %s", start, end)
		}
	} else if at.Before(start) || !at.Before(end) || !p.Start(end, week).Equal(end) || !p.End(end.Add(-1), week).Equal(end) ||
		!p.Start(end.Add(-1), week).Equal(start) || !p.Start(start, week).Equal(start) || p.Start(start.Add(-1), week).Equal(start) {
		t.Fatalf("%s, %s from %s, is from %s to %s", at, p, week, start, end)
	}
	if hour, minute, second := start.Clock(); hour+minute+second+start.Nanosecond() != 0 {
		t.Fatalf("%s: %s starts at %s", at, p, start)
	}
	budget := billing.BudgetOf("org", p, at, week)
	if !budget.Start.Equal(start) || !budget.End().Equal(end) {
		t.Fatalf("%s: allowance from %s to %s, period from %s to %s", at, budget.Start, budget.End(), start, end)
	}
	s := billing.Settlement{OrganizationID: "org", At: at, Cost: 1}
	spent := billing.Spent(slices.Values([]*billing.Settlement{&s}))
	if spent[budget] != 1 {
		t.Fatalf("%s: spend does not count in %+v", at, budget)
	}
	for a := range spent {
		if a.Kind == billing.Budget && a.Period == p && p != billing.Weekly && a != budget {
			t.Fatalf("%s: spend counts in %+v, too", at, a)
		}
	}
}

func TestEachInstantIsInOnePeriod(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		at := time.Unix(random.Int64N(8_000_000_000)-1_000_000_000, random.Int64N(1e9))
		if random.IntN(2) == 0 {
			at = at.Truncate(24 * time.Hour).Add(time.Duration(random.IntN(3) - 1))
		}
		for _, p := range billing.Periods {
			checkPeriod(t, at, p, billing.WeekStarts[random.IntN(len(billing.WeekStarts))])
		}
	}
}

func FuzzPeriods(f *testing.F) {
	for _, p := range billing.Periods {
		for _, w := range billing.WeekStarts {
			f.Add(string(p), string(w), time.Date(2028, 2, 29, 23, 59, 59, 999_999_999, time.UTC).UnixNano())
		}
	}
	f.Add("hourly", "friday", int64(-1))
	f.Fuzz(func(t *testing.T, period, week string, nanos int64) {
		p, err := billing.ParsePeriod(period)
		if known := slices.Contains(billing.Periods, billing.Period(period)); known != (err == nil) || known && string(p) != period {
			t.Fatalf("ParsePeriod(%q) = %q, %v", period, p, err)
		}
		w, weekErr := billing.ParseWeekStart(week)
		if known := slices.Contains(billing.WeekStarts, billing.WeekStart(week)); known != (weekErr == nil) || known && string(w) != week {
			t.Fatalf("ParseWeekStart(%q) = %q, %v", week, w, weekErr)
		}
		if err == nil && weekErr == nil {
			checkPeriod(t, time.Unix(0, nanos), p, w)
		}
	})
}
