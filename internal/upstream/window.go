package upstream

import "time"

// Counts are attempts by class.
type Counts [classes]int

// Total is the number of attempts.
func (c *Counts) Total() (n int) {
	for _, count := range c {
		n += count
	}
	return n
}

// Failures is how many of them count against the provider.
func (c *Counts) Failures() (n int) {
	for class, count := range c {
		if Class(class).Failure() {
			n += count
		}
	}
	return n
}

// window counts the attempts of the last sixty seconds, in steps of one.
type window struct {
	buckets [span / time.Second]Counts
	sum     Counts
	second  int64 // Unix time of the newest bucket
}

func (w *window) add(now time.Time, class Class) {
	w.advance(now)
	w.buckets[w.second%int64(len(w.buckets))][class]++
	w.sum[class]++
}

// counts are those of the window that ends now.
func (w *window) counts(now time.Time) *Counts {
	w.advance(now)
	return &w.sum
}

// advance forgets what has left the window. A clock that goes back adds to the
// newest bucket.
func (w *window) advance(now time.Time) {
	second := now.Unix()
	n := int64(len(w.buckets))
	if second-w.second >= n {
		*w = window{second: second}
		return
	}
	for w.second < second {
		w.second++
		old := &w.buckets[w.second%n]
		for class, count := range old {
			w.sum[class] -= count
		}
		*old = Counts{}
	}
}
