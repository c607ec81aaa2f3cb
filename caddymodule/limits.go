package caddymodule

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// rateWindows counts requests in calendar minutes.
type rateWindows struct {
	mu      sync.Mutex
	windows map[string]*rateWindow
}

type rateWindow struct {
	minute int64
	count  int64
}

func newRateWindows() *rateWindows {
	return &rateWindows{windows: make(map[string]*rateWindow)}
}

// rate is the outcome of counting one request.
type rate struct {
	limit, remaining int64
	reset            time.Time
	allowed          bool
}

// show puts the rate on an answer.
func (r rate) show(h http.Header) {
	h.Set("X-RateLimit-Limit", strconv.FormatInt(r.limit, 10))
	h.Set("X-RateLimit-Remaining", strconv.FormatInt(r.remaining, 10))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(r.reset.Unix(), 10))
}

// take counts a request against a limit in the minute of now, unless that
// minute is used up. A request that comes late, because its body was slow,
// counts in the minute that the others have reached.
func (r *rateWindows) take(id string, limit int64, now time.Time) rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.windows[id]
	if w == nil {
		w = &rateWindow{}
		r.windows[id] = w
	}
	if minute := now.Unix() / 60; w.minute < minute {
		w.minute, w.count = minute, 0
	}
	allowed := w.count < limit
	if allowed {
		w.count++
	}
	return w.rate(limit, allowed)
}

// look returns what is left of a limit in the minute of now.
func (r *rateWindows) look(id string, limit int64, now time.Time) rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := rateWindow{minute: now.Unix() / 60}
	if current := r.windows[id]; current != nil && current.minute >= w.minute {
		w = *current
	}
	return w.rate(limit, w.count < limit)
}

func (w *rateWindow) rate(limit int64, allowed bool) rate {
	return rate{limit: limit, remaining: max(0, limit-w.count), reset: time.Unix((w.minute+1)*60, 0), allowed: allowed}
}

// sweep forgets windows that have ended.
func (r *rateWindows) sweep(now time.Time) {
	minute := now.Unix() / 60
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, w := range r.windows {
		if w.minute < minute {
			delete(r.windows, id)
		}
	}
}
