package billing

import (
	"context"
	"errors"
)

// ErrWebhook: a webhook is not from the payment provider.
var ErrWebhook = errors.New("not a webhook of the payment provider")

// Package is an amount of credits for sale.
type Package struct {
	// ID is its name in the configuration, by which it is bought.
	ID string
	// Price is what the customer pays, Credits what they get for it.
	Price   Money
	Credits Money
}

// Purchaser sells packages to organizations.
type Purchaser interface {
	// Purchase grants the credits, or says where to pay for them. An order
	// that repeats the idempotency key of an earlier one returns the receipt
	// of that one; for another package it returns ErrConflict.
	Purchase(ctx context.Context, o Order) (Receipt, error)
}

// WebhookReceiver is a Purchaser whose customers pay elsewhere first. The
// payment provider sends a webhook when they have.
type WebhookReceiver interface {
	// Webhook takes a webhook's body, as it came, and its signature. It
	// returns ErrWebhook for one that the provider did not sign; after other
	// errors the provider should deliver it again.
	Webhook(ctx context.Context, body []byte, signature string) error
}

// Order is one attempt to buy a package.
type Order struct {
	OrganizationID string
	Package        Package
	// Actor is who ordered, for the ledger.
	Actor string
	// IdempotencyKey is the buyer's own name for this order; "" if the buyer
	// does not intend to repeat it.
	IdempotencyKey string
	// ReturnURL is where the buyer's browser goes after paying, unless the
	// configuration names another place.
	ReturnURL string
}

// Receipt is what came of an order: either the ledger entry that granted the
// credits, or the page at which the customer pays first.
type Receipt struct {
	Entry       *Entry
	CheckoutURL string
}
