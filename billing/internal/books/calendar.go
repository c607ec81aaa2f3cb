package books

import (
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// calendar divides time into the dates of a grouping.
type calendar struct {
	interval billing.Interval
	zone     *time.Location
	week     billing.WeekStart
}

func newCalendar(g billing.Grouping) calendar {
	c := calendar{interval: g.Interval, zone: g.Zone, week: g.WeekStart}
	if c.interval == "" {
		c.interval = billing.Day
	}
	if c.zone == nil {
		c.zone = time.UTC
	}
	return c
}

// start returns when the date that contains t begins.
func (c calendar) start(t time.Time) time.Time {
	t = t.In(c.zone)
	if c.interval == billing.Hour {
		begun := t.Add(-sinceHour(t))
		// The clock may have been moved in this hour, to or from its middle.
		if moved, _ := t.ZoneBounds(); begun.Before(moved) {
			return moved
		}
		return begun
	}
	year, month, day := t.Date()
	switch c.interval {
	case billing.Week:
		const days = 7
		day -= int(t.Weekday()-c.week.Weekday()+days) % days
	case billing.Month:
		day = 1
	}
	return billing.StartOfDay(year, month, day, c.zone)
}

// next returns when the date ends that begins at start.
func (c calendar) next(start time.Time) time.Time {
	if c.interval == billing.Hour {
		end := start.Add(time.Hour - sinceHour(start))
		if _, moved := start.ZoneBounds(); !moved.IsZero() && moved.Before(end) {
			return moved
		}
		return end
	}
	year, month, day := start.Date()
	for {
		switch c.interval {
		case billing.Week:
			day += 7
		case billing.Month:
			month++
		default:
			day++
		}
		// A zone that has changed sides of the date line has lost a day.
		if end := billing.StartOfDay(year, month, day, c.zone); end.After(start) {
			return end
		}
	}
}

// sinceHour is how long ago a clock showed a whole hour.
func sinceHour(t time.Time) time.Duration {
	return time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
}
