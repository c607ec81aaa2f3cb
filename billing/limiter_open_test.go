package billing_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// restAfter is how long nodes refuse by what they know.
const restAfter = 150 * time.Millisecond

func TestOpenRequestsAreExactAcrossNodes(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1, 2, 3, 10} {
		simulate(t, 3, func(t *testing.T, c *limiters, _ *quotaBook) {
			var inside, most, served atomic.Int64
			var clients sync.WaitGroup
			for i := range 30 {
				clients.Go(func() {
					for range 100 {
						l := c.nodes[rand.IntN(len(c.nodes))]
						claim, ok := takeOne(t, l, open(limit))
						if ok {
							now := inside.Add(1)
							for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
							}
							time.Sleep(rand.N(40 * time.Millisecond))
							inside.Add(-1)
							l.Correct(&claim, 0)
							served.Add(1)
						}
						time.Sleep(rand.N(time.Duration(i+1) * 10 * time.Millisecond))
					}
				})
			}
			clients.Wait()
			if most.Load() != limit {
				t.Errorf("%d requests were open at a time, of %d", most.Load(), limit)
			}
			time.Sleep(3 * time.Second)
			for i := range limit { // all are free again
				if _, ok := takeOne(t, c.nodes[int(i)%len(c.nodes)], open(limit)); !ok {
					t.Errorf("request %d of %d was refused", i+1, limit)
				}
			}
			if _, ok := takeOne(t, c.nodes[0], open(limit)); ok {
				t.Error("one too many passed")
			}
		})
	}
}

// As many workers as may be open, which move between nodes: what one node has
// let go is there for the next, also when the store has not heard of it yet.
func TestWorkersWithinTheirLimitAreNotRefused(t *testing.T) {
	t.Parallel()
	const limit = 10
	simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
		var workers sync.WaitGroup
		for worker := range limit {
			workers.Go(func() {
				for i := range 50 {
					l := c.nodes[(worker+i)%2]
					claim, ok := takeOne(t, l, open(limit))
					if !ok {
						t.Errorf("worker %d was refused in round %d", worker, i)
						return
					}
					time.Sleep(time.Duration(50+(i*37+worker*13)%100) * time.Millisecond)
					l.Correct(&claim, 0)
				}
			})
		}
		workers.Wait()
		// Where all are really open elsewhere, that is found out in time.
		for range limit {
			takeOne(t, c.nodes[0], open(limit))
		}
		began := time.Now()
		if _, ok := takeOne(t, c.nodes[1], open(limit)); ok || time.Since(began) > 300*time.Millisecond {
			t.Errorf("one too many: passed %t after %s", ok, time.Since(began))
		}
	})
}

// After its lease TTL without a draw, others may have what a node was granted.
func TestOpenRequestsAreNotAdmittedOnOldGrants(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(t *testing.T, c *limiters, b *quotaBook) {
		for range 3 {
			takeOne(t, c.nodes[0], open(100))
		}
		b.set(func(b *quotaBook) { b.down = true })
		if _, ok := takeOne(t, c.nodes[0], open(100)); !ok {
			t.Error("refused although it was granted")
		}
		time.Sleep(time.Minute)
		if _, err := c.nodes[0].Take(t.Context(), []billing.QuotaClaim{open(100)}); !errors.Is(err, billing.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
		b.set(func(b *quotaBook) { b.down = false })
		time.Sleep(time.Second)
	})
}
