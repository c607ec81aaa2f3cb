package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// scenario is one way to break the system, from a fresh start to the proof
// of the books.
type scenario struct {
	name string
	// short: it is part of the short form.
	short bool
	run   func(context.Context, *cluster) error
}

var scenarios = []scenario{
	{"kills", true, kills},
	{"outage", true, outages},
	{"reloads", true, reloads},
	{"stops", true, stops},
	{"cuts", true, cuts},
	{"slow", true, slowDatabase},
	{"clock", true, clockJumps},
	{"limits", true, limits},
	{"hostile", true, hostile},
	{"siege", true, siege},
	{"rates", true, ratesHold},
	{"pauses", false, pauses},
	{"twins", false, twins},
	{"blackout", false, blackout},
	{"disk", false, fullDisk},
}

// prepare starts the nodes, and gives two organizations credits in plenty and
// two keys each, one of them with a limit that is never reached, but counts.
func (c *cluster) prepare(ctx context.Context) ([]key, error) {
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	if err := c.createOrganization(ctx, otherOrganization); err != nil {
		return nil, err
	}
	var keys []key
	for _, organization := range []string{defaultOrganization, otherOrganization} {
		if err := c.buy(ctx, organization, "plenty"); err != nil {
			return nil, err
		}
		for _, limit := range []string{"", "50000"} {
			k, err := c.createKey(ctx, organization, limit)
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// underLoad runs faults while clients send requests, and returns what they
// saw. It settles what is left to settle.
func (c *cluster) underLoad(ctx context.Context, choose func(*rand.Rand) ask, faults func(context.Context) error) ([]*attempt, error) {
	keys, err := c.prepare(ctx)
	if err != nil {
		return nil, err
	}
	l := c.newLoad(keys, choose)
	probe := startLagProbe(c.database)
	l.each = probe.offer
	audit := c.startAudit(ctx, 0)
	l.start(ctx)
	failed := faults(ctx)
	attempts := l.finish()
	audit()
	c.progress("%d requests", len(attempts))
	if failed == nil {
		failed = c.settle(ctx, evidence{attempts: attempts})
	}
	c.figures.lag, c.figures.lagSamples = probe.finish()
	return attempts, failed
}

func (c *cluster) newLoad(keys []key, choose func(*rand.Rand) ask) *load {
	return &load{
		nodes: c.nodes, keys: keys, clients: c.options.clients, think: 40 * time.Millisecond,
		choose: choose, seed: c.seed, prefix: c.figures.scenario,
	}
}

// kills: kill -9 of nodes at random moments, now and then of all at once, each
// started again on its journal.
func kills(ctx context.Context, c *cluster) error {
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		for c.figures.kills < c.options.kills {
			if err := pause(ctx, c.between(200*time.Millisecond, 1200*time.Millisecond)); err != nil {
				return err
			}
			fault := c.killOne
			if c.random.IntN(10) == 0 {
				fault = c.killAll
			}
			if err := fault(ctx); err != nil {
				return err
			}
		}
		return pause(ctx, time.Second)
	})
	c.figures.check(attempts, expect{dying: true})
	return err
}

// leasesLast is for how long into an outage of the database no client may see
// an error: nodes have leased about so many seconds of what they spend.
const leasesLast = time.Minute

// backAfter bounds how long after an outage spend may still be refused: the
// longest pause between two attempts to post, and some.
const backAfter = 7 * time.Second

// outages: the database is stopped and started again.
func outages(ctx context.Context, c *cluster) error {
	var gone []away
	steps := []struct {
		how    pgtest.Stop
		length time.Duration
	}{
		{pgtest.Fast, c.options.duration},
		{pgtest.Immediate, 8 * time.Second}, {pgtest.Kill, 8 * time.Second},
		{pgtest.Fast, 8 * time.Second}, {pgtest.Kill, 8 * time.Second},
	}
	if !c.options.full {
		steps = steps[:1]
	}
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		for _, step := range steps {
			if err := pause(ctx, 6*time.Second); err != nil { // leases follow what is spent
				return err
			}
			g, err := c.outage(ctx, step.how, step.length, func() error { return nil })
			if err != nil {
				return err
			}
			gone = append(gone, g)
			if err := pause(ctx, backAfter+time.Second); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.figures.check(attempts, expect{unavailable: func(a *attempt) bool {
		for _, g := range gone {
			if a.ended.After(g.from.Add(leasesLast)) && a.sent.Before(g.to.Add(backAfter)) {
				return true
			}
		}
		return false
	}})
	return c.checkOutages(ctx, attempts, gone)
}

// checkOutages: what was spent while the database was away had been leased
// before.
func (c *cluster) checkOutages(ctx context.Context, attempts []*attempt, gone []away) error {
	books, err := readBooks(ctx, c.database)
	if err != nil {
		return err
	}
	costs := books.costs()
	for _, g := range gone {
		var spent int64
		first, refused := time.Duration(0), 0
		for _, a := range attempts {
			if a.sent.Before(g.from) || a.sent.After(g.to) {
				continue
			}
			spent += costs[a.marker]
			if a.refusal == unavailable {
				if at := a.ended.Sub(g.from); refused == 0 || at < first {
					first = at
				}
				refused++
			}
		}
		c.figures.note("database away for %s: %d requests refused, the first after %s; %d nano-USD spent of %d that were leased",
			g.to.Sub(g.from).Round(100*time.Millisecond), refused, first.Round(10*time.Millisecond), spent, g.leased)
		if spent > g.leased {
			c.figures.violate("%d was spent while the database was away, %d was leased before", spent, g.leased)
		}
	}
	return nil
}

// reloads: new configurations, one after the other, while streams are open.
func reloads(ctx context.Context, c *cluster) error {
	attempts, err := c.underLoad(ctx, patient, func(ctx context.Context) error {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		for c.figures.reloads < c.options.reloads {
			n := c.victim()
			if err := n.reload(ctx); err != nil {
				return err
			}
			c.figures.reloads++
			c.progress("reloaded %s (%d)", n.name, c.figures.reloads)
			if err := pause(ctx, c.between(0, 600*time.Millisecond)); err != nil {
				return err
			}
		}
		return pause(ctx, time.Second)
	})
	c.figures.check(attempts, expect{leaving: true})
	return err
}

// stops: every node is stopped in good order and started again, while streams
// are open that end within the grace period.
func stops(ctx context.Context, c *cluster) error {
	stopped := 0
	attempts, err := c.underLoad(ctx, patient, func(ctx context.Context) error {
		for _, n := range c.nodes {
			if err := pause(ctx, c.between(500*time.Millisecond, 1500*time.Millisecond)); err != nil {
				return err
			}
			if err := n.stop(); err != nil {
				return err
			}
			stopped++
			c.checkJournal(n)
			c.progress("stopped %s", n.name)
			if err := n.start(ctx); err != nil {
				return err
			}
		}
		return pause(ctx, time.Second)
	})
	c.figures.note("%d nodes stopped and started again", stopped)
	c.figures.check(attempts, expect{leaving: true})
	return err
}

// cuts: connections to the database are reset in the middle of whatever they
// do, and right after a statement was sent, so that nobody knows what became
// of it.
func cuts(ctx context.Context, c *cluster) error {
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		reset := 0
		for end := time.Now().Add(c.options.duration); time.Now().Before(end); {
			if err := pause(ctx, c.between(100*time.Millisecond, 700*time.Millisecond)); err != nil {
				return err
			}
			if c.random.IntN(2) == 0 {
				reset += c.proxy.cutAll()
			} else {
				c.proxy.loseReplies.Add(1 + c.random.Int64N(3))
			}
		}
		c.proxy.loseReplies.Store(0)
		if reset == 0 || c.proxy.lost.Load() == 0 {
			return errors.New("nothing was cut")
		}
		c.figures.note("%d connections to the database reset, %d replies of it lost", reset, c.proxy.lost.Load())
		return pause(ctx, backAfter)
	})
	c.figures.check(attempts, expect{unavailable: func(*attempt) bool { return true }})
	return err
}

