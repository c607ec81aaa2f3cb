package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/stripe"
)

// Running returns the app of the configuration in force, or nil.
func Running() *App { return running.Load() }

// FindApp returns the app of the configuration that is being loaded, for its
// handlers.
func FindApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.AppIfConfigured("llm_gateway")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errors.New("this handler needs the global option llm_gateway")
	}
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// Acquire keeps the gateway's books open until release is called. All methods
// below need it.
func (a *App) Acquire(ctx context.Context) (release func(), err error) {
	if err := a.engine.acquire(ctx); err != nil {
		return nil, err
	}
	return a.engine.release, nil
}

// Store returns the gateway's books.
func (a *App) Store() billing.Store { return a.engine.store }

// Flush returns when all that is settled so far is posted to the store.
func (a *App) Flush(ctx context.Context) error { return a.engine.poster.Flush(ctx) }

// KeyChanged makes the next request on this node see a changed key.
func (a *App) KeyChanged(ctx context.Context, k billing.Key) error {
	a.engine.keys.forget(billing.Changes{Keys: []billing.KeyRef{{OrganizationID: k.OrganizationID, ID: k.ID}}})
	return a.engine.authorizer.GiveBackKey(ctx, k.ID)
}

// OrganizationChanged makes the next request on this node see an
// organization's changed settings. What was spent here before counts in a new
// budget.
func (a *App) OrganizationChanged(ctx context.Context, org billing.Organization) error {
	a.engine.keys.forget(billing.Changes{Organizations: []string{org.ID}})
	if err := a.engine.poster.Flush(ctx); err != nil {
		return err
	}
	return a.engine.authorizer.GiveBackBudget(ctx, org.ID)
}

// ProjectChanged makes the next request on this node see a project's changed
// settings.
func (a *App) ProjectChanged(ctx context.Context, p billing.Project) error {
	return a.OrganizationChanged(ctx, billing.Organization{ID: p.OrganizationID})
}

// Held is the sum of the organization's open holds on this node.
func (a *App) Held(org string) billing.Money { return a.engine.authorizer.Held(org) }

// Purchaser sells packages of credits; nil if billing is not configured.
func (a *App) Purchaser() billing.Purchaser {
	if a.Billing == nil {
		return nil
	}
	if a.Billing.checkout != nil {
		return stripe.Purchaser{Checkout: a.Billing.checkout, Ledger: a.engine.store}
	}
	return billing.DevelopmentPurchaser{Ledger: a.engine.store}
}

// Health is what a load balancer, and the people behind it, may want to know.
type Health struct {
	// Refusing is why requests are refused at present; nil if they are served.
	Refusing error
	// Opened tells whether the books are open. If not, the rest is not known.
	Opened bool
	// Store is why the store does not answer; nil if it does. That does not
	// matter to requests as long as leases last.
	Store error
	// Journal is why it takes no new requests; nil if it does.
	Journal error
	// Leases is why this node must not spend, or has nothing left to spend
	// while the store is away; nil if it may.
	Leases error
	// Unposted is the number of settlements that are not in the store yet.
	Unposted int
	// Oldest is how long the oldest of these has waited.
	Oldest time.Duration
}

// pingTimeout bounds how long a store that hangs is waited for.
const pingTimeout = 2 * time.Second

// Health returns how the gateway is. It needs no Acquire.
func (a *App) Health(ctx context.Context) Health {
	select {
	case <-a.engine.opened:
	default:
		return Health{Refusing: errors.New("the books are not open yet")}
	}
	release, err := a.Acquire(ctx)
	if err != nil {
		return Health{Refusing: err}
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	h := Health{Opened: true, Store: a.engine.store.Ping(ctx), Journal: a.engine.journal.Ready()}
	h.Leases = a.engine.authorizer.Ready(h.Store)
	h.Refusing = cmp.Or(h.Journal, h.Leases)
	h.Unposted, h.Oldest = a.engine.poster.Lag()
	return h
}
