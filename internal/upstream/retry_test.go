package upstream

import (
	"net/http"
	"testing"
	"time"
)

func TestPausesGrowAndDiffer(t *testing.T) {
	t.Parallel()
	bounds := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second}
	longest := make([]time.Duration, len(bounds))
	seen := make(map[time.Duration]bool)
	for range 500 {
		r := NewRetries(len(bounds))
		for i, bound := range bounds {
			pause, ok := r.Next(0)
			if !ok || pause < 0 || pause > bound {
				t.Fatalf("pause %d: %s, %v; want up to %s", i, pause, ok, bound)
			}
			longest[i] = max(longest[i], pause)
			seen[pause] = true
		}
		if _, ok := r.Next(0); ok || r.Left() {
			t.Fatal("more retries than allowed")
		}
	}
	// Of 500 random ones, the longest is below half with a chance of 2^-500.
	for i, bound := range bounds {
		if longest[i] < bound/2 {
			t.Errorf("pause %d is at most %s, want up to %s", i, longest[i], bound)
		}
	}
	if len(seen) < 1000 {
		t.Errorf("only %d different pauses", len(seen))
	}
}

func TestRetriesHonourTheProvider(t *testing.T) {
	t.Parallel()
	r := NewRetries(3)
	if pause, ok := r.Next(3 * time.Second); !ok || pause != 3*time.Second {
		t.Errorf("pause %s, %v", pause, ok)
	}
	if _, ok := r.Next(4*time.Second + 1); ok {
		t.Error("retried a provider that wants to be left alone for longer")
	}
	for left := 2; left >= 0; left-- {
		if got := r.NextAtOnce(); got != (left > 0) {
			t.Errorf("another one at once: %t, with %d left", got, left)
		}
	}
	none := NewRetries(0)
	if _, ok := none.Next(0); ok || none.NextAtOnce() {
		t.Error("retried though none is allowed")
	}
}

func TestRetryAfterIsRead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		seconds, millis string
		want            time.Duration
	}{
		{"", "", 0},
		{"7", "", 7 * time.Second},
		{" 7 ", "", 7 * time.Second},
		{"0.5", "", 500 * time.Millisecond},
		{"7", "120", 120 * time.Millisecond},
		{"7", "soon", 7 * time.Second},
		{"Mon, 23 Nov 2026 12:00:09 GMT", "", 9 * time.Second},
		{"Mon, 23 Nov 2026 11:00:00 GMT", "", 0},
		{"-1", "", 0}, {"NaN", "", 0}, {"soon", "", 0}, {"+Inf", "", 24 * time.Hour}, {"1e300", "", 24 * time.Hour},
	} {
		h := make(http.Header)
		h.Set("Retry-After", test.seconds)
		h.Set("Retry-After-Ms", test.millis)
		if got := RetryAfter(h, now); got != test.want {
			t.Errorf("%q, %q: %s, want %s", test.seconds, test.millis, got, test.want)
		}
	}
}
