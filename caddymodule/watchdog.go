package caddymodule

import (
	"errors"
	"math"
	"sync/atomic"
	"time"
)

// errTimedOut is why an attempt was given up that took too long.
var errTimedOut = errors.New("timed out")

// watchdog gives up an attempt when the provider is silent for too long, or
// does not come to an end. Silence counts only while somebody waits: a client
// that takes its time is not the provider's fault.
//
// The timer is not set anew with each read. It looks when it goes off how long
// there is still to wait.
type watchdog struct {
	attempt *attempt
	timer   *time.Timer
	limit   atomic.Int64 // of silence, a time.Duration
	since   atomic.Int64 // when the waiting began; notWaiting if nobody waits
}

const notWaiting = -1

// start watches the attempt, which waits from now on.
func (w *watchdog) start(a *attempt, limit time.Duration) {
	w.attempt = a
	w.limit.Store(int64(limit))
	w.since.Store(int64(a.began))
	// It must not go off before it is assigned.
	w.timer = time.AfterFunc(math.MaxInt64, w.look)
	w.timer.Reset(min(limit, w.rest(a.began)))
}

// patience changes the limit.
func (w *watchdog) patience(limit time.Duration) {
	w.limit.Store(int64(limit))
	w.timer.Reset(min(limit, w.rest(w.attempt.call.elapsed())))
}

// rest is how long the request may still take in all.
func (w *watchdog) rest(now time.Duration) time.Duration {
	return time.Duration(w.attempt.provider.TotalTimeout) - now
}

// waitFrom notes that somebody waits since then, and waitNot that nobody does.
func (w *watchdog) waitFrom(t time.Duration) { w.since.Store(int64(t)) }
func (w *watchdog) waitNot()                 { w.since.Store(notWaiting) }

// look gives the attempt up, or looks again when that may be due.
func (w *watchdog) look() {
	if w.attempt.ctx.Err() != nil {
		return
	}
	now := w.attempt.call.elapsed()
	left := time.Duration(w.limit.Load())
	if since := w.since.Load(); since != notWaiting {
		left -= now - time.Duration(since)
	}
	left = min(left, w.rest(now))
	if left <= 0 {
		w.attempt.cancel(errTimedOut)
		return
	}
	w.timer.Reset(left)
}
