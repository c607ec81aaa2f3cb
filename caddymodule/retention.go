package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
)

// mostRetention is what takes a typing error for one: a hundred years.
const mostRetention = 36500 * 24 * time.Hour

// retentionEvery is how often the store is prepared for the next requests, and
// old ones are dropped.
const retentionEvery = time.Hour

// keepRequests does both again and again.
func (e *engine) keepRequests(ctx context.Context) {
	each(ctx, retentionEvery, func() {
		e.prepareRequests(ctx, e.store)
		e.dropRequests(ctx)
	})
}

// prepareRequests is for months to come: without it requests are stored all the
// same, and find their place later.
func (e *engine) prepareRequests(ctx context.Context, store billing.Store) {
	if err := store.PrepareRequests(ctx); err != nil && ctx.Err() == nil {
		e.log.Warn("cannot prepare the store for the requests of the next months; will try again", zap.Error(err))
	}
}

// dropRequests drops requests that are older than the configuration wants.
func (e *engine) dropRequests(ctx context.Context) {
	retention := time.Duration(e.retention.Load())
	if retention == 0 {
		return
	}
	n, err := e.store.DropRequests(ctx, e.now().Add(-retention))
	if n > 0 {
		e.log.Info("dropped old requests", zap.Int64("requests", n))
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, billing.ErrUnproven):
		e.log.Error("old requests are not dropped: the books do not prove them", zap.Error(err))
	default:
		e.log.Warn("cannot drop old requests; will try again", zap.Error(err))
	}
}

// checkRole warns where the database does not keep organizations apart for the
// gateway's role.
func (e *engine) checkRole(ctx context.Context, store billing.Store) error {
	s, ok := store.(*postgres.Store)
	if !ok {
		return nil
	}
	bypasses, err := s.BypassesPolicies(ctx)
	if err != nil {
		return fmt.Errorf("read the role in the database: %w", err)
	}
	if bypasses {
		e.log.Warn("the gateway's role in PostgreSQL is a superuser or bypasses row-level security: " +
			"connect as an ordinary role that owns the tables")
	}
	return nil
}
