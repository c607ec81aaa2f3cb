package e2e

import (
	"net/http"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// periods are what limits may be for. They begin at 00:00 UTC, and end where
// the next one begins.
var periods = []struct {
	name   string
	budget fields
	// start and end of the period of a day; nil for one without.
	start, end func(day time.Time) time.Time
}{
	{"daily", fields{"period": "daily", "max_dollars": 10}, sameDay, nextDay},
	{"weekly", fields{"period": "weekly", "max_dollars": 10}, last(time.Sunday), next(time.Sunday)},
	{"weekly from Sunday", fields{"period": "weekly", "max_dollars": 10, "week_start": "sunday"}, last(time.Sunday), next(time.Sunday)},
	{"weekly from Monday", fields{"period": "weekly", "max_dollars": 10, "week_start": "monday"}, last(time.Monday), next(time.Monday)},
	{"weekly from Saturday", fields{"period": "weekly", "max_dollars": 10, "week_start": "saturday"}, last(time.Saturday), next(time.Saturday)},
	{"monthly", fields{"period": "monthly", "max_dollars": 10}, firstOfMonth, firstOfNextMonth},
	{"never", fields{"period": "never", "max_dollars": 10}, nil, nil},
}

func sameDay(day time.Time) time.Time { return day }

func nextDay(day time.Time) time.Time { return day.AddDate(0, 0, 1) }

// last is the day itself, or the last such day of the week before it.
func last(weekday time.Weekday) func(day time.Time) time.Time {
	return func(day time.Time) time.Time {
		for day.Weekday() != weekday {
			day = day.AddDate(0, 0, -1)
		}
		return day
	}
}

// next is the first such day of the week after the day.
func next(weekday time.Weekday) func(day time.Time) time.Time {
	return func(day time.Time) time.Time { return last(weekday)(day).AddDate(0, 0, 7) }
}

func firstOfMonth(day time.Time) time.Time {
	for day.Day() != 1 {
		day = day.AddDate(0, 0, -1)
	}
	return day
}

func firstOfNextMonth(day time.Time) time.Time { return firstOfMonth(day).AddDate(0, 1, 0) }

// budgetAnswer is what GET /v1/budget says.
type budgetAnswer struct {
	Period      string     `json:"period"`
	SpentNanos  int64      `json:"spent_nanos"`
	PeriodStart *time.Time `json:"period_start"`
	PeriodEnd   *time.Time `json:"period_end"`
}

// testPeriods spends something in each period, and reads it off the budgets of
// the organization and of a project, and off the key.
func (c *contract) testPeriods(t *testing.T) {
	for _, tt := range periods {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for {
				today := time.Now().UTC().Truncate(24 * time.Hour)
				got, cost := c.spendUnder(t, tt.budget)
				if !time.Now().UTC().Truncate(24 * time.Hour).Equal(today) {
					continue // another day has begun, and with it another period, perhaps
				}
				want := budgetAnswer{Period: tt.budget["period"].(string), SpentNanos: cost}
				if tt.start != nil {
					want.PeriodStart, want.PeriodEnd = new(tt.start(today)), new(tt.end(today))
				}
				if diff := gocmp.Diff([]budgetAnswer{want, want}, got); diff != "" {
					t.Errorf("budgets of the organization and the project (-want +got):\n%s", diff)
				}
				return
			}
		})
	}
}

// spendUnder makes one request under a budget, and a project's and a key's limit
// for the same period, and returns both budgets and what the request cost. The
// key must have spent the same.
func (c *contract) spendUnder(t *testing.T, budget fields) (got []budgetAnswer, cost int64) {
	t.Helper()
	period := budget["period"]
	a, err := c.ask(t.Context(), goodRequests["gemini"], situation{
		organization: budget,
		project:      fields{"period": period, "max_dollars": 10},
		key:          fields{"usage_limit_reset": period, "usage_limit_dollars": 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := c.healthy.as(a.organization)
	cost = g.mustAudit(t, a.header.Get("X-Request-Id")).CostNanos
	if a.status != http.StatusOK || cost == 0 {
		t.Fatalf("status %d, cost %d: %s", a.status, cost, a.body)
	}
	var keys list[struct {
		Reset      string `json:"usage_limit_reset"`
		SpendNanos int64  `json:"spend_nanos"`
	}]
	g.must(t, http.MethodGet, "/v1/keys", nil, &keys)
	if len(keys.Data) != 1 || keys.Data[0].Reset != period || keys.Data[0].SpendNanos != cost {
		t.Errorf("keys %+v, want one that has spent %d", keys.Data, cost)
	}
	got = make([]budgetAnswer, 2)
	g.must(t, http.MethodGet, "/v1/budget", nil, &got[0])
	g.must(t, http.MethodGet, "/v1/projects/"+projectName, nil, &got[1])
	return got, cost
}
