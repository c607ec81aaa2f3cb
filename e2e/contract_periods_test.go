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
	period string
	// start and end of the period of a day; nil for one without.
	start, end func(day time.Time) time.Time
}{
	{"daily", sameDay, daysLater(1)},
	{"weekly", lastSunday, sundayAfter},
	{"monthly", firstOfMonth, firstOfNextMonth},
	{"never", nil, nil},
}

func sameDay(day time.Time) time.Time { return day }

func daysLater(n int) func(time.Time) time.Time {
	return func(day time.Time) time.Time { return day.AddDate(0, 0, n) }
}

func lastSunday(day time.Time) time.Time {
	for day.Weekday() != time.Sunday {
		day = day.AddDate(0, 0, -1)
	}
	return day
}

func sundayAfter(day time.Time) time.Time { return lastSunday(day).AddDate(0, 0, 7) }

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

// testPeriods spends something in each period, and reads it off the budget and
// the key.
func (c *contract) testPeriods(t *testing.T) {
	for _, tt := range periods {
		t.Run(tt.period, func(t *testing.T) {
			t.Parallel()
			for {
				today := time.Now().UTC().Truncate(24 * time.Hour)
				got, cost := c.spendIn(t, tt.period)
				if !time.Now().UTC().Truncate(24 * time.Hour).Equal(today) {
					continue // another day has begun, and with it another period, perhaps
				}
				want := budgetAnswer{Period: tt.period, SpentNanos: cost}
				if tt.start != nil {
					want.PeriodStart, want.PeriodEnd = new(tt.start(today)), new(tt.end(today))
				}
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("budget (-want +got):\n%s", diff)
				}
				return
			}
		})
	}
}

// spendIn makes one request under a budget and a key's limit of this period,
// and returns the budget and what the request cost. The key must have spent the
// same.
func (c *contract) spendIn(t *testing.T, period string) (got budgetAnswer, cost int64) {
	t.Helper()
	a, err := c.ask(t.Context(), goodRequests["gemini"], situation{
		organization: fields{"period": period, "max_dollars": 10},
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
	g.must(t, http.MethodGet, "/v1/budget", nil, &got)
	return got, cost
}
