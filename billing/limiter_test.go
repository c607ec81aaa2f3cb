package billing_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// simulate runs nodes on a store in memory, by a clock that jumps.
func simulate(t *testing.T, nodes int, test func(t *testing.T, c *limiters, b *quotaBook)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newQuotaBook()
		c := startLimiters(t, b, nodes)
		defer c.close(t)
		test(t, c, b)
	})
}

// flood sends requests to nodes at once, and returns how many were let pass.
func (c *limiters) flood(t *testing.T, requests int, node func(i int) int, claim func(i int) billing.QuotaClaim) int64 {
	t.Helper()
	var passed atomic.Int64
	var group sync.WaitGroup
	for i := range requests {
		group.Go(func() {
			if _, ok := takeOne(t, c.nodes[node(i)], claim(i)); ok {
				passed.Add(1)
			}
		})
	}
	group.Wait()
	return passed.Load()
}

func TestRequestsAMinuteAreExactAcrossNodes(t *testing.T) {
	t.Parallel()
	key := func(int) billing.QuotaClaim { return rpm(60) }
	for name, test := range map[string]struct {
		node  func(i int) int
		claim func(i int) billing.QuotaClaim
		// before is sent to the second node, a moment before the rest.
		before int
	}{
		"split":                 {func(i int) int { return i % 2 }, key, 0},
		"all on one":            {func(int) int { return 0 }, key, 0},
		"the other had some":    {func(int) int { return 0 }, key, 7},
		"unequal":               {func(i int) int { return min(1, i%10) }, key, 3},
		"keys share one of all": {func(i int) int { return i % 2 }, organizationRPM, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
				for range 3 { // minutes, of which the later ones were drawn ahead
					passed := c.flood(t, test.before, func(int) int { return 1 }, test.claim)
					time.Sleep(300 * time.Millisecond)
					passed += c.flood(t, 200, test.node, test.claim)
					if passed != 60 {
						t.Errorf("%d of 60 requests passed", passed)
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

func organizationRPM(int) billing.QuotaClaim { return claimOf(billing.OrganizationRPM, "", 60, 1) }

// A client that cannot stop is no load on the database.
func TestRefusalsComeFromMemory(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
		c.flood(t, 100, func(i int) int { return i % 2 }, func(int) billing.QuotaClaim { return rpm(10) })
		time.Sleep(2 * time.Second)
		before := b.drawn()
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			if claim, ok := takeOne(t, c.nodes[0], rpm(10)); ok || claim.Remaining != 0 {
				t.Fatalf("passed %t, %d remaining", ok, claim.Remaining)
			}
		}
		// What it draws is for the minutes to come.
		if draws := b.drawn() - before; draws > 4 {
			t.Errorf("%d draws in ten seconds of refusals", draws)
		}
	})
}

// What a node that was killed had is used by nobody in that minute, and is not
// asked for again and again.
func TestGrantsOfTheDeadEndWithTheirMinute(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
		dead := billing.Draw{Limit: 10, Used: 1, Want: 4, Serial: 1, Quota: rpm(10).Quota}
		dead.Quota.Start = time.Now().UTC().Truncate(time.Minute)
		if _, err := b.Draw(t.Context(), "dead", []billing.Draw{dead}); err != nil {
			t.Fatal(err)
		}
		if passed := c.flood(t, 40, func(i int) int { return i % 2 }, func(int) billing.QuotaClaim { return rpm(10) }); passed != 6 {
			t.Errorf("%d requests passed beside the dead, want 6", passed)
		}
		before := b.drawn()
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			takeOne(t, c.nodes[0], rpm(10))
		}
		if draws := b.drawn() - before; draws > 110 {
			t.Errorf("%d draws in ten seconds of refusals", draws)
		}
		time.Sleep(time.Minute)
		if passed := c.flood(t, 40, func(i int) int { return i % 2 }, func(int) billing.QuotaClaim { return rpm(10) }); passed != 10 {
			t.Errorf("%d requests passed in the next minute", passed)
		}
	})
}

// Notifications get lost: what one does not use comes back by itself.
func TestIdleGrantsAreGivenBackUnasked(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
		b.set(func(b *quotaBook) { b.deaf = true })
		c.flood(t, 1, func(int) int { return 1 }, func(int) billing.QuotaClaim { return rpm(60) })
		passed := c.flood(t, 200, func(int) int { return 0 }, func(int) billing.QuotaClaim { return rpm(60) })
		if passed >= 59 {
			t.Errorf("%d passed while the other node has some", passed)
		}
		time.Sleep(3 * time.Second)
		passed += c.flood(t, 200, func(int) int { return 0 }, func(int) billing.QuotaClaim { return rpm(60) })
		if passed != 59 {
			t.Errorf("%d of 59 passed", passed)
		}
	})
}

