package billing_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	ledger "github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// quotaBook is a store of quotas in memory, which can fail in all the ways
// that one at the end of a network can.
type quotaBook struct {
	mu        sync.Mutex
	rows      map[billing.Quota]map[string]billing.Draw // Want is what was granted
	listeners map[string]func([]billing.Quota)
	draws     int

	down  bool          // does not answer
	deaf  bool          // loses notifications
	lossy float64       // the part of answers that get lost
	delay time.Duration // of an answer, at most
}

func newQuotaBook() *quotaBook {
	return &quotaBook{
		rows:      make(map[billing.Quota]map[string]billing.Draw),
		listeners: make(map[string]func([]billing.Quota)),
	}
}

var errBookDown = errors.New("the store is away")

func (b *quotaBook) Draw(_ context.Context, node string, draws []billing.Draw) ([]billing.Drawn, error) {
	b.mu.Lock()
	down, delay, lost := b.down, b.delay, rand.Float64() < b.lossy
	b.mu.Unlock()
	if delay > 0 {
		time.Sleep(rand.N(delay))
	}
	if down {
		return nil, errBookDown
	}
	b.mu.Lock()
	drawn := make([]billing.Drawn, len(draws))
	for i, d := range draws {
		drawn[i] = b.drawOne(node, d)
	}
	b.mu.Unlock()
	if delay > 0 {
		time.Sleep(rand.N(delay))
	}
	if lost {
		return nil, errBookDown
	}
	return drawn, nil
}

func (b *quotaBook) drawOne(node string, d billing.Draw) (drawn billing.Drawn) {
	b.draws++
	rows := b.rows[d.Quota]
	if rows == nil {
		rows = make(map[string]billing.Draw)
		b.rows[d.Quota] = rows
	}
	var elsewhere int64
	for other, row := range rows {
		if other != node {
			elsewhere += max(row.Want, row.Used)
			drawn.UsedElsewhere += row.Used
			drawn.UnusedElsewhere += max(row.Want-row.Used, 0)
		}
	}
	drawn.Granted = rows[node].Want
	if d.Serial > rows[node].Serial {
		drawn.Granted = ledger.Granted(d, elsewhere)
		d.Want = drawn.Granted
		rows[node] = d
	}
	return drawn
}

func (b *quotaBook) ForgetQuotas(_ context.Context, before time.Time) (more bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.rows, func(q billing.Quota, _ map[string]billing.Draw) bool {
		return q.Kind != billing.KeyConcurrency && q.Start.Before(before)
	})
	return false, nil
}

func (b *quotaBook) AskForQuotas(_ context.Context, node string, quotas []billing.Quota) error {
	b.mu.Lock()
	listeners := maps.Clone(b.listeners)
	deaf := b.deaf
	b.mu.Unlock()
	for other, asked := range listeners {
		if other != node && !deaf {
			asked(quotas)
		}
	}
	return nil
}

func (b *quotaBook) ListenForQuotas(ctx context.Context, node string, asked func([]billing.Quota)) error {
	b.mu.Lock()
	b.listeners[node] = asked
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listeners, node)
	return nil
}

// set changes how the store behaves.
func (b *quotaBook) set(change func(b *quotaBook)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

func (b *quotaBook) drawn() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.draws
}

// limiters are nodes that share quotas.
type limiters struct {
	store billing.Quotas
	nodes []*billing.Limiter
	now   func() time.Time // nil is the time
}

// startLimiters starts nodes which end with the test, or when closed.
func startLimiters(t *testing.T, store billing.Quotas, n int) *limiters {
	c := &limiters{store: store}
	for i := range n {
		c.nodes = append(c.nodes, c.start(fmt.Sprintf("node_%d.1", i), n))
	}
	return c
}

func (c *limiters) start(node string, nodes int) *billing.Limiter {
	return billing.NewLimiter(c.store, node, billing.LimiterOptions{
		Now:   c.now,
		Nodes: func() int { return nodes },
		TTL:   func() time.Duration { return time.Minute },
	})
}

func (c *limiters) close(t *testing.T) {
	t.Helper()
	for i, l := range c.nodes {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close node %d: %v", i, err)
		}
	}
}

func claimOf(kind billing.QuotaKind, subject string, limit, amount int64) billing.QuotaClaim {
	return billing.QuotaClaim{
		Quota: billing.Quota{Kind: kind, OrganizationID: "org", Subject: subject},
		Limit: limit, Amount: amount,
	}
}

func rpm(limit int64) billing.QuotaClaim { return claimOf(billing.KeyRPM, "key", limit, 1) }

func open(limit int64) billing.QuotaClaim { return claimOf(billing.KeyConcurrency, "key", limit, 1) }

// takeOne takes one claim, and tells whether it was.
func takeOne(t *testing.T, l *billing.Limiter, claim billing.QuotaClaim) (billing.QuotaClaim, bool) {
	t.Helper()
	claims := []billing.QuotaClaim{claim}
	short, err := l.Take(context.WithoutCancel(t.Context()), claims)
	if err != nil {
		t.Errorf("take: %v", err)
	}
	return claims[0], short < 0 && err == nil
}
