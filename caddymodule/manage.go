package caddymodule

import (
	"context"
	"errors"

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
	// Store is why the store does not answer; nil if it does.
	Store error
	// Unposted is the number of settlements that are not in the store yet.
	Unposted int
}

// Ready returns an error if requests are being refused: the books are not
// open, this node must not spend, or the store is away and leases have run
// out. A store that is away does not matter before that.
func (a *App) Ready(ctx context.Context) (Health, error) {
	select {
	case <-a.engine.opened:
	default:
		return Health{}, errors.New("the books are not open yet")
	}
	h := Health{Store: a.engine.store.Ping(ctx), Unposted: a.engine.poster.Pending()}
	return h, a.engine.authorizer.Ready(h.Store)
}
