package billing_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// tally is the model: what passed by the limits in each minute, and is open.
type tally struct {
	mu     sync.Mutex
	taken  map[billing.Quota]int64
	open   int64
	passed int
}

// add counts claims that were taken, and returns what is over its limit.
func (m *tally) add(claims []billing.QuotaClaim) (over string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passed++
	for _, c := range claims {
		sum := &m.open
		if c.Quota.Kind != billing.KeyConcurrency {
			q := c.Quota
			q.Start = c.Reset.Add(-time.Minute)
			m.taken[q] += c.Amount
			if sum := m.taken[q]; sum > c.Limit {
				over += fmt.Sprintf("%s: %d of %d in the minute of %s. ", q.Kind, sum, c.Limit, q.Start)
			}
			continue
		}
		if *sum += c.Amount; *sum > c.Limit {
			over += fmt.Sprintf("%d of %d open. ", *sum, c.Limit)
		}
	}
	return over
}

// correct follows what Correct does.
func (m *tally) correct(c billing.QuotaClaim, amount int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Quota.Kind == billing.KeyConcurrency {
		m.open += amount - c.Amount
		return
	}
	c.Quota.Start = c.Reset.Add(-time.Minute)
	m.taken[c.Quota] += amount - c.Amount
}

// cutOff is the store as a process sees it that may lose it for ever.
type cutOff struct {
	billing.Quotas
	cut chan struct{}
}

func (c *cutOff) Draw(ctx context.Context, node string, draws []billing.Draw) ([]billing.Drawn, error) {
	select {
	case <-c.cut:
		return nil, errBookDown
	default:
		return c.Quotas.Draw(ctx, node, draws)
	}
}

// join is what a store does for a process that starts.
func (b *quotaBook) join(id string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for q, rows := range b.rows {
		for node := range rows {
			if strings.HasPrefix(node, id+".") && (q.Kind == billing.KeyConcurrency || q.Start.After(at)) {
				delete(rows, node)
			}
		}
	}
}

// Answers and notifications get lost and late, the store goes away, processes
// are killed: no limit is passed at any time, and in the end nothing is missing.
func TestNoLimitIsPassedWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newChaos(t, seed).run() })
		})
	}
}

const (
	chaosNodes  = 3
	chaosRPM    = 40
	chaosTokens = 5000
	chaosOpen   = 6
)

type chaos struct {
	t     *testing.T
	book  *quotaBook
	model *tally
	r     *rand.Rand

	mu        sync.Mutex
	processes [chaosNodes]*chaosProcess
}

type chaosProcess struct {
	limiter *billing.Limiter
	store   *cutOff
	dead    bool // what it holds open is gone with it
	open    int64
	version int
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{t: t, book: newQuotaBook(), r: rand.New(rand.NewPCG(seed, 1))}
	c.model = &tally{taken: make(map[billing.Quota]int64)}
	c.book.delay = 3 * time.Millisecond
	for i := range c.processes {
		c.processes[i] = c.start(i, 1)
	}
	return c
}

func (c *chaos) start(i, version int) *chaosProcess {
	store := &cutOff{c.book, make(chan struct{})}
	cluster := &limiters{store: store}
	return &chaosProcess{
		limiter: cluster.start(fmt.Sprintf("node_%d.%d", i, version), chaosNodes), store: store, version: version,
	}
}

// run sends requests for three minutes in which all goes wrong, then checks
// that all of a minute can be used.
func (c *chaos) run() {
	ctx, stop := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer stop()
	var group sync.WaitGroup
	for range 12 {
		seed := c.r.Uint64()
		group.Go(func() { c.client(ctx, rand.New(rand.NewPCG(seed, 2))) })
	}
	c.trouble(ctx)
	group.Wait()
	c.book.set(func(b *quotaBook) { b.down, b.deaf, b.lossy = false, false, 0 })
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(65 * time.Second)))
	c.checkNothingIsMissing()
	for _, p := range c.processes {
		if err := p.limiter.Close(context.WithoutCancel(ctx)); err != nil {
			c.t.Error(err)
		}
	}
}

// trouble makes things go wrong until ctx ends.
func (c *chaos) trouble(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(c.r.IntN(3000)) * time.Millisecond)
		switch c.r.IntN(6) {
		case 0:
			c.book.set(func(b *quotaBook) { b.down = true })
			time.Sleep(time.Duration(c.r.IntN(20000)) * time.Millisecond)
			c.book.set(func(b *quotaBook) { b.down = false })
		case 1:
			c.book.set(func(b *quotaBook) { b.deaf = !b.deaf })
		case 2, 3:
			lossy := c.r.Float64() / 2
			c.book.set(func(b *quotaBook) { b.lossy = lossy })
		default:
			c.kill(ctx, c.r.IntN(chaosNodes))
		}
	}
}

