package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// Sizes of the disk that a journal is on: room for one segment with its
// reserve and not for two, and then for all that is needed.
const (
	smallDisk = 24 << 20
	largeDisk = 256 << 20
)

// fullDisk: the disk of one node's journal is full for a while.
func fullDisk(ctx context.Context, c *cluster) (err error) {
	n := c.nodes[0]
	if err := os.MkdirAll(n.journal, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	disk, err := mountMemory(n.journal, smallDisk)
	if err != nil {
		c.figures.note("SKIPPED: %v", err)
		c.progress("SKIPPED: %v", err)
		return nil
	}
	defer func() { err = errors.Join(err, n.kill(), disk.unmount()) }()
	c.nodes = c.nodes[:1] // the others' disks are well
	var full, freed time.Time
	attempts, err := c.underLoad(ctx, bulky, func(ctx context.Context) error {
		full, err = c.awaitRefusal(ctx, n)
		if err != nil {
			return err
		}
		c.progress("the journal's disk is full")
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		if err := disk.resize(largeDisk); err != nil {
			return err
		}
		freed = time.Now()
		c.progress("the journal's disk has room again")
		return pause(ctx, 5*time.Second)
	})
	c.figures.check(attempts, expect{unavailable: func(a *attempt) bool {
		return a.ended.After(full.Add(-time.Second)) && a.sent.Before(freed.Add(time.Second))
	}})
	if len(c.figures.errors) == 0 {
		c.figures.violate("the disk was never full: no request was refused")
	}
	return err
}

// bulky are requests with large records, and some that stay open for long,
// which keep the journal from starting over in the same segment.
func bulky(random *rand.Rand) ask {
	a := mixed(random)
	a.padding = " " + strings.Repeat("x", 450)
	a.stream, a.leaveAfter, a.delay = false, 0, time.Millisecond
	if random.IntN(200) == 0 {
		a.stream, a.pieces, a.delay = true, 20, time.Second
	}
	return a
}

// awaitRefusal returns when a node has no room for another request.
func (c *cluster) awaitRefusal(ctx context.Context, n *node) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		log, err := os.ReadFile(n.dir + "/gateway.log")
		if err != nil {
			return time.Time{}, fmt.Errorf("read log: %w", err)
		}
		if strings.Contains(string(log), unavailable) {
			return time.Now(), nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return time.Time{}, fmt.Errorf("the disk does not fill up: %w", err)
		}
	}
}
