package caddymodule

import (
	"context"
	"time"

	"go.uber.org/zap"
)

const (
	// keysPoll is how often the store is asked what keys have changed, should
	// nobody have told. It keeps the promise of one second with room for the
	// answer.
	keysPoll = 500 * time.Millisecond
	// keysPause is what lies between two such questions at least, however often
	// somebody tells.
	keysPause = 20 * time.Millisecond
	// keysTimeout bounds how long what reads keys waits for the store.
	keysTimeout = 5 * time.Second
)

// watchKeys follows what changes in keys and organizations, at once when the
// store tells of it.
func (e *engine) watchKeys(ctx context.Context) {
	tick := time.NewTicker(keysPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-e.keys.woken:
		}
		if err := e.followKeys(ctx); err != nil && ctx.Err() == nil {
			e.outageLog.Warn("cannot follow changes of keys; cached ones stay in use", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(keysPause):
		}
	}
}

// followKeys forgets what has changed, and gives back what was leased under the
// old limits.
func (e *engine) followKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	changed, all, err := e.keys.refresh(ctx)
	if err != nil {
		return err
	}
	if all {
		return e.authorizer.GiveBackKeys(ctx)
	}
	e.authorizer.Recall(changed)
	return nil
}
