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

func TestIDFloorIsTheLeastIDOfItsMillisecond(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{
		time.Unix(0, 0),
		time.Date(2026, 11, 18, 12, 30, 0, 999_999_999, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	} {
		floor, next := IDFloor("r", at), IDFloor("r", at.Add(time.Millisecond))
		if got := IDFloor("r", at.Truncate(time.Millisecond)); got != floor {
			t.Errorf("%v: floor is %q, of its millisecond %q", at, floor, got)
		}
		for range 100 {
			if id := NewID("r", at); id < floor || id >= next {
				t.Fatalf("%v: %q is not from %q to %q", at, id, floor, next)
			}
		}
	}
}

func TestTimesBefore1970CountAsItsBeginning(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.Date(1969, 7, 20, 20, 17, 0, 0, time.UTC)} {
		if got, want := IDFloor("r", at), IDFloor("r", time.Unix(0, 0)); got != want {
			t.Errorf("%v: floor is %q, want %q", at, got, want)
		}
		if id, next := NewID("r", at), IDFloor("r", time.UnixMilli(1)); id >= next {
			t.Errorf("%v: %q does not sort before %q", at, id, next)
		}
	}
}
