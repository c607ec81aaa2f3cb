package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// auditEvery is how often the books are looked at while they are written.
const auditEvery = 500 * time.Millisecond

// startAudit checks, for as long as a scenario runs, what must be true at
// every commit: that the product's own verification finds no imbalance, and
// that what is spent and leased of credits is at most what was bought, and the
// bound of the streams that are open. What cannot be asked, since nodes and
// database come and go, is not asked. The returned function ends it.
func (c *cluster) startAudit(ctx context.Context, bound int64) (finish func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	var said []string
	wait.Go(func() {
		for pause(ctx, auditEvery) == nil {
			// The address is a node's for good; what answers there may be away.
			if n, err := c.imbalance(ctx, c.nodes[len(c.nodes)-1]); err == nil {
				c.figures.audits++
				if n != 0 {
					said = append(said, fmt.Sprintf("verify found an imbalance of %d under load", n))
				}
			}
			if over, err := selectOne(ctx, c.database, selectCredits); err == nil && over > bound {
				said = append(said, fmt.Sprintf("%d more credits are spent and leased than were bought; at most %d is allowed", over, bound))
			}
		}
	})
	return func() {
		cancel()
		wait.Wait()
		for _, s := range said {
			c.figures.violate("%s", s)
		}
	}
}
