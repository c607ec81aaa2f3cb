package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a time that passes when a test says so.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.nanos.Store(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// step is something that happens to a breaker: time passes, or attempts of a
// class are made one after the other, and refused ones are as many as said.
type step struct {
	after   time.Duration
	times   int
	class   Class
	refused int
}

func TestBreakerChangesItsState(t *testing.T) {
	t.Parallel()
	ok := func(n int) step { return step{times: n, class: OK} }
	fail := func(n int) step { return step{times: n, class: ServerError} }
	after := func(d time.Duration) step { return step{after: d} }
	refused := func(n int) step { return step{times: n, refused: n} }
	class := func(n int, c Class) step { return step{times: n, class: c} }
	const opens, probes, closes = "closed>open", "open>half_open", "half_open>closed"
	const fails = "half_open>open"
	for _, test := range []struct {
		name  string
		steps []step
		want  []string
	}{
		{"nine failures in a row", []step{fail(9)}, nil},
		{"ten failures in a row", []step{fail(10), refused(3)}, []string{opens}},
		{"a success in between", []step{ok(20), fail(9), ok(1), fail(9), ok(1)}, nil},
		{"ten in a row over more than a minute", []step{fail(5), after(61 * time.Second), fail(9)}, nil},
		{"ten in a row within a minute", []step{fail(5), after(59 * time.Second), fail(5)}, []string{opens}},
		{"half of nineteen", []step{fail(5), ok(9), fail(5)}, nil},
		{"half of twenty", []step{fail(5), ok(10), fail(5)}, []string{opens}},
		{"less than half of twenty", []step{fail(5), ok(11), fail(4), ok(1)}, nil},
		{"half, of which some are old", []step{fail(5), ok(10), after(61 * time.Second), fail(5)}, nil},
		{"timeouts and broken connections", []step{class(5, TimedOut), class(5, Unreachable)}, []string{opens}},
		{"what is about credentials and requests", []step{class(50, RateLimited), class(50, Unauthorized), class(50, Rejected)}, nil},
		{"what has no verdict", []step{class(50, Abandoned)}, nil},
		{"what has no verdict, between failures", []step{fail(9), class(5, Abandoned), fail(1)}, []string{opens}},
		{"open for less than half a minute", []step{fail(10), after(30*time.Second - 1), refused(1)}, []string{opens}},
		{"probe that succeeds", []step{fail(10), after(30 * time.Second), ok(30)}, []string{opens, probes, closes}},
		{"probe that is turned down", []step{fail(10), after(30 * time.Second), class(1, RateLimited)}, []string{opens, probes, closes}},
		{"probe that fails", []step{fail(10), after(30 * time.Second), fail(1), refused(2), after(30*time.Second - 1), refused(1)},
			[]string{opens, probes, fails}},
		{"probe after a probe that failed", []step{fail(10), after(30 * time.Second), fail(1), after(30 * time.Second), ok(1)},
			[]string{opens, probes, fails, probes, closes}},
		{"probe without a verdict", []step{fail(10), after(30 * time.Second), class(3, Abandoned), ok(1)}, []string{opens, probes, closes}},
		{"closed anew", []step{fail(10), after(30 * time.Second), ok(1), fail(9)}, []string{opens, probes, closes}},
		{"opened anew", []step{fail(10), after(30 * time.Second), ok(1), fail(10)}, []string{opens, probes, closes, opens}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			c := newClock()
			b := NewBreaker(c.now, func(c Change) { got = append(got, fmt.Sprintf("%s>%s", c.From, c.To)) })
			for i, s := range test.steps {
				c.advance(s.after)
				turnedDown := 0
				for range s.times {
					pass, wait, allowed := b.Allow()
					if allowed {
						b.Record(pass, s.class)
						continue
					}
					turnedDown++
					if wait <= 0 || wait > openFor {
						t.Errorf("step %d: refused for %s", i, wait)
					}
				}
				if turnedDown != s.refused {
					t.Errorf("step %d: %d of %d refused, want %d", i, turnedDown, s.times, s.refused)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

// opened returns a breaker that has just opened.
func opened(t *testing.T, c *clock) *Breaker {
	t.Helper()
	b := NewBreaker(c.now, func(Change) {})
	for range maxConsecutive {
		pass, _, _ := b.Allow()
		b.Record(pass, Unreachable)
	}
	if s := b.Status(); s.State != Open || !s.OpenedAt.Equal(c.now()) || !s.RetryAt.Equal(c.now().Add(openFor)) {
		t.Fatalf("status %+v after %d failures", s, maxConsecutive)
	}
	return b
}

func TestOneProbeAtATime(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := opened(t, c)
	c.advance(openFor - 1)
	if s := b.Status().State; s != Open {
		t.Errorf("%s a moment before a probe may go", s)
	}
	c.advance(1)
	if s := b.Status().State; s != HalfOpen {
		t.Errorf("%s when a probe may go", s)
	}
	probe, _, ok := b.Allow()
	if !ok {
		t.Fatal("no probe after the breaker was open long enough")
	}
	if _, wait, ok := b.Allow(); ok || wait != openFor {
		t.Errorf("beside the probe: allowed %v, wait %s", ok, wait)
	}
	c.advance(openFor)
	second, _, ok := b.Allow()
	if !ok {
		t.Fatal("a probe that takes long holds up the next one")
	}
	b.Record(probe, OK)
	if s := b.Status().State; s != HalfOpen {
		t.Errorf("%s by a probe that was given up", s)
	}
	b.Record(second, OK)
	if s := b.Status().State; s != Closed {
		t.Errorf("%s after a probe that succeeded", s)
	}
}

func TestAttemptsFromBeforeAChangeOnlyCount(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := NewBreaker(c.now, func(Change) {})
	early, _, _ := b.Allow()
	for range maxConsecutive {
		pass, _, _ := b.Allow()
		b.Record(pass, ServerError)
	}
	c.advance(openFor)
	probe, _, _ := b.Allow()
	b.Record(early, OK)
	if s := b.Status(); s.State != HalfOpen || s.LastMinute[OK] != 1 {
		t.Errorf("status %+v after an old success", s)
	}
	b.Record(probe, ServerError)
	b.Record(early, OK)
	if s := b.Status(); s.State != Open || s.Consecutive != maxConsecutive {
		t.Errorf("status %+v after an old success", s)
	}
}

func TestLastMinuteIsTold(t *testing.T) {
	t.Parallel()
	c := newClock()
	b := NewBreaker(c.now, func(Change) {})
	for class := OK; class <= Abandoned; class++ {
		for range int(class) + 1 {
			pass, _, _ := b.Allow()
			b.Record(pass, class)
		}
		c.advance(10 * time.Second)
	}
	// The first of them is 80 seconds old, the second 70, the third 60.
	want := Counts{Unauthorized: 4, ServerError: 5, TimedOut: 6, Unreachable: 7}
	got := b.Status().LastMinute
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if got.Total() != 22 || got.Failures() != 18 {
		t.Errorf("%d attempts, %d failures", got.Total(), got.Failures())
	}
	c.advance(-time.Hour) // a clock that is set back
	pass, _, _ := b.Allow()
	b.Record(pass, OK)
	c.advance(3 * time.Hour)
	if counts := b.Status().LastMinute; counts != (Counts{}) {
		t.Errorf("%v after an hour of silence", counts)
	}
}

func TestBreakerIsSharedByManyRequests(t *testing.T) {
	t.Parallel()
	c := newClock()
	var changes atomic.Int64
	b := NewBreaker(c.now, func(Change) { changes.Add(1) })
	mixed := []Class{OK, ServerError, RateLimited, TimedOut, Unreachable, Abandoned}
	var recorded atomic.Int64
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 2000 {
				if pass, _, ok := b.Allow(); ok {
					b.Record(pass, mixed[(i+j)%len(mixed)])
					recorded.Add(1)
				}
				b.Status()
				if j%50 == 0 {
					c.advance(time.Second)
				}
			}
		})
	}
	group.Wait()
	if recorded.Load() == 0 || changes.Load() == 0 {
		t.Errorf("%d attempts, %d changes", recorded.Load(), changes.Load())
	}
	c.advance(2 * span)
	for range 2 { // the first may be a probe
		pass, _, ok := b.Allow()
		if !ok {
			t.Fatal("refused after two quiet minutes")
		}
		b.Record(pass, OK)
	}
	if s := b.Status().State; s != Closed {
		t.Errorf("%s after successes", s)
	}
}

func TestClassesOfAnswers(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]Class{
		200: OK, 204: OK, 302: OK, 400: Rejected, 404: Rejected, 409: Rejected, 401: Unauthorized, 403: Unauthorized,
		http.StatusRequestTimeout: TimedOut, 429: RateLimited, 500: ServerError, 503: ServerError, 529: ServerError,
	} {
		if got := ClassOf(status); got != want {
			t.Errorf("%d is %s, want %s", status, got, want)
		}
	}
}

func TestChangeSaysWhyABreakerOpened(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		steps []Class
		want  string
	}{
		{"in a row", slices.Repeat([]Class{ServerError}, 10), "10 failures in a row"},
		{"half of them", slices.Repeat([]Class{OK, TimedOut}, 10), "10 of 20 requests failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []Change
			c := newClock()
			b := NewBreaker(c.now, func(c Change) { got = append(got, c) })
			for _, class := range test.steps {
				pass, _, _ := b.Allow()
				b.Record(pass, class)
			}
			c.advance(openFor)
			pass, _, _ := b.Allow()
			b.Record(pass, Unreachable)
			want := []Change{
				{From: Closed, To: Open, Reason: test.want, RetryAt: c.now()},
				{From: Open, To: HalfOpen},
				{From: HalfOpen, To: Open, Reason: "the probe failed", RetryAt: c.now().Add(openFor)},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}
