package billing

import (
	"regexp"
	"testing"
	"time"
)

func TestNewIDHasPrefixAndTwentySixCharacters(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^key_[0-9a-hjkmnp-tv-z]{26}$`)
	if id := NewID("key", time.Now()); !form.MatchString(id) {
		t.Errorf("NewID = %q, want %s", id, form)
	}
}

func TestNewIDSortsByTime(t *testing.T) {
	t.Parallel()
	times := []time.Time{
		time.Unix(0, 0),
		time.Date(2001, 9, 9, 1, 46, 39, 999_000_000, time.UTC),
		time.Date(2001, 9, 9, 1, 46, 40, 0, time.UTC),
		time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 11, 1, 0, 0, 0, 1_000_000, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	for i := 1; i < len(times); i++ {
		earlier, later := NewID("r", times[i-1]), NewID("r", times[i])
		if earlier >= later {
			t.Errorf("%v: %q does not sort before %v: %q", times[i-1], earlier, times[i], later)
		}
	}
}

func TestNewIDDoesNotRepeatWithinAMillisecond(t *testing.T) {
	t.Parallel()
	const n = 10_000
	now := time.Now()
	seen := make(map[string]bool, n)
	for range n {
		seen[NewID("r", now)] = true
	}
	if len(seen) != n {
		t.Errorf("%d ids of %d are distinct", len(seen), n)
	}
}
