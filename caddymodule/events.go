package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// The events that the gateway emits through Caddy's app `events`.
const (
	// eventLimitReached: a request was refused for a limit.
	eventLimitReached = "llm_gateway.limit_reached"
	// eventBudgetSoft: spend has reached a soft threshold.
	eventBudgetSoft = "llm_gateway.budget_soft"
	// eventBreakerOpen: a provider is not asked for a while.
	eventBreakerOpen = "llm_gateway.breaker_open"
	// eventLowBalance: an organization's credits run low.
	eventLowBalance = "llm_gateway.low_balance"
)

// maxEvents is how many events wait for their subscribers at most.
const maxEvents = 256

// events hands events to their subscribers, one after the other. It never
// makes a request wait: subscribers may take their time, and run programs.
type events struct {
	log     *zap.Logger
	queue   chan event
	emitter atomic.Pointer[emitter] // of the configuration in force; nil before the first
	ended   chan struct{}           // closed when run has returned

	told perMinute // limits that were reached, by key and limit

	mu   sync.Mutex
	soft map[billing.Payer]softMark
}

type event struct {
	name string
	data map[string]any
}

func newEvents(log *zap.Logger) *events {
	return &events{
		log:   log,
		queue: make(chan event, maxEvents),
		ended: make(chan struct{}),
		soft:  make(map[billing.Payer]softMark),
	}
}

// emitter is what a configuration emits events with. It implements
// caddyevents.Handler for the event that tells that all apps have started: as
// long as the app `events` has not, it must not be used.
type emitter struct {
	events *events
	ctx    caddy.Context
	app    *caddyevents.App
}

// Handle takes over from the configuration before.
func (e *emitter) Handle(context.Context, caddy.Event) error {
	e.events.emitter.Store(e)
	return nil
}

// provisionEvents makes events go to the configuration's subscribers, from
// when it has started.
func (a *App) provisionEvents(ctx caddy.Context) error {
	module, err := ctx.App("events")
	if err != nil {
		return err
	}
	app, ok := module.(*caddyevents.App)
	if !ok {
		return fmt.Errorf("app events is a %T", module)
	}
	return app.On("started", &emitter{events: a.engine.events, ctx: ctx, app: app})
}

// run emits until ctx ends.
func (e *events) run(ctx context.Context) {
	defer close(e.ended)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case next := <-e.queue:
			e.emit(next)
		}
	}
}

// wait returns when run has, or when ctx ends: a subscriber may hang.
func (e *events) wait(ctx context.Context) {
	select {
	case <-e.ended:
	case <-ctx.Done():
		e.log.Warn("a subscriber of events does not return")
	}
}

// emit calls the subscribers. One that panics must not end the gateway.
func (e *events) emit(next event) {
	defer func() {
		if cause := recover(); cause != nil {
			e.log.Error("panic in a subscriber of events", zap.String("event", next.name), zap.Any("panic", cause))
		}
	}()
	to := e.emitter.Load()
	if to == nil || to.ctx.Err() != nil {
		eventsDroppedTotal.Inc()
		return
	}
	to.app.Emit(to.ctx, next.name, next.data)
}

// wanted tells whether anybody would notice an event.
func (e *events) wanted(name string) bool {
	to := e.emitter.Load()
	return to != nil && to.app.ShouldEmit(name)
}

// offer queues an event, unless too many wait.
func (e *events) offer(name string, data map[string]any) bool {
	select {
	case e.queue <- event{name, data}:
		return true
	default:
		eventsDroppedTotal.Inc()
		return false
	}
}

// limitReached tells of a refusal for a limit: once in a calendar minute for
// each key and limit, since a client that is refused may try again at once.
func (e *events) limitReached(c *call, refused *refusal) {
	if c.key == nil || !refused.isLimit() || !e.wanted(eventLimitReached) {
		return
	}
	if !e.told.take(c.key.ID+":"+refused.text, 1, c.engine.now()) {
		return
	}
	data := map[string]any{
		"organization_id": c.row.OrganizationID,
		"key_id":          c.row.KeyID,
		"key_name":        c.row.KeyName,
		"project":         c.row.Project,
		"limit":           refused.text,
	}
	if kind, ok := refused.spendKind(); ok {
		data["kind"] = spendKinds[kind]
		if start := c.periodOf(kind); !start.IsZero() {
			data["period_start"] = formatTime(start)
		}
	}
	e.offer(eventLimitReached, data)
}

// spendKind is whose spend has reached its limit; false if the refusal is for
// something else.
func (e *refusal) spendKind() (billing.AllowanceKind, bool) {
	switch {
	case e.text == refuseSpend.text:
		return billing.KeySpend, true
	case e.text != refuseBudget.text:
		return "", false
	case errors.Is(e, billing.ErrProjectBudgetExceeded):
		return billing.ProjectBudget, true
	default:
		return billing.Budget, true
	}
}

// periodOf is the start of the request's period of an allowance; zero if that
// has none.
func (c *call) periodOf(kind billing.AllowanceKind) time.Time {
	for _, a := range c.allowances() {
		if a.Kind == kind && a.Period != billing.Never {
			return a.Start
		}
	}
	return time.Time{}
}

// softMark is the last period and limit that was told.
type softMark struct {
	allowance billing.Allowance
	limit     billing.Money
}

// covers tells whether a soft limit need not be told after the mark: it is the
// same, or a request of the period before was the last to get here.
func (m softMark) covers(l billing.SoftLimit) bool {
	if l.Allowance == m.allowance {
		return l.Spend == m.limit
	}
	return l.Allowance.Start.Before(m.allowance.Start) && !l.Allowance.Overlaps(m.allowance)
}

// spendKinds are what subscribers are told of whose spend it is.
var spendKinds = map[billing.AllowanceKind]string{
	billing.Budget: "organization", billing.ProjectBudget: "project", billing.KeySpend: "key",
}

// budgetSoft tells that spend has reached a soft limit: once for each period
// and limit, however often it is called.
func (e *events) budgetSoft(r *billing.SoftReached) {
	if !e.wanted(eventBudgetSoft) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	payer := r.Allowance.Payer()
	if last, told := e.soft[payer]; told && last.covers(r.SoftLimit) {
		return
	}
	data := map[string]any{
		"organization_id": payer.OrganizationID,
		"kind":            spendKinds[payer.Kind],
		"id":              payer.Subject,
		"period":          string(r.Allowance.Period),
		"spent_nanos":     int64(r.Spent),
		"threshold_nanos": int64(r.Spend),
	}
	if payer.Kind == billing.Budget {
		data["id"] = payer.OrganizationID
	}
	if r.Allowance.Period != billing.Never {
		data["period_start"] = formatTime(r.Allowance.Start)
	}
	if e.offer(eventBudgetSoft, data) {
		e.soft[payer] = softMark{r.Allowance, r.Spend}
	}
}

// breakerOpen tells that a provider is not asked until retryAt.
func (e *events) breakerOpen(provider, reason string, retryAt time.Time) {
	if !e.wanted(eventBreakerOpen) {
		return
	}
	e.offer(eventBreakerOpen, map[string]any{
		"provider": provider,
		"reason":   reason,
		"retry_at": formatTime(retryAt),
	})
}

// lowBalance tells that an organization's credits are below the threshold.
func (e *events) lowBalance(org string, balance, threshold metering.Money) bool {
	return e.offer(eventLowBalance, map[string]any{
		"organization_id": org,
		"balance_nanos":   int64(balance),
		"threshold_nanos": int64(threshold),
	})
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Interface guard
var _ caddyevents.Handler = (*emitter)(nil)
