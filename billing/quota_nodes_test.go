package billing_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// aMinute is a clock that stands still, so that all is in one minute.
func aMinute() time.Time { return time.Date(2026, 11, 18, 12, 30, 10, 0, time.UTC) }

func everywhere(i int) int { return i % 2 }

func onTheFirst(int) int { return 0 }

// 60 requests a minute are 60, on nodes that share a database.
func TestQuotasAreExactOnPostgres(t *testing.T) {
	t.Parallel()
	open := openPostgres(t)
	c := &limiters{now: aMinute}
	for i := range 2 {
		c.store = open()
		c.nodes = append(c.nodes, c.start(fmt.Sprintf("node_%d.1", i), 2))
	}
	defer c.close(t)
	for name, node := range map[string]func(i int) int{"split": everywhere, "all on one": onTheFirst} {
		for kind, limit := range map[billing.QuotaKind]int64{
			billing.KeyRPM: 60, billing.OrganizationRPM: 45, billing.KeyConcurrency: 7,
		} {
			claim := func(int) billing.QuotaClaim { return claimOf(kind, name, limit, 1) }
			passed := c.flood(t, 5, func(int) int { return 1 }, claim)
			passed += c.flood(t, 200, node, claim)
			if passed != limit {
				t.Errorf("%s, %s: %d of %d passed", kind, name, passed, limit)
			}
		}
	}
}

// A process that is killed takes a part of the minute with it, and leaves no
// more than the rest.
func TestQuotasSurviveARestart(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, open func() billing.Store) {
		store := open()
		node := billing.Node{ID: "node", Incarnation: "1", StartedAt: aMinute()}
		if err := store.Join(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		cut := make(chan struct{})
		killed := &limiters{store: &cutOff{store, cut}, now: aMinute}
		killed.nodes = []*billing.Limiter{killed.start(node.Holder(), 1)}
		key := func(int) billing.QuotaClaim { return rpm(60) }
		opened := func(int) billing.QuotaClaim { return claimOf(billing.KeyConcurrency, "key", 7, 1) }
		before := killed.flood(t, 20, onTheFirst, key)
		killed.flood(t, 7, onTheFirst, opened)
		close(cut)
		if err := killed.nodes[0].Close(t.Context()); err == nil {
			t.Fatal("a process that was killed has given back what it had")
		}

		node.Incarnation = "2"
		if err := store.Join(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		successor := &limiters{store: open(), now: aMinute}
		successor.nodes = []*billing.Limiter{successor.start(node.Holder(), 1)}
		defer successor.close(t)
		const chunk = 60 / 20
		after := successor.flood(t, 200, onTheFirst, key)
		if sum := before + after; before != 20 || sum > 60 || sum < 60-chunk {
			t.Errorf("%d passed before, %d after", before, after)
		}
		if passed := successor.flood(t, 20, onTheFirst, opened); passed != 7 {
			t.Errorf("%d of 7 are open after the restart", passed)
		}
	})
}