// What was drawn ahead lasts for two minutes without the store, and is exact.
func TestRequestsGoOnWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
		both := func(i int) int { return i % 2 }
		key := func(int) billing.QuotaClaim { return rpm(60) }
		c.flood(t, 2, both, key)
		time.Sleep(3 * time.Second)
		b.set(func(b *quotaBook) { b.down = true })
		for minute := range 2 {
			time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(61 * time.Second)))
			for i := range 60 {
				if _, ok := takeOne(t, c.nodes[i%2], rpm(60)); !ok {
					t.Fatalf("request %d of minute %d was refused", i, minute+1)
				}
			}
			short, err := c.nodes[0].Take(t.Context(), []billing.QuotaClaim{rpm(60)})
			if !errors.Is(err, billing.ErrUnavailable) {
				t.Errorf("above the share: short %d, error %v", short, err)
			}
		}
		time.Sleep(time.Minute)
		if _, err := c.nodes[0].Take(t.Context(), []billing.QuotaClaim{rpm(60)}); !errors.Is(err, billing.ErrUnavailable) {
			t.Errorf("with nothing drawn: error %v", err)
		}
		b.set(func(b *quotaBook) { b.down = false })
		time.Sleep(2 * time.Second)
		if passed := c.flood(t, 200, both, key); passed != 60 {
			t.Errorf("%d of 60 passed after the outage", passed)
		}
	})
}

func TestAllClaimsAreTakenOrNone(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(t *testing.T, c *limiters, _ *quotaBook) {
		for i, want := range []struct{ short, first, second int64 }{{-1, 9, 1}, {-1, 8, 0}, {1, 8, 0}, {1, 8, 0}} {
			claims := []billing.QuotaClaim{rpm(10), claimOf(billing.OrganizationRPM, "", 2, 1)}
			short, err := c.nodes[0].Take(t.Context(), claims)
			if err != nil || int64(short) != want.short || claims[0].Remaining != want.first || claims[1].Remaining != want.second {
				t.Errorf("request %d: short %d, remaining %d and %d, error %v", i, short, claims[0].Remaining, claims[1].Remaining, err)
			}
		}
	})
}

func TestChangedLimitAppliesToTheNextRequest(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(t *testing.T, c *limiters, _ *quotaBook) {
		for i, step := range []struct {
			limit  int64
			passes bool
		}{{3, true}, {3, true}, {3, true}, {3, false}, {5, true}, {4, false}, {5, true}, {5, false}, {1, false}} {
			if _, ok := takeOne(t, c.nodes[0], rpm(step.limit)); ok != step.passes {
				t.Errorf("request %d, limit %d: passed %t", i, step.limit, ok)
			}
		}
	})
}

// Other nodes' use is known a second later.
func TestRemainingCountsAllNodes(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
		c.flood(t, 30, func(int) int { return 1 }, func(int) billing.QuotaClaim { return rpm(60) })
		time.Sleep(2500 * time.Millisecond)
		if claim, ok := takeOne(t, c.nodes[0], rpm(60)); !ok || claim.Remaining != 29 {
			t.Errorf("passed %t, %d remaining, want 29", ok, claim.Remaining)
		}
		claim := rpm(60)
		c.nodes[0].Look(&claim)
		if until := time.Until(claim.Reset); claim.Remaining != 29 || until <= 0 || until > time.Minute {
			t.Errorf("%d remaining for %s", claim.Remaining, until)
		}
	})
}

// A request that arrives when the clock has been set back counts in the minute
// that others have reached.
func TestEndedMinutesAreNotCountedIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var offset atomic.Int64
		l := billing.NewLimiter(newQuotaBook(), "node.1", billing.LimiterOptions{
			Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) },
		})
		for i, back := range []time.Duration{0, time.Hour, 0, time.Minute} {
			offset.Store(-int64(back))
			if _, ok := takeOne(t, l, rpm(2)); ok != (i < 2) {
				t.Errorf("request %d passed: %t", i, ok)
			}
		}
		offset.Store(int64(time.Minute))
		if _, ok := takeOne(t, l, rpm(2)); !ok {
			t.Error("a request of the next minute was refused")
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestTokensAreCorrectedInTheirMinute(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
		tokens := func(n int64) billing.QuotaClaim { return claimOf(billing.KeyTPM, "key", 1000, n) }
		first, ok := takeOne(t, c.nodes[0], tokens(800))
		if _, second := takeOne(t, c.nodes[1], tokens(300)); !ok || second {
			t.Fatalf("first passed %t, second %t", ok, second)
		}
		c.nodes[0].Correct(&first, 100) // it used less
		time.Sleep(restAfter)
		second, ok := takeOne(t, c.nodes[1], tokens(300))
		if !ok {
			t.Fatal("refused what was given back")
		}
		c.nodes[1].Correct(&second, 950) // and this one more
		time.Sleep(restAfter)
		if claim, ok := takeOne(t, c.nodes[0], tokens(10)); ok {
			t.Errorf("passed beside a debt, %d remaining", claim.Remaining)
		}
		time.Sleep(time.Minute)
		c.nodes[0].Correct(&first, 0) // of a minute that has ended
		c.nodes[1].Correct(&second, 5000)
		if claim, ok := takeOne(t, c.nodes[0], tokens(1000)); !ok || claim.Remaining != 0 {
			t.Errorf("next minute: passed %t, %d remaining", ok, claim.Remaining)
		}
	})
}

