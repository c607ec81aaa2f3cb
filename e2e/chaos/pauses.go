package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"syscall"
	"time"
)

const (
	// shortTTL is the lease_ttl of scenarios in which nodes seem to be dead.
	shortTTL = 10 * time.Second
	// seemsDead is longer than that.
	seemsDead = 13 * time.Second
	// slowly is how long clients wait between requests, so that a limit lasts.
	slowly = 20 * time.Millisecond
)

// pauses: nodes stand still for longer than their leases last, while others
// spend the same limit, and then go on.
func pauses(ctx context.Context, c *cluster) error {
	const clients = 16
	for _, n := range c.nodes {
		n.leaseTTL = shortTTL
	}
	return c.shareFiveDollars(ctx, clients, slowly, func(ctx context.Context) error {
		n := c.nodes[c.random.IntN(len(c.nodes))]
		c.progress("%s stands still for %s", n.name, seemsDead)
		if err := n.process.Signal(syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stop %s: %w", n.name, err)
		}
		// Whatever ends meanwhile, it must not stay like this.
		ctx = context.WithoutCancel(ctx)
		paused := pause(ctx, seemsDead)
		if err := n.process.Signal(syscall.SIGCONT); err != nil {
			return fmt.Errorf("continue %s: %w", n.name, err)
		}
		return errors.Join(paused, pause(ctx, 3*time.Second))
	})
}

// twins: a node is started with a copy of another one's journal directory. The
// two have one identity, and must not spend as if they were one.
func twins(ctx context.Context, c *cluster) error {
	first, second := c.nodes[0], c.nodes[1]
	if err := first.start(ctx); err != nil {
		return err
	}
	if err := first.kill(); err != nil {
		return err
	}
	if err := os.CopyFS(second.journal, os.DirFS(first.journal)); err != nil {
		return fmt.Errorf("copy the journal: %w", err)
	}
	if err := c.startWithFiveDollars(ctx); err != nil {
		return err
	}
	k, err := c.createKey(ctx, defaultOrganization, "5.00")
	if err != nil {
		return err
	}
	const clients = 32
	bound, err := oneEvent(dear(rand.New(rand.NewPCG(1, 1))), clients)
	if err != nil {
		return err
	}
	both, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	l := c.newSpenders(k, clients, dear)
	l.think = slowly
	l.start(both)
	attempts := l.join()
	// What the older one owes must be in the books, before somebody ends it.
	if err := first.call(ctx, http.MethodPost, "/v1/flush", nil, nil); err != nil {
		return err
	}
	if err := first.stop(); err != nil {
		return err
	}
	c.nodes = c.nodes[1:]
	return c.spendToTheEnd(ctx, k, bound, attempts)
}
