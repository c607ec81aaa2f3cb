// Package stripe sells packages of credits for money: customers pay at
// Stripe Checkout, and Stripe's webhook says when they have.
package stripe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/checkout/session"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Bounds on what a purchase waits for Stripe. Within the longer one a failed
// attempt is repeated; Stripe knows by the idempotency key that it is the same.
const (
	attemptTimeout  = 8 * time.Second
	purchaseTimeout = 20 * time.Second
	maxRetries      = 2
)

// Config is a Stripe account and where to send customers.
type Config struct {
	// SecretKey opens Stripe's API: sk_... or, with less power, rk_...
	SecretKey string
	// WebhookSecret proves that a webhook is Stripe's: whsec_...
	WebhookSecret string
	// SuccessURL and CancelURL are where the customer's browser goes after
	// it has paid, or not. "" stands for the ReturnURL of the order.
	SuccessURL string
	CancelURL  string
	// APIBase is the address of another server that speaks Stripe's API, for
	// tests. "" is Stripe.
	APIBase string
}

// Checkout is a configured Stripe account.
type Checkout struct {
	sessions      session.Client
	webhookSecret string
	successURL    string
	cancelURL     string
}

// NewCheckout checks the configuration. It does not connect.
func NewCheckout(c Config) (*Checkout, error) {
	switch {
	case c.SecretKey == "":
		return nil, errors.New("secret_key is empty; is its environment variable set?")
	case c.WebhookSecret == "": // else anybody could sign webhooks with it
		return nil, errors.New("webhook_secret is empty; is its environment variable set?")
	}
	for name, address := range map[string]string{"success_url": c.SuccessURL, "cancel_url": c.CancelURL, "api_base": c.APIBase} {
		if u, err := url.Parse(address); address != "" && (err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http")) {
			return nil, fmt.Errorf("%s %q: want an http or https address", name, address)
		}
	}
	return &Checkout{
		sessions:      session.Client{B: backend(c.APIBase), Key: c.SecretKey},
		webhookSecret: c.WebhookSecret,
		successURL:    c.SuccessURL,
		cancelURL:     c.CancelURL,
	}, nil
}

// backend shares nothing with other users of the Stripe library in this
// process, and logs nothing: errors are returned.
func backend(base string) stripe.Backend {
	config := &stripe.BackendConfig{
		EnableTelemetry: stripe.Bool(false),
		HTTPClient: &http.Client{
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				ForceAttemptHTTP2:   true,
				IdleConnTimeout:     time.Minute,
				TLSHandshakeTimeout: attemptTimeout,
			},
			Timeout: attemptTimeout,
		},
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
		MaxNetworkRetries: stripe.Int64(maxRetries),
	}
	if base != "" {
		config.URL = stripe.String(base)
	}
	return stripe.GetBackendWithConfig(stripe.APIBackend, config)
}

// Purchaser sells packages through Stripe Checkout and grants them when
// Stripe says that they are paid for.
type Purchaser struct {
	Checkout *Checkout
	Ledger   billing.Ledger
}

// Purchase makes a page at which to pay for the package. Stripe remembers an
// order's idempotency key for at least a day; a repetition after that makes
// another page. It returns ErrConflict for one that was used for another
// package.
func (p Purchaser) Purchase(ctx context.Context, o billing.Order) (billing.Receipt, error) {
	params, err := p.Checkout.params(o)
	if err != nil {
		return billing.Receipt{}, fmt.Errorf("package %s: %w", o.Package.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, purchaseTimeout)
	defer cancel()
	params.Context = ctx
	s, err := p.Checkout.sessions.New(params)
	if err != nil {
		return billing.Receipt{}, fmt.Errorf("create checkout session: %w", asConflict(err))
	}
	if s.URL == "" {
		return billing.Receipt{}, fmt.Errorf("create checkout session: session %s has no address", s.ID)
	}
	return billing.Receipt{CheckoutURL: s.URL}, nil
}

func (c *Checkout) params(o billing.Order) (*stripe.CheckoutSessionParams, error) {
	cents, err := Cents(o.Package.Price)
	if err != nil {
		return nil, err
	}
	params := &stripe.CheckoutSessionParams{
		Mode:              stripe.String(string(stripe.CheckoutSessionModePayment)),
		ClientReferenceID: stripe.String(o.OrganizationID),
		SuccessURL:        stripe.String(cmp.Or(c.successURL, o.ReturnURL)),
		CancelURL:         stripe.String(cmp.Or(c.cancelURL, o.ReturnURL)),
		LineItems: []*stripe.CheckoutSessionLineItemParams{{
			Quantity: stripe.Int64(1),
			PriceData: &stripe.CheckoutSessionLineItemPriceDataParams{
				Currency:   stripe.String(string(stripe.CurrencyUSD)),
				UnitAmount: stripe.Int64(cents),
				ProductData: &stripe.CheckoutSessionLineItemPriceDataProductDataParams{
					Name: stripe.String("Credits: package " + o.Package.ID),
				},
			},
		}},
	}
	grant{organization: o.OrganizationID, packageID: o.Package.ID, credits: o.Package.Credits, actor: o.Actor}.write(params)
	if o.IdempotencyKey != "" {
		params.SetIdempotencyKey(idempotencyKey(o))
	}
	return params, nil
}

// idempotencyKey is an order's key in an account that all organizations share.
func idempotencyKey(o billing.Order) string {
	sum := sha256.Sum256([]byte(strconv.Quote(o.OrganizationID) + o.IdempotencyKey))
	return "order_" + hex.EncodeToString(sum[:])
}

// asConflict adds ErrConflict to the error that Stripe has for a used key. The
// one that a simultaneous repetition gets is another.
func asConflict(err error) error {
	answer, ok := errors.AsType[*stripe.Error](err)
	if ok && answer.Type == stripe.ErrorTypeIdempotency && answer.Code != stripe.ErrorCodeIdempotencyKeyInUse {
		return fmt.Errorf("%w: %w", billing.ErrConflict, err)
	}
	return err
}

const (
	nanosPerCent = 10_000_000
	// What Stripe takes in one payment in USD, in cents.
	minCents = 50
	maxCents = 99_999_999
)

// Cents is a price as Stripe takes it. Others than those of whole cents from
// 0.50 to 999,999.99 USD are errors.
func Cents(price billing.Money) (int64, error) {
	cents := int64(price) / nanosPerCent
	switch {
	case int64(price)%nanosPerCent != 0:
		return 0, fmt.Errorf("price %s USD is not in whole cents", price)
	case cents < minCents || cents > maxCents:
		return 0, fmt.Errorf("price %s USD is not between 0.50 and 999999.99", price)
	}
	return cents, nil
}

var (
	_ billing.Purchaser       = Purchaser{}
	_ billing.WebhookReceiver = Purchaser{}
)
