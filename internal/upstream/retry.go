package upstream

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// firstPause and maxPause bound the pause before a retry: the first is at
	// most the one, and each of the next twice the one before up to the other.
	firstPause = 250 * time.Millisecond
	maxPause   = 4 * time.Second
)

// Retries is what is left of the retries of one request.
type Retries struct {
	left   int
	pauses *backoff.ExponentialBackOff // nil before the first
}

// NewRetries returns the retries of a request: n at most.
func NewRetries(n int) Retries { return Retries{left: n} }

// Left tells whether there is a retry left.
func (r *Retries) Left() bool { return r.left > 0 }

// Next takes one of the retries and returns how long to pause before it:
// somewhere between nothing and a bound that doubles, so that the retries of
// many requests that failed together do not come together; or what the provider
// has asked for, if that is not too long. It returns false if there is none
// left, or the provider wants to be left alone for longer.
func (r *Retries) Next(retryAfter time.Duration) (pause time.Duration, ok bool) {
	if r.left == 0 || retryAfter > maxPause {
		return 0, false
	}
	r.left--
	if r.pauses == nil {
		// Half the interval plus or minus all of it: from nothing to the bound.
		r.pauses = &backoff.ExponentialBackOff{
			InitialInterval: firstPause / 2, MaxInterval: maxPause / 2, Multiplier: 2, RandomizationFactor: 1,
		}
	}
	pause = min(r.pauses.NextBackOff(), maxPause)
	if retryAfter > 0 {
		pause = retryAfter
	}
	return pause, true
}

// NextAtOnce takes one of the retries without a pause: it goes to somebody
// else. It returns false if there is none left.
func (r *Retries) NextAtOnce() bool {
	if r.left == 0 {
		return false
	}
	r.left--
	return true
}

// RetryAfter is how long the provider wants to be left alone: what the header
// Retry-After-Ms says, or else Retry-After in seconds or as a date. It is 0 if
// neither says anything that can be understood.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	if d, ok := parseDelay(h.Get("Retry-After-Ms"), time.Millisecond); ok {
		return d
	}
	text := h.Get("Retry-After")
	if d, ok := parseDelay(text, time.Second); ok {
		return d
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// parseDelay reads a number of units, which may have a fraction.
func parseDelay(text string, unit time.Duration) (time.Duration, bool) {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(n) || n < 0 {
		return 0, false
	}
	const most = 24 * time.Hour // beyond all that matters, and below overflow
	return time.Duration(min(n*float64(unit), float64(most))), true
}
