package caddymodule

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/stripe"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// Billing configures how credits are bought.
type Billing struct {
	// Mode is "development": purchases are granted at once, without payment;
	// or "stripe": they are paid for at Stripe Checkout first.
	Mode string `json:"mode"`
	// SecretKey opens Stripe's API: a placeholder such as
	// {env.STRIPE_SECRET_KEY}, resolved when the configuration is loaded.
	SecretKey string `json:"secret_key,omitempty"`
	// WebhookSecret proves that webhooks are Stripe's. It is usually a
	// placeholder, too.
	WebhookSecret string `json:"webhook_secret,omitempty"`
	// SuccessURL is where the customer's browser goes after it has paid.
	// Default: "/" at the address that the purchase was asked of.
	SuccessURL string `json:"success_url,omitempty"`
	// CancelURL is where it goes from a purchase that is not paid for.
	// Default: like SuccessURL.
	CancelURL string `json:"cancel_url,omitempty"`
	// APIBase is the address of a server to use in place of Stripe's, for
	// tests.
	APIBase string `json:"api_base,omitempty"`
	// Packages are what can be bought.
	Packages []*Package `json:"packages,omitempty"`

	checkout *stripe.Checkout
}

const (
	billingDevelopment = "development"
	billingStripe      = "stripe"
)

// Package is an amount of credits at a price.
type Package struct {
	// ID names the package.
	ID string `json:"id"`
	// Price in USD, as a decimal such as "10.00".
	Price string `json:"price"`
	// Credits in USD, as a decimal.
	Credits string `json:"credits"`
}

// provision resolves the secrets. It does not connect to Stripe.
func (b *Billing) provision(repl *caddy.Replacer) error {
	if b.Mode != billingStripe {
		return nil
	}
	var err error
	b.checkout, err = stripe.NewCheckout(stripe.Config{
		SecretKey:     repl.ReplaceAll(b.SecretKey, ""),
		WebhookSecret: repl.ReplaceAll(b.WebhookSecret, ""),
		SuccessURL:    b.SuccessURL,
		CancelURL:     b.CancelURL,
		APIBase:       b.APIBase,
	})
	if err != nil {
		return fmt.Errorf("billing stripe: %w", err)
	}
	return nil
}

// Packages returns what credits can be bought, in the order configured.
func (a *App) Packages() ([]billing.Package, error) {
	if a.Billing == nil {
		return nil, nil
	}
	var list []billing.Package
	for _, p := range a.Billing.Packages {
		price, err := metering.ParseUSD(p.Price)
		if err != nil {
			return nil, fmt.Errorf("package %s: price: %w", p.ID, err)
		}
		credits, err := metering.ParseUSD(p.Credits)
		if err != nil {
			return nil, fmt.Errorf("package %s: credits: %w", p.ID, err)
		}
		if p.ID == "" || price < 0 || credits <= 0 {
			return nil, fmt.Errorf("package %q: want a name, a price of at least 0 and credits above 0", p.ID)
		}
		if a.Billing.Mode == billingStripe {
			if _, err := stripe.Cents(price); err != nil {
				return nil, fmt.Errorf("package %s: %w", p.ID, err)
			}
		}
		if slices.ContainsFunc(list, func(q billing.Package) bool { return q.ID == p.ID }) {
			return nil, fmt.Errorf("package %q: defined twice", p.ID)
		}
		list = append(list, billing.Package{ID: p.ID, Price: price, Credits: credits})
	}
	return list, nil
}

func (a *App) parseBilling(d *caddyfile.Dispenser) error {
	a.Billing = new(Billing)
	if !d.Args(&a.Billing.Mode) {
		return d.ArgErr()
	}
	options := make(map[string]*string)
	switch b := a.Billing; b.Mode {
	case billingDevelopment:
	case billingStripe:
		options["secret_key"], options["webhook_secret"] = &b.SecretKey, &b.WebhookSecret
		options["success_url"], options["cancel_url"] = &b.SuccessURL, &b.CancelURL
		options["api_base"] = &b.APIBase
	default:
		return d.Errf("unknown billing mode %q: use development or stripe", b.Mode)
	}
	if err := noMore(d); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := a.parseBillingOption(d, options); err != nil {
			return err
		}
	}
	if b := a.Billing; b.Mode == billingStripe && (b.SecretKey == "" || b.WebhookSecret == "") {
		return d.Err("billing stripe needs a secret_key and a webhook_secret")
	}
	return nil
}

func (a *App) parseBillingOption(d *caddyfile.Dispenser, options map[string]*string) error {
	if value, ok := options[d.Val()]; ok {
		if *value != "" {
			return d.Errf("billing option %q is given twice", d.Val())
		}
		return oneArg(d, value)
	}
	if d.Val() != "package" {
		return d.Errf("unrecognized option %q of billing %s", d.Val(), a.Billing.Mode)
	}
	p := new(Package)
	if !d.Args(&p.ID, &p.Price, &p.Credits) {
		return d.Err("want: package <name> <price in USD> <credits in USD>")
	}
	if err := noMore(d); err != nil {
		return err
	}
	a.Billing.Packages = append(a.Billing.Packages, p)
	if _, err := a.Packages(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
