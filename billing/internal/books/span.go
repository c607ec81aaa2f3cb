package books

import (
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// DefaultPage is how many elements a page without a limit has.
const DefaultPage = 100

// PageLimit returns how many elements to return for a page.
func PageLimit(p billing.Page) int {
	if p.Limit <= 0 {
		return DefaultPage
	}
	return p.Limit
}

// All times that stores keep lie within Always.
var Always = Span{From: time.Time{}, To: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}

// Span is a range of time, From inclusive and To exclusive.
type Span struct{ From, To time.Time }

// SpanOf returns the time that a filter selects, in whole microseconds as rows
// have them.
func SpanOf(f billing.Filter) Span {
	s := Always
	if f.From.After(s.From) {
		s.From = ceil(f.From.UTC(), time.Microsecond)
	}
	if !f.To.IsZero() && f.To.Before(s.To) {
		s.To = ceil(f.To.UTC(), time.Microsecond)
	}
	return s
}

// RequestIDs returns the range of ids, the first inclusive and the second
// exclusive, that the requests of the span have: not they alone, as ids know
// the time to the millisecond only.
func (s Span) RequestIDs() (from, to string) {
	to = AfterAllIDs
	if s.From.After(Always.From) {
		from = billing.IDFloor(billing.RequestIDPrefix, s.From)
	}
	if s.To.Before(Always.To) {
		to = billing.IDFloor(billing.RequestIDPrefix, s.To.Add(time.Millisecond))
	}
	return from, to
}

// AfterAllIDs sorts after every id.
const AfterAllIDs = "\U0010FFFF"

func (s Span) contains(t time.Time) bool { return !t.Before(s.From) && t.Before(s.To) }

// Missing says why there is no request of an id: it may be too old.
func Missing(id, firstKept string) error {
	if id < firstKept {
		return fmt.Errorf("%w: %w", billing.ErrNotFound, billing.ErrNotKept)
	}
	return billing.ErrNotFound
}

func ceil(t time.Time, unit time.Duration) time.Time {
	down := t.Truncate(unit)
	if down.Equal(t) {
		return down
	}
	return down.Add(unit)
}
