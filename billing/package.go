package billing

import "context"

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

// Order is one attempt to buy a package.
type Order struct {
	OrganizationID string
	Package        Package
	// Actor is who ordered, for the ledger.
	Actor string
	// IdempotencyKey is the buyer's own name for this order; "" if the buyer
	// does not intend to repeat it.
	IdempotencyKey string
}

// Receipt is what came of an order: either the ledger entry that granted the
// credits, or the page at which the customer pays first.
type Receipt struct {
	Entry       *Entry
	CheckoutURL string
}
