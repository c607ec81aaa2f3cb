package caddymodule

import (
	"errors"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
)

// newNode describes this process to the other nodes.
func newNode(j *journal.Journal) billing.Node {
	host, _ := os.Hostname() // only for people to read
	version, _ := caddy.Version()
	return billing.Node{
		ID: j.Node(), Incarnation: j.Incarnation(), Host: host, Version: version, StartedAt: time.Now(),
	}
}

// status is what the node tells with each heartbeat.
func (e *engine) status() billing.Node {
	n := e.node
	n.LeaseTTL = time.Duration(e.leaseTTL.Load())
	if e.poster != nil {
		n.Unposted, n.Lag = e.poster.Lag()
	}
	return n
}

// apply takes over what a configuration says about the running engine.
func (e *engine) apply(a *App) {
	e.leaseTTL.Store(int64(max(0, a.LeaseTTL)))
	e.leaseAhead.Store(int64(a.LeaseAhead))
	e.retention.Store(int64(a.Retention))
	e.balances.threshold.Store(int64(a.lowBalance))
}

func (e *engine) nodeExpired(n billing.Node) {
	e.log.Warn("node sends no heartbeats: its leases were given back. What it has not posted is in its journal",
		zap.String("node", n.ID), zap.Float64("lease_ttl_seconds", n.LeaseTTL.Seconds()))
}

func (e *engine) heartbeatFailed(err error) {
	if errors.Is(err, billing.ErrReplaced) {
		e.outageLog.Error("two gateways use copies of one journal directory: requests are refused here. "+
			"Give each its own directory, then restart", zap.String("journal", e.config.journalDir), zap.Error(err))
		return
	}
	e.outageLog.Warn("cannot tell the store that this node is alive", zap.Error(err))
}

func (e *engine) leasesFailed(err error) {
	e.outageLog.Warn("cannot work on leases in the background; will try again", zap.Error(err))
}

func (e *engine) quotasFailed(err error) {
	e.outageLog.Warn("cannot draw quotas from the store; will try again", zap.Error(err))
}
