package billingtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// memoryJournal remembers what a poster tells it.
type memoryJournal struct {
	mu     sync.Mutex
	posted []billing.Segment
	aside  []string
}

func (j *memoryJournal) Append(billing.RecordKind, *billing.Settlement) (billing.Segment, error) {
	return 0, nil
}

func (j *memoryJournal) Posted(segments ...billing.Segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.posted = append(j.posted, segments...)
}

func (j *memoryJournal) SetAside(s *billing.Settlement, reason string) (string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.aside = append(j.aside, s.RequestID)
	return "memory", nil
}

// observer fails the test at what no poster should meet here.
type observer struct {
	t        *testing.T
	mu       sync.Mutex
	posted   int
	rejected []string
}

func (o *observer) Posted(batch []billing.Settlement) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.posted += len(batch)
}

func (o *observer) PostRejected(s *billing.Settlement, _ error, _ string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rejected = append(o.rejected, s.RequestID)
}

func (o *observer) PostFailed(err error)      { o.t.Errorf("a post failed: %v", err) }
func (o *observer) PostConflict(ids []string) { o.t.Errorf("conflicts: %v", ids) }

// postsAround posts settlements that cannot be booked among others that can.
func postsAround(t *testing.T, s billing.Store) {
	buy(t, s, 1000*usd)
	bad := map[int]func(*billing.Settlement){
		0:   func(s *billing.Settlement) { s.Cost = -usd },
		7:   func(s *billing.Settlement) { s.MarketCost = -1 },
		8:   func(s *billing.Settlement) { s.At = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
		120: func(s *billing.Settlement) { s.OrganizationID = "" },
		299: func(s *billing.Settlement) { s.Usage.Output = 1 << 60 },
	}
	j, o := &memoryJournal{}, &observer{t: t}
	poster := billing.NewPoster(s, j, node, o)
	var want []string
	for n := range 300 {
		one := settlement(n, usd)
		if spoil := bad[n]; spoil != nil {
			spoil(&one)
			want = append(want, one.RequestID)
		}
		poster.Post(one, billing.Segment(n))
	}
	check(t, poster.Flush(t.Context()))
	check(t, poster.Close(t.Context()))
	equal(t, "set aside", j.aside, want)
	equal(t, "rejected", o.rejected, want)
	equal(t, "posted", o.posted, 295)
	slices.Sort(j.posted)
	equal(t, "segments let go", len(slices.Compact(j.posted)), 300)
	equal(t, "balance", balanceOf(t, s, org), 705*usd)
	for n := range 300 {
		_, err := s.Request(t.Context(), org, requestID(n))
		var absent error
		if bad[n] != nil {
			absent = billing.ErrNotFound
		}
		equal(t, fmt.Sprintf("error for request %d", n), err, absent)
	}
	balanced(t, s)
}
