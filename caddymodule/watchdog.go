package caddymodule

import (
	"errors"
	"math"
	"sync"
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
	setting sync.Mutex   // or an older setting of the timer might come last
	limit   atomic.Int64 // of silence, a time.Duration
	since   atomic.Int64 // when the waiting began; notWaiting if nobody waits
	until   atomic.Int64 // how long it is drained
}

const notWaiting = -1

// start watches the attempt, which waits from now on.
func (w *watchdog) start(a *attempt, limit time.Duration) {
	w.attempt = a
	w.limit.Store(int64(limit))
	w.since.Store(int64(a.began))
	w.until.Store(math.MaxInt64)
	// It must not go off before it is assigned.
	w.timer = time.AfterFunc(math.MaxInt64, w.look)
	w.timer.Reset(min(limit, w.rest(a.began)))
}

// patience changes the limit.
func (w *watchdog) patience(limit time.Duration) {
	w.setting.Lock()
	defer w.setting.Unlock()
	w.limit.Store(int64(limit))
	w.timer.Reset(min(limit, w.rest(w.attempt.call.elapsed())))
}

// drain bounds what is left of an attempt whose client has left.
func (w *watchdog) drain() {
	w.setting.Lock()
	defer w.setting.Unlock()
	c := w.attempt.call
	now := c.elapsed()
	w.until.Store(int64(now) + int64(c.app.Drain))
	w.timer.Reset(max(0, w.rest(now)))
}

// rest is how long the attempt may still take in all.
func (w *watchdog) rest(now time.Duration) time.Duration {
	end := min(time.Duration(w.attempt.provider.TotalTimeout), time.Duration(w.until.Load()))
	return end - now
}

// waitFrom notes that somebody waits since then, and waitNot that nobody does.
func (w *watchdog) waitFrom(t time.Duration) { w.since.Store(int64(t)) }
func (w *watchdog) waitNot()                 { w.since.Store(notWaiting) }

// look gives the attempt up, or looks again when that may be due.
func (w *watchdog) look() {
	if w.attempt.ctx.Err() != nil {
		return
	}
	w.setting.Lock()
	defer w.setting.Unlock()
	now := w.attempt.call.elapsed()
	left := time.Duration(w.limit.Load())
	if since := w.since.Load(); since != notWaiting {
		left -= now - time.Duration(since)
	}
	left = min(left, w.rest(now))
	switch {
	case left > 0:
		w.timer.Reset(left)
	case now >= time.Duration(w.until.Load()):
		w.attempt.cancel(nil) // the client has left, and this was enough
	default:
		w.attempt.cancel(errTimedOut)
	}
}
