package caddymodule

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents/eventsconfig" // the global option

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func init() {
	caddy.RegisterModule(executor{})
}

// executor is a subscriber in the place of one that runs a program: it passes
// on what the program's arguments would be.
type executor struct {
	Args []string `json:"args"`
}

// executed has what the executors of all configurations were called with.
var executed = make(chan []string, 100)

func (executor) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(executor) }}
}

func (e *executor) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the handler's name
	e.Args = d.RemainingArgs()
	return nil
}

func (e *executor) Handle(ctx context.Context, _ caddy.Event) error {
	replacer := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	var args []string
	for _, arg := range e.Args {
		args = append(args, replacer.ReplaceAll(arg, ""))
	}
	executed <- args
	return nil
}

// wantExecuted waits for an event and compares the program's arguments.
func wantExecuted(t *testing.T, want ...string) {
	t.Helper()
	select {
	case got := <-executed:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
	case <-time.After(time.Minute):
		t.Fatalf("no event; want %q", want)
	}
}

// subscriptions are global options that subscribe to all events.
func subscriptions(mark string) string {
	return fmt.Sprintf(`events {
		on llm_gateway.limit_reached exec %[1]s {event.name} {event.module} {event.data.organization_id} {event.data.key_name} {event.data.limit} {event.data.period_start}
		on llm_gateway.low_balance exec %[1]s {event.name} {event.data.organization_id} {event.data.balance_nanos} {event.data.threshold_nanos}
		on llm_gateway.budget_soft exec %[1]s {event.name} {event.data.kind} {event.data.id} {event.data.spent_nanos} {event.data.threshold_nanos} {event.data.period} {event.data.period_start}
		on llm_gateway.breaker_open exec %[1]s {event.name} {event.data.provider} {event.data.reason} {event.data.retry_at}
	}`, mark)
}

func TestEventsReachTheSubscribersOfTheConfigurationInForce(t *testing.T) {
	n := &node{sandbox: sandbox.New(), globals: subscriptions("first")}
	upstream := httptest.NewServer(n.sandbox)
	defer upstream.Close()
	dir := t.TempDir()
	n.load(t, dir, upstream.URL, "low_balance 0.10")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	n.buy(t, metering.USD)
	none := metering.Money(0)
	spent := n.key(t, func(k *billing.Key) { k.UsageLimit, k.UsageLimitReset = &none, billing.Monthly })
	res := n.do(t, "POST", chat, spent, hello)
	month := n.row(t, res.Header.Get("X-Request-Id")).At.UTC().Format("2006-01") + "-01T00:00:00Z"
	wantExecuted(t, "first", eventLimitReached, "llm_gateway", billing.DefaultOrganization, "test", "spend_exceeded", month)

	n.globals = subscriptions("second")
	n.load(t, dir, upstream.URL, "low_balance 2.50")
	wantExecuted(t, "second", eventLowBalance, billing.DefaultOrganization, "1000000000", "2500000000")
	rated := n.key(t, func(k *billing.Key) { k.RateLimitRPM, k.UsageLimit = 1, &none })
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var warnedID string
	warned := n.key(t, func(k *billing.Key) {
		warnedID, k.UsageSoftLimit, k.UsageLimitReset = k.ID, &none, billing.Monthly
	})
	res = n.do(t, "POST", chat, warned, hello)
	if got := res.Header.Get("X-Budget-Warning"); got != "approaching_limit" {
		t.Errorf("X-Budget-Warning is %q", got)
	}
	month = n.row(t, res.Header.Get("X-Request-Id")).At.UTC().Format("2006-01") + "-01T00:00:00Z"
	wantExecuted(t, "second", eventBudgetSoft, "key", warnedID, "0", "0", "monthly", month)
	n.app.engine.events.breakerOpen("openai", "10 failures in a row", at)
	wantExecuted(t, "second", eventBreakerOpen, "openai", "10 failures in a row", "2026-11-01T00:00:00Z")

	n.globals = ""
	n.load(t, dir, upstream.URL, "")
	n.do(t, "POST", chat, rated, hello) // nobody is told

	n.globals = subscriptions("third")
	n.load(t, dir, upstream.URL, "")
	short := n.key(t, nil)
	n.do(t, "POST", chat, short, `{"model":"gpt-4o","max_tokens":1000000,"messages":[]}`)
	wantExecuted(t, "third", eventLimitReached, "llm_gateway", billing.DefaultOrganization, "test", "insufficient_credits", "")
}