// slowDatabase: 200 ms for each round trip, and a stall of three seconds.
func slowDatabase(ctx context.Context, c *cluster) error {
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		if err := pause(ctx, 3*time.Second); err != nil { // cold caches are no fault
			return err
		}
		c.proxy.latency.Store(int64(100 * time.Millisecond))
		c.progress("each round trip to the database takes 200 ms more")
		err := pause(ctx, c.options.duration/2)
		c.proxy.latency.Store(0)
		if err != nil {
			return err
		}
		c.progress("the database stalls for 3 s")
		release := c.proxy.stall()
		err = pause(ctx, 3*time.Second)
		release()
		if err != nil {
			return err
		}
		return pause(ctx, c.options.duration/4)
	})
	c.figures.check(attempts, expect{})
	return err
}

// clockJumps: the database's clock jumps an hour ahead and back.
func clockJumps(ctx context.Context, c *cluster) error {
	if err := c.installClock(ctx, "chaos_"+c.figures.scenario); err != nil {
		return err
	}
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		for _, ahead := range []time.Duration{time.Hour, -time.Hour, 0} {
			if err := errors.Join(c.jump(ctx, ahead), pause(ctx, c.options.duration/3)); err != nil {
				return err
			}
		}
		return nil
	})
	c.figures.check(attempts, expect{})
	return err
}

// blackout: the database is killed, and then the nodes, which come back when
// it does.
func blackout(ctx context.Context, c *cluster) error {
	attempts, err := c.underLoad(ctx, mixed, func(ctx context.Context) error {
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		_, err := c.outage(ctx, pgtest.Kill, 6*time.Second, func() error {
			if err := pause(ctx, 2*time.Second); err != nil {
				return err
			}
			for _, n := range c.nodes {
				if err := n.kill(); err != nil {
					return fmt.Errorf("in the outage: %w", err)
				}
				c.figures.kills++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := c.start(ctx); err != nil {
			return err
		}
		return pause(ctx, 2*time.Second)
	})
	c.figures.check(attempts, expect{dying: true, unavailable: func(*attempt) bool { return true }})
	return err
}
