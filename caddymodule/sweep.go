package caddymodule

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// sweepEvery is how often what has ended is dropped.
const sweepEvery = time.Minute

// sweep drops what has ended: what rotations of keys leave behind, sessions, and
// logins that nobody has finished.
func (e *engine) sweep(ctx context.Context) {
	each(ctx, sweepEvery, func() {
		now := e.now()
		// To wait as long as replies are kept leaves room for clocks that disagree.
		if err := e.store.DropSecrets(ctx, now.Add(-billing.ReplyKept)); err != nil && ctx.Err() == nil {
			e.outageLog.Warn("cannot drop secrets that have ended; they do not work all the same", zap.Error(err))
		}
		if err := e.store.DropAccess(ctx, now, now.Add(-billing.SessionIdle)); err != nil && ctx.Err() == nil {
			e.outageLog.Warn("cannot drop sessions that have ended; they do not work all the same", zap.Error(err))
		}
	})
}

// each does something again and again, until ctx ends.
func each(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}
