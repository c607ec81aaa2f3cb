package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// verifyEvery is how often what is new in the books is verified.
	verifyEvery = time.Minute
	// verifyFirst is how long after the start the first time is, to leave a
	// cold start its processor.
	verifyFirst = 5 * time.Second
)

// checkNodeLeases is the check that a node makes of itself.
const checkNodeLeases = "node leases"

// verifier proves the books, for the gauge and for whoever asks.
type verifier struct {
	// nodeLeases compares what this node believes to have leased with what the
	// store has for it, and returns the sum of the differences; nil for no such
	// check.
	nodeLeases func(ctx context.Context) (billing.Money, error)

	turn chan struct{} // one verification at a time
	last map[billing.VerifyMode]billing.Verification
}

func newVerifier() *verifier {
	return &verifier{turn: make(chan struct{}, 1), last: make(map[billing.VerifyMode]billing.Verification)}
}

// Verify proves the books, those of the store and this node's own.
func (a *App) Verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	return a.engine.verify(ctx, o)
}

func (e *engine) verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	v := e.verifier
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return billing.Verification{}, ctx.Err()
	}
	found, err := e.store.Verify(ctx, o)
	if err != nil {
		return billing.Verification{}, err
	}
	if v.nodeLeases != nil {
		off, err := v.nodeLeases(ctx)
		if err != nil {
			return billing.Verification{}, fmt.Errorf("verify the node's leases: %w", err)
		}
		found.Checks = append(found.Checks, billing.Check{Name: checkNodeLeases, Imbalance: off})
	}
	report(e.log, v.last[found.Mode], found)
	v.observe(found)
	return found, nil
}

// observe sets the gauges. What a full verification found stays until another
// one finds nothing: an incremental one may not look there.
func (v *verifier) observe(found billing.Verification) {
	v.last[found.Mode] = found
	var worst billing.Money
	for _, last := range v.last {
		worst = max(worst, last.Imbalance())
	}
	imbalanceNanos.Set(float64(worst))
	verifiedTimestamp.Set(float64(found.At.UnixMilli()) / 1000)
}

// report logs what is wrong, once until it changes.
func report(log *zap.Logger, last, found billing.Verification) {
	failed := found.Failed()
	same := slices.EqualFunc(failed, last.Failed(), func(a, b billing.Check) bool {
		return a.Name == b.Name && a.Imbalance == b.Imbalance
	})
	log = log.With(
		zap.String("mode", string(found.Mode)),
		zap.Int64("imbalance_nanos", int64(found.Imbalance())),
		zap.Int64("entries", found.Entries),
		zap.Int64("requests", found.Requests),
		zap.Duration("duration", found.Duration),
	)
	switch {
	case same:
		log.Debug("the books are verified")
	case len(failed) == 0:
		log.Info("the books balance again")
	default:
		var names, examples []string
		for _, c := range failed {
			names = append(names, c.Name)
			for _, d := range c.Examples {
				examples = append(examples, d.String())
			}
		}
		log.Error("the books do not balance", zap.Strings("checks", names), zap.Strings("examples", examples))
	}
}

// watchBooks verifies what is new in the books, again and again.
func (e *engine) watchBooks(ctx context.Context) {
	next := time.NewTimer(verifyFirst)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		_, err := e.verify(ctx, billing.VerifyOptions{Mode: billing.Incremental})
		if err != nil && ctx.Err() == nil {
			e.log.Warn("cannot verify the books", zap.Error(err))
		}
		next.Reset(verifyEvery)
	}
}