// A guess is content with what is left, if that is enough.
func TestAGuessTakesWhatIsLeft(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(t *testing.T, c *limiters, _ *quotaBook) {
		for i, want := range []int64{700, 300, 0} {
			guess := claimOf(billing.KeyTPM, "key", 1000, 700)
			guess.Least = 200
			claim, ok := takeOne(t, c.nodes[0], guess)
			if ok != (want > 0) || ok && claim.Amount != want {
				t.Errorf("guess %d: passed %t with %d, want %d", i, ok, claim.Amount, want)
			}
		}
	})
}

func TestAClientThatLeavesWaitsForNothing(t *testing.T) {
	t.Parallel()
	simulate(t, 1, func(t *testing.T, c *limiters, b *quotaBook) {
		b.set(func(b *quotaBook) { b.down = true })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := c.nodes[0].Take(ctx, []billing.QuotaClaim{rpm(10)})
		if !errors.Is(err, billing.ErrUnavailable) || time.Since(began) > time.Second {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
		b.set(func(b *quotaBook) { b.down = false })
	})
}

// A process that ends gives back what it has not used; its successor and the
// others can use the rest of the minute.
func TestARestartLosesNothing(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
		passed := c.flood(t, 20, func(int) int { return 0 }, func(int) billing.QuotaClaim { return rpm(60) })
		if err := c.nodes[0].Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.nodes[0] = c.start("node_0.2", 2)
		passed += c.flood(t, 100, func(int) int { return 0 }, func(int) billing.QuotaClaim { return rpm(60) })
		if passed != 60 {
			t.Errorf("%d of 60 passed", passed)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	l := billing.NewLimiter(newQuotaBook(), "node.1", billing.LimiterOptions{})
	defer l.Close(context.Background())
	claims := []billing.QuotaClaim{rpm(1 << 40), claimOf(billing.OrganizationRPM, "", 1<<40, 1)}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if short, err := l.Take(ctx, claims); err != nil || short >= 0 {
			b.Fatal(short, err)
		}
	}
}

// A request that is too large for what is left does not stand in the way of
// others.
func TestALargeRequestBlocksNoSmallOnes(t *testing.T) {
	t.Parallel()
	simulate(t, 2, func(t *testing.T, c *limiters, _ *quotaBook) {
		tokens := func(n int64) billing.QuotaClaim { return claimOf(billing.KeyTPM, "key", 1000, n) }
		if _, ok := takeOne(t, c.nodes[0], tokens(200)); !ok {
			t.Fatal("refused the first")
		}
		for i := range 8 {
			if _, ok := takeOne(t, c.nodes[1], tokens(900)); ok {
				t.Error("900 tokens passed")
			}
			if _, ok := takeOne(t, c.nodes[1], tokens(100)); !ok {
				t.Errorf("refused %d00 of the 800 tokens that are left", i+1)
			}
		}
	})
}

// A client that goes on above its limit asks the store ever less often, also
// where something may come back at any time.
func TestTheStoreIsAskedLessOftenInVain(t *testing.T) {
	t.Parallel()
	for _, kind := range []billing.QuotaKind{billing.KeyTPM, billing.KeyConcurrency} {
		simulate(t, 2, func(t *testing.T, c *limiters, b *quotaBook) {
			claim := claimOf(kind, "key", 10, 1)
			for range 10 {
				takeOne(t, c.nodes[0], claim)
			}
			time.Sleep(2 * time.Second)
			before := b.drawn()
			for range 2000 {
				time.Sleep(10 * time.Millisecond)
				if _, ok := takeOne(t, c.nodes[1], claim); ok {
					t.Fatal("passed above the limit")
				}
			}
			if draws := b.drawn() - before; draws > 150 {
				t.Errorf("%s: %d draws in 20 seconds of refusals", kind, draws)
			}
		})
	}
}
