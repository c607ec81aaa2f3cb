package billing

import (
	"slices"
	"time"
)

// counter counts one quota, minute after minute.
type counter struct {
	quota   Quota // without a start
	allowed int64 // the limit, as the last request knew it
	// reached is the start of the minute that is counted in.
	reached time.Time
	// windows are that minute and those drawn ahead, in order.
	windows []*window
	// touched is when something was taken last.
	touched time.Time

	// taken in this second, and the most that was used at a time.
	taken, peak int64
	// pace is the recent use in each second, high the recent peak.
	pace, high int64
	// reserve is how much to have beyond what is used, share the node's part of
	// the limit.
	reserve, share int64
}

// window is what the node has of a quota in one minute, or of one that has no
// minutes.
type window struct {
	counter *counter
	start   time.Time
	// granted by the store: the same number as there, or less where the outcome
	// of a draw is unknown or open.
	granted, used int64
	// reported is what the store knows to be used, and wanted what was wanted
	// of it last. open tells that this has had no answer.
	reported, wanted int64
	open             bool
	// elsewhere is what the last draw told of other nodes. scarce tells that it
	// granted less than was wanted.
	elsewhere Drawn
	scarce    bool
	// serial and answered are of the last draw that had an answer: its number,
	// and when it was sent.
	serial   int64
	answered time.Time

	// needed is the sum of what waiting requests want, least the smallest of
	// them, fresh tells that one has come since the last draw.
	needed, least int64
	fresh         bool
	// dry tells that nothing can come any more.
	dry bool
	// restsUntil is when to ask the store again, rest for how long that was, and
	// refused the least that was refused since: for less than that it is asked.
	restsUntil time.Time
	rest       time.Duration
	refused    int64
	// withheld is what others had unused and did not give back.
	withheld int64
	// asked is when other nodes last asked for some of it, asking when this one
	// did; zero if that was long ago.
	asked, asking time.Time
}

func minuteOf(t time.Time) time.Time { return t.UTC().Truncate(time.Minute) }

// current returns the window to count in: that of now, or a later one that was
// reached already.
func (c *counter) current(now time.Time) *window {
	if start := minuteOf(now); c.quota.Kind != KeyConcurrency && start.After(c.reached) {
		c.reached = start
		ended := 0
		for ended < len(c.windows) && c.windows[ended].start.Before(start) {
			ended++
		}
		c.windows = slices.Delete(c.windows, 0, ended)
	}
	return c.window(c.reached)
}

// window returns the window that starts then.
func (c *counter) window(start time.Time) *window {
	i := 0
	for i < len(c.windows) && c.windows[i].start.Before(start) {
		i++
	}
	if i == len(c.windows) || c.windows[i].start.After(start) {
		c.windows = slices.Insert(c.windows, i, &window{counter: c, start: start})
	}
	return c.windows[i]
}

// find returns the window that starts then, or nil.
func (c *counter) find(start time.Time) *window {
	for _, w := range c.windows {
		if w.start.Equal(start) {
			return w
		}
	}
	return nil
}

// limit takes over a limit. Another one than before makes the state of the
// windows unknown.
func (c *counter) limit(n int64) {
	if c.allowed == n {
		return
	}
	c.allowed = n
	c.plan(1, 0, false)
	for _, w := range c.windows {
		w.granted = min(w.granted, max(n, w.used))
		w.dry, w.scarce, w.restsUntil, w.rest = false, false, time.Time{}, 0
	}
}

// chunkShare is the part of a limit that a node has in reserve at least.
const chunkShare = 20

// plan sets what to have in reserve: what is used in the rest of the minute at
// the pace of recent use, twice, and no more than the node's share, so that
// requests go on while the store is away. The only node needs no such care,
// and the less it has, the less is lost when it is killed.
func (c *counter) plan(nodes int64, left time.Duration, sole bool) {
	c.share = max(1, c.allowed/nodes)
	chunk := max(1, c.allowed/chunkShare)
	switch {
	case c.quota.Kind == KeyConcurrency:
		c.reserve = chunk
	case sole:
		c.share = chunk
		c.reserve = max(chunk, min(2*c.pace, c.allowed))
	default:
		seconds := int64(left/time.Second) + 1
		c.reserve = max(chunk, min(2*c.pace*seconds, c.share))
	}
}

// measure ends a second of measuring.
func (c *counter) measure() {
	c.pace = max(c.taken, c.pace-(c.pace+memory-1)/memory+c.taken/memory)
	c.high = max(c.peak, c.high-(c.high+memory-1)/memory)
	c.taken, c.peak = 0, 0
}

// free is what may be taken without a draw.
func (w *window) free() int64 { return min(w.granted, w.counter.allowed) - w.used }

// low tells that more should be drawn, if there is more.
func (w *window) low() bool { return !w.scarce && w.free() <= w.counter.reserve/2 }

func (w *window) use(amount int64) {
	w.used += amount
	c := w.counter
	c.taken += amount
	c.peak = max(c.peak, w.used)
	c.touched = time.Now()
}

// need counts a request that waits.
func (w *window) need(amount, least int64) {
	if w.needed == 0 || least < w.least {
		w.least = least
	}
	w.needed += amount
	w.fresh = true
}

// rests tells whether the store is not to be asked again yet.
func (w *window) rests(now time.Time) bool { return now.Before(w.restsUntil) }

// restFrom makes the store rest that did not have so much.
func (w *window) restFrom(now time.Time, amount int64) {
	if w.rests(now) { // that had even less
		w.refused = amount
		return
	}
	w.rest = min(max(restAfter, 2*w.rest), restAtMost)
	w.restsUntil, w.refused = now.Add(w.rest), amount
}

// target is how much the node wants to have, when no request waits.
func (w *window) target() int64 {
	c := w.counter
	most := w.used
	if c.quota.Kind == KeyConcurrency {
		most = max(most, c.high)
	}
	return max(w.used, min(most+c.reserve, c.allowed))
}