// kill ends a process without a word, and starts its successor.
func (c *chaos) kill(ctx context.Context, i int) {
	c.mu.Lock()
	dead := c.processes[i]
	dead.dead = true
	c.mu.Unlock()
	close(dead.store.cut)
	_ = dead.limiter.Close(context.WithoutCancel(ctx)) // it cannot give anything back
	time.Sleep(5 * time.Millisecond)                   // what it has sent arrives
	c.mu.Lock()
	defer c.mu.Unlock()
	c.model.correct(billing.QuotaClaim{Quota: open(0).Quota, Amount: dead.open}, 0)
	c.book.join(fmt.Sprintf("node_%d", i), time.Now())
	c.processes[i] = c.start(i, dead.version+1)
}

// client sends one request after the other until ctx ends.
func (c *chaos) client(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
		c.mu.Lock()
		p := c.processes[r.IntN(chaosNodes)]
		c.mu.Unlock()
		claims := []billing.QuotaClaim{
			rpm(chaosRPM), claimOf(billing.KeyTPM, "key", chaosTokens, 1+r.Int64N(400)), open(chaosOpen),
		}
		claims = claims[r.IntN(2):]
		short, err := p.limiter.Take(ctx, claims)
		if err != nil || short >= 0 {
			continue
		}
		if !c.began(p, claims) {
			continue
		}
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
		c.end(p, claims, r)
	}
}

// began counts a request that passed, unless its process is dead by now.
func (c *chaos) began(p *chaosProcess, claims []billing.QuotaClaim) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.dead {
		return false
	}
	p.open++
	if over := c.model.add(claims); over != "" {
		c.t.Error(over)
	}
	return true
}

// end gives back what a request has not used, or nothing if its process died.
func (c *chaos) end(p *chaosProcess, claims []billing.QuotaClaim, r *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.dead {
		return
	}
	p.open--
	for i := range claims {
		claim := &claims[i]
		switch claim.Quota.Kind {
		case billing.KeyConcurrency:
			c.model.correct(*claim, 0)
			p.limiter.Correct(claim, 0)
		case billing.KeyTPM:
			less := r.Int64N(claim.Amount + 1)
			if claim.Reset.After(time.Now()) {
				c.model.correct(*claim, less)
			}
			p.limiter.Correct(claim, less)
		}
	}
}

// checkNothingIsMissing uses up a minute, on whichever node.
func (c *chaos) checkNothingIsMissing() {
	c.t.Helper()
	if c.model.passed < 50 {
		c.t.Errorf("only %d requests have passed", c.model.passed)
	}
	take := func(i int, claim billing.QuotaClaim) bool {
		_, ok := takeOne(c.t, c.processes[i%chaosNodes].limiter, claim)
		return ok
	}
	for i := range chaosRPM + 1 {
		if ok := take(i, rpm(chaosRPM)); ok != (i < chaosRPM) {
			c.t.Errorf("request %d of the last minute passed: %t", i+1, ok)
		}
	}
	for i := range 11 {
		if ok := take(i, claimOf(billing.KeyTPM, "key", chaosTokens, chaosTokens/10)); ok != (i < 10) {
			c.t.Errorf("tokens of request %d of the last minute were taken: %t", i+1, ok)
		}
	}
	for i := range chaosOpen + 1 {
		if ok := take(i, open(chaosOpen)); ok != (i < chaosOpen) {
			c.t.Errorf("open request %d: passed %t", i+1, ok)
		}
	}
}

// What a node has used up by itself is refused without the store, whatever is
// counted. What others may have is not known without it.
func TestOwnUseIsRefusedWithoutTheStore(t *testing.T) {
	t.Parallel()
	for _, kind := range []billing.QuotaKind{billing.KeyRPM, billing.OrganizationRPM, billing.KeyTPM, billing.KeyConcurrency} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
				claim := claimOf(kind, "key", 3, 1)
				for range 3 {
					takeOne(t, c.nodes[0], claim)
				}
				b.set(func(b *quotaBook) { b.down = true })
				began := time.Now()
				got, ok := takeOne(t, c.nodes[0], claim)
				if waited := time.Since(began); ok || got.Remaining != 0 || waited > 0 {
					t.Errorf("passed %t, %d remaining, after %s", ok, got.Remaining, waited)
				}
				_, err := c.nodes[1].Take(t.Context(), []billing.QuotaClaim{claim})
				if !errors.Is(err, billing.ErrUnavailable) {
					t.Errorf("the other node: %v, want %v", err, billing.ErrUnavailable)
				}
				b.set(func(b *quotaBook) { b.down = false })
			})
		})
	}
}
