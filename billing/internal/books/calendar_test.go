package books

import (
	"testing"
	"time"
	_ "time/tzdata" // not every machine has zones

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestDatesBeginWhereTheZoneSays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		zone     string
		interval billing.Interval
		at       string
		want     []string // the starts of the date of at and of those after it
	}{
		"days in UTC": {"UTC", billing.Day, "2026-02-28T23:59:59Z", []string{
			"2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z",
		}},
		"a day of 23 hours": {"Europe/Berlin", billing.Day, "2026-03-29T12:00:00Z", []string{
			"2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00",
		}},
		"a day of 25 hours": {"Europe/Berlin", billing.Day, "2026-10-25T12:00:00Z", []string{
			"2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00",
		}},
		"a day of 23 hours, off by 45 minutes": {"Pacific/Chatham", billing.Day, "2026-09-26T18:00:00Z", []string{
			"2026-09-27T00:00:00+12:45", "2026-09-28T00:00:00+13:45",
		}},
		"a day of 24 and a half hours": {"Australia/Lord_Howe", billing.Day, "2026-04-04T18:00:00Z", []string{
			"2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30",
		}},
		"a day without midnight": {"America/Sao_Paulo", billing.Day, "2018-11-04T12:00:00Z", []string{
			"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00",
		}},
		"a day before one without midnight": {"America/Sao_Paulo", billing.Day, "2018-11-03T12:00:00Z", []string{
			"2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00",
		}},
		"a day whose last hour is twice": {"America/Sao_Paulo", billing.Day, "2018-02-18T02:30:00Z", []string{
			"2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00",
		}},
		"a day with two midnights": {"America/Havana", billing.Day, "2026-11-01T12:00:00Z", []string{
			"2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00",
		}},
		"a day that never was": {"Pacific/Apia", billing.Day, "2011-12-30T00:00:00Z", []string{
			"2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00",
		}},
		"days off by half an hour": {"Asia/Kolkata", billing.Day, "2026-11-01T18:29:59Z", []string{
			"2026-11-01T00:00:00+05:30", "2026-11-02T00:00:00+05:30",
		}},
		"weeks": {"Europe/Berlin", billing.Week, "2026-10-24T12:00:00Z", []string{
			"2026-10-19T00:00:00+02:00", "2026-10-26T00:00:00+01:00", "2026-11-02T00:00:00+01:00",
		}},
		"months": {"America/New_York", billing.Month, "2026-12-31T12:00:00Z", []string{
			"2026-12-01T00:00:00-05:00", "2027-01-01T00:00:00-05:00", "2027-02-01T00:00:00-05:00",
		}},
		"an hour that is twice": {"Europe/Berlin", billing.Hour, "2026-10-25T00:30:00Z", []string{
			"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00",
		}},
		"hours off by 45 minutes": {"Asia/Kathmandu", billing.Hour, "2026-11-01T00:20:00Z", []string{
			"2026-11-01T06:00:00+05:45", "2026-11-01T07:00:00+05:45",
		}},
		"a clock that is moved by half an hour": {"Australia/Lord_Howe", billing.Hour, "2026-10-03T15:15:00Z", []string{
			"2026-10-04T01:00:00+10:30", "2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00",
		}},
		"a clock that is moved back by half an hour": {"Australia/Lord_Howe", billing.Hour, "2026-04-04T14:15:00Z", []string{
			"2026-04-05T01:00:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone, err := time.LoadLocation(test.zone)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(time.RFC3339, test.at)
			if err != nil {
				t.Fatal(err)
			}
			c := newCalendar(billing.Grouping{Interval: test.interval, Zone: zone, WeekStart: billing.Monday})
			var got []string
			for start := c.start(at); len(got) < len(test.want); start = c.next(start) {
				got = append(got, start.Format(time.RFC3339))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("starts of dates (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever happened to a zone's clocks, each moment is in one date, and dates
// follow each other.
func TestDatesFollowEachOther(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Africa/Cairo", "Atlantic/Azores",
		"Pacific/Apia", "Pacific/Kwajalein", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Monrovia", "Asia/Gaza", "Pacific/Chatham",
	} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, interval := range []billing.Interval{billing.Day, billing.Week, billing.Month} {
			c := newCalendar(billing.Grouping{Interval: interval, Zone: zone})
			start := c.start(time.Unix(0, 0))
			for start.Year() < 2030 {
				next := c.next(start)
				for _, at := range []time.Time{start, start.Add(time.Hour), next.Add(-time.Hour), next.Add(-1)} {
					if got := c.start(at); !got.Equal(start) {
						t.Errorf("%s in %s: the date of %s begins at %s, want %s", interval, name, at, got, start)
					}
				}
				if days := next.Sub(start); interval == billing.Day && (days < 20*time.Hour || days > 28*time.Hour) {
					t.Errorf("%s: a day lasts from %s to %s", name, start, next)
				}
				start = next
			}
		}
	}
}