// subscribed returns events with one subscriber for all, in a configuration
// of its own that has started.
func subscribed(t *testing.T, subscriber caddyevents.Handler) *events {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	app := new(caddyevents.App)
	if err := app.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := app.On("", subscriber); err != nil {
		t.Fatal(err)
	}
	e := newEvents(zap.NewNop())
	if err := (&emitter{events: e, ctx: ctx, app: app}).Handle(t.Context(), caddy.Event{}); err != nil {
		t.Fatal(err)
	}
	return e
}

type handlerFunc func(caddy.Event)

func (f handlerFunc) Handle(_ context.Context, e caddy.Event) error {
	f(e)
	return nil
}

// queued takes what waits to be emitted.
func (e *events) queued() (data []map[string]any) {
	for len(e.queue) > 0 {
		data = append(data, (<-e.queue).data)
	}
	return data
}

func TestLimitReachedIsToldOnceAMinuteForEachKeyAndLimit(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 30, 0, time.UTC)
	e := &engine{events: subscribed(t, handlerFunc(func(caddy.Event) {}))}
	e.clock.Store(new(func() time.Time { return now }))
	refuse := func(key string, refused refusal) {
		c := &call{app: new(App), engine: e, key: &proxyKey{Key: billing.Key{ID: key}}}
		c.key.organization.Budget, c.key.organization.BudgetPeriod = new(metering.Money), billing.Daily
		c.key.project.Budget, c.key.project.BudgetPeriod = new(metering.Money), billing.Monthly
		c.row.At, c.row.KeyID = now, key
		e.events.limitReached(c, &refused)
	}
	for range 3 {
		refuse("key_1", refuseRate)
		refuse("key_1", refuseBudget)
		refuse("key_2", refuseRate)
		refuse("key_2", refuseModel)
		refuse("key_2", refuseLedger)
		refuse("key_3", *refuseBudget.because(billing.ErrProjectBudgetExceeded))
		refuse("key_3", refuseSpend)
	}
	now = now.Add(time.Minute)
	refuse("key_2", refuseRate)
	var got []string
	for _, data := range e.events.queued() {
		got = append(got, fmt.Sprint(data["key_id"], " ", data["limit"], " ", data["kind"], " ", data["period_start"]))
	}
	want := []string{
		"key_1 rate_limited <nil> <nil>",
		"key_1 budget_exceeded organization 2026-11-23T00:00:00Z",
		"key_2 rate_limited <nil> <nil>",
		"key_3 budget_exceeded project 2026-11-01T00:00:00Z",
		"key_3 spend_exceeded key <nil>",
		"key_2 rate_limited <nil> <nil>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestBudgetSoftIsToldOnceForEachPeriodAndThreshold(t *testing.T) {
	t.Parallel()
	e := subscribed(t, handlerFunc(func(caddy.Event) {}))
	today := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	period := billing.Daily
	reach := func(id string, days int, threshold metering.Money) {
		e.budgetSoft(&billing.SoftReached{
			SoftLimit: billing.SoftLimit{
				Allowance: billing.Allowance{
					OrganizationID: "org", Kind: billing.KeySpend, Subject: id,
					Period: period, Start: period.Start(today.AddDate(0, 0, days), billing.Sunday),
				},
				Spend: threshold,
			},
			Spent: 10,
		})
	}
	for range 3 {
		reach("a", 0, 5)
		reach("b", 0, 5)
	}
	reach("a", 0, 7) // the threshold was changed
	reach("a", 1, 7)
	reach("a", 0, 7) // a late request
	reach("a", 1, 7)
	period = billing.Monthly // which begins before the day that was told last
	for range 2 {
		reach("a", 1, 7)
	}
	var got []string
	for _, data := range e.queued() {
		got = append(got, fmt.Sprint(data["id"], " ", data["period_start"], " ", data["threshold_nanos"]))
	}
	want := []string{"a 2026-11-23T00:00:00Z 5", "b 2026-11-23T00:00:00Z 5", "a 2026-11-23T00:00:00Z 7", "a 2026-11-24T00:00:00Z 7",
		"a 2026-11-01T00:00:00Z 7"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestLowBalanceIsToldOnceUntilItWasAbove(t *testing.T) {
	t.Parallel()
	store, _ := openBooks(t)
	e := &engine{store: store, events: subscribed(t, handlerFunc(func(caddy.Event) {})), balances: newBalances()}
	org := billing.Organization{ID: billing.DefaultOrganization, Name: "test", CreatedAt: time.Now()}
	if err := store.EnsureOrganization(t.Context(), org); err != nil {
		t.Fatal(err)
	}
	e.balances.threshold.Store(int64(5 * metering.USD))
	entries := 0
	change := func(amount metering.Money) {
		t.Helper()
		entries++
		_, err := store.Append(t.Context(), billing.Entry{
			OrganizationID: billing.DefaultOrganization, Type: billing.Adjustment, Amount: amount,
			CreatedAt: time.Now(), IdempotencyKey: fmt.Sprint(entries), Reason: "test", Actor: "test",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	used := []billing.Settlement{{OrganizationID: billing.DefaultOrganization}}
	check := func(when string, want ...int64) {
		t.Helper()
		for range 2 {
			if err := e.checkBalances(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var got []int64
		for _, data := range e.events.queued() {
			got = append(got, data["balance_nanos"].(int64))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	change(5 * metering.USD)
	e.balances.use(used)
	check("at the threshold")
	change(-1)
	check("below, and not used since")
	e.balances.use(used)
	check("below", int64(5*metering.USD)-1)
	change(-metering.USD)
	e.balances.use(used)
	check("further below")
	change(2 * metering.USD)
	check("above again")
	change(-2 * metering.USD)
	e.balances.use(used)
	check("below again", int64(4*metering.USD)-1)

	ended, end := context.WithCancel(t.Context())
	end()
	change(2 * metering.USD)
	if err := e.checkBalances(ended); err == nil {
		t.Error("no error without an answer of the store")
	}
	check("above, seen late")
	change(-2 * metering.USD)
	e.balances.use(used)
	if err := e.checkBalances(ended); err == nil {
		t.Error("no error without an answer of the store")
	}
	check("below, seen late", int64(4*metering.USD)-1)
}

func TestEventsWaitForNobody(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, maxEvents)
	e := subscribed(t, handlerFunc(func(caddy.Event) {
		entered <- struct{}{}
		<-release
		panic("in a subscriber")
	}))
	ctx, stop := context.WithCancel(t.Context())
	go e.run(ctx)
	e.breakerOpen("openai", "slow", time.Now())
	<-entered
	before := gathered(t, "caddy_llm_gateway_events_dropped_total")
	for range maxEvents + 10 {
		e.breakerOpen("openai", "slow", time.Now())
	}
	if dropped := gathered(t, "caddy_llm_gateway_events_dropped_total") - before; dropped != 10 {
		t.Errorf("%v events were dropped, want 10", dropped)
	}
	stop()
	hung, giveUp := context.WithCancel(t.Context())
	giveUp()
	e.wait(hung) // returns although the subscriber does not
	close(release)
	e.wait(t.Context())
}

// A configuration that has ended has no subscribers, though requests may run.
func TestEventsOfAnEndedConfigurationAreDropped(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	app := new(caddyevents.App)
	if err := app.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := app.On("", handlerFunc(func(caddy.Event) { t.Error("a subscriber was called") })); err != nil {
		t.Fatal(err)
	}
	e := newEvents(zap.NewNop())
	before := gathered(t, "caddy_llm_gateway_events_dropped_total")
	e.emit(event{name: eventBreakerOpen}) // before any configuration has started
	e.emitter.Store(&emitter{events: e, ctx: ctx, app: app})
	cancel()
	e.emit(event{name: eventBreakerOpen})
	if dropped := gathered(t, "caddy_llm_gateway_events_dropped_total") - before; dropped != 2 {
		t.Errorf("%v events were dropped, want 2", dropped)
	}
}
