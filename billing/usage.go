package billing

import (
	"errors"
	"time"
)

// MaxUsageGroups is how many groups usage is divided into at most.
const MaxUsageGroups = 10_000

// ErrTooManyGroups says that usage would have more than MaxUsageGroups groups.
var ErrTooManyGroups = errors.New("too many groups")

// Dimension is what usage is grouped by.
type Dimension string

// The dimensions of usage.
const (
	ByDate     Dimension = "date"
	ByKey      Dimension = "key"
	ByProvider Dimension = "provider"
	ByModel    Dimension = "model"
	ByProject  Dimension = "project"
)

// Interval is how long the dates are that usage is grouped by.
type Interval string

// The intervals of dates.
const (
	Hour  Interval = "hour"
	Day   Interval = "day"
	Week  Interval = "week"
	Month Interval = "month"
)

// Grouping says how usage is grouped.
type Grouping struct {
	// By are the dimensions, each at most once. Without any there are no groups.
	By []Dimension
	// Interval is how long dates are; "" is a day.
	Interval Interval
	// Zone is where dates begin and end; nil is UTC.
	Zone *time.Location
	// WeekStart is the day that weeks start on.
	WeekStart WeekStart
}

// UsageGroup is the sum of the requests that are alike in the dimensions of a
// grouping. What it is not grouped by has its zero value.
type UsageGroup struct {
	// Start is when the date begins, in the zone of the grouping.
	Start time.Time
	KeyID string
	// KeyName is the name that the key has now; "" if it is unknown.
	KeyName  string
	Provider string
	Model    string
	Project  string
	Totals
}

// Usage is what requests used and cost.
type Usage struct {
	// From and To are the time that is summed up, From inclusive and To
	// exclusive: that of the filter, or where there are no rows for so long ago
	// any more, the quarters of hours at or before it. The zero time is an open end.
	From, To time.Time
	Totals
	// Groups sum to the totals. They are in the order of their dates and names.
	// Grouped by date alone, there is one for each date from the first to the
	// last of the filter's, or of the requests' where it has an open end.
	Groups []UsageGroup
}

// StartOfDay returns the first moment of a day. That is not always midnight:
// where clocks are moved at midnight, there may be two of them, or none.
func StartOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	noon := time.Date(year, month, day, 12, 0, 0, 0, zone)
	midnight := func(offset int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Add(-time.Duration(offset) * time.Second).In(zone)
	}
	_, offset := noon.Zone()
	moved, _ := noon.ZoneBounds()
	if moved.IsZero() {
		return midnight(offset)
	}
	_, before := moved.Add(-1).Zone()
	if first := midnight(before); first.Before(moved) {
		return first
	}
	if first := midnight(offset); first.After(moved) {
		return first
	}
	return moved
}
