package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// between returns a duration chosen by the scenario's seed.
func (c *cluster) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.random.Int64N(int64(to-from)))
}

// pause waits, or returns the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// victim chooses a node.
func (c *cluster) victim() *node { return c.nodes[c.random.IntN(len(c.nodes))] }

// killOne kills a node and starts it again on the same journal.
func (c *cluster) killOne(ctx context.Context) error {
	n := c.victim()
	if err := n.kill(); err != nil {
		return err
	}
	c.figures.kills++
	c.progress("killed %s (%d)", n.name, c.figures.kills)
	if err := pause(ctx, c.between(0, 300*time.Millisecond)); err != nil {
		return err
	}
	return n.start(ctx)
}

// killAll kills all nodes in the same moment.
func (c *cluster) killAll(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := n.kill(); err != nil {
			return err
		}
		c.figures.kills++
	}
	c.progress("killed all nodes (%d)", c.figures.kills)
	return c.start(ctx)
}

// away is a time without the database.
type away struct {
	from, to time.Time
	// leased is what nodes had leased of credits when it began. They can get no
	// more until it ends.
	leased int64
}

// outage takes the database away for a while.
func (c *cluster) outage(ctx context.Context, how pgtest.Stop, length time.Duration, during func() error) (away, error) {
	gone, err := c.takeAway(ctx, how)
	if err != nil {
		return gone, err
	}
	c.figures.outages++
	c.progress("PostgreSQL is away (signal %d) for %s", how, length)
	failed := during()
	if failed == nil {
		failed = pause(ctx, length-time.Since(gone.from))
	}
	gone.to = time.Now()
	// It comes back whatever happened: other scenarios follow.
	if err := c.postgres.Resume(); err != nil {
		return gone, err
	}
	c.progress("PostgreSQL is back after %s", time.Since(gone.from).Round(100*time.Millisecond))
	return gone, failed
}

// takeAway stops the database, and reads before what is leased, when nobody
// can change that any more.
func (c *cluster) takeAway(ctx context.Context, how pgtest.Stop) (away, error) {
	release := c.proxy.stall()
	defer release()
	if err := pause(ctx, 100*time.Millisecond); err != nil { // for what is at work in the database
		return away{}, err
	}
	leased, err := selectOne(ctx, c.database, selectLeased)
	if err != nil {
		return away{}, err
	}
	return away{from: time.Now(), leased: leased}, c.postgres.Halt(how)
}

// The clock of the database can be set: unqualified names are looked for in
// the public schema before PostgreSQL's own, and there is a now() in it.
var clock = []string{
	`CREATE TABLE public.chaos_clock (ahead interval NOT NULL)`,
	`INSERT INTO public.chaos_clock VALUES ('0')`,
	`CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS
		'SELECT pg_catalog.now() + ahead FROM public.chaos_clock'`,
	`CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
		'SELECT pg_catalog.clock_timestamp() + ahead FROM public.chaos_clock'`,
}

// installClock makes the database's clock one that jump can set. Sessions see
// it that begin afterwards.
func (c *cluster) installClock(ctx context.Context, database string) error {
	statements := append([]string{`ALTER DATABASE "` + database + `" SET search_path = public, pg_catalog`}, clock...)
	return execute(ctx, c.database, statements...)
}

// jump sets the database's clock.
func (c *cluster) jump(ctx context.Context, ahead time.Duration) error {
	c.progress("the database's clock is %s ahead", ahead)
	seconds := int(ahead.Seconds())
	return execute(ctx, c.database,
		fmt.Sprintf(`UPDATE public.chaos_clock SET ahead = '%d seconds'`, seconds),
		// Or the jump would prove nothing.
		fmt.Sprintf(`DO $$ BEGIN ASSERT now() - pg_catalog.now() = '%d seconds', 'the clock did not jump'; END $$`, seconds))
}
