package caddymodule

import (
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

// take counts a request against a limit in the minute of now, unless that
// minute is used up.
func (r *rateWindows) take(id string, limit int64, now time.Time) rate {
	minute := now.Unix() / 60
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.windows[id]
	if w == nil {
		w = &rateWindow{}
		r.windows[id] = w
	}
	if w.minute != minute {
		w.minute, w.count = minute, 0
	}
	allowed := w.count < limit
	if allowed {
		w.count++
	}
	return rate{limit: limit, remaining: max(0, limit-w.count), reset: time.Unix((minute+1)*60, 0), allowed: allowed}
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
