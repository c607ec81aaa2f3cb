package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// balancesPoll is how often the balances of organizations that have used this
// node since are compared with low_balance.
const balancesPoll = 3 * time.Second

// parseLowBalance reads the option low_balance.
func parseLowBalance(text string) (metering.Money, error) {
	amount, err := metering.ParseUSD(text)
	if err != nil || amount <= 0 {
		return 0, fmt.Errorf("low_balance %q: want an amount of USD above 0, such as 5.00", text)
	}
	return amount, nil
}

// balances finds the organizations whose credits run low. The store is read in
// the background, and only for those whose balance may have changed here.
type balances struct {
	threshold atomic.Int64 // in nano-USD; 0 is off

	mu   sync.Mutex
	used map[string]bool // since they were last compared

	low map[string]bool // were told; of the watching goroutine
}

func newBalances() *balances {
	return &balances{used: make(map[string]bool), low: make(map[string]bool)}
}

// use notes whose requests were posted, refused ones as well: those may be
// refused because there is nothing left.
func (b *balances) use(batch []billing.Settlement) {
	if b.threshold.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range batch {
		b.used[batch[i].OrganizationID] = true
	}
}

// take returns the organizations to compare: those that were used, and those
// that were low, which may have bought credits since.
func (b *balances) take() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	due := b.used
	b.used = make(map[string]bool)
	maps.Copy(due, b.low)
	return due
}

// retry keeps organizations for the next comparison.
func (b *balances) retry(due map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(b.used, due)
}

// watchBalances tells of organizations whose credits run low.
func (e *engine) watchBalances(ctx context.Context) {
	each(ctx, balancesPoll, func() {
		if err := e.checkBalances(ctx); err != nil && ctx.Err() == nil {
			e.outageLog.Warn("cannot compare balances with low_balance; will try again", zap.Error(err))
		}
	})
}

// checkBalances tells of each organization once when its balance falls below
// the threshold, and again only after it was above.
func (e *engine) checkBalances(ctx context.Context) error {
	threshold := metering.Money(e.balances.threshold.Load())
	if threshold == 0 || !e.events.wanted(eventLowBalance) {
		return nil
	}
	due := e.balances.take()
	for org := range due {
		account, err := e.store.Account(ctx, org)
		if err != nil {
			e.balances.retry(due)
			return err
		}
		switch {
		case account.Balance >= threshold:
			delete(e.balances.low, org)
		case e.balances.low[org]:
		case e.events.lowBalance(org, account.Balance, threshold):
			e.balances.low[org] = true
		default:
			e.balances.retry(map[string]bool{org: true})
		}
	}
	return nil
}
