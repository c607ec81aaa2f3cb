// Package billing knows whose money it is: organizations, proxy keys, the
// limits on what they may spend, the holds of open requests and the
// settlements of finished ones. It keeps its books in a Store.
package billing

import (
	"errors"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Money is an amount in nano-USD.
type Money = metering.Money

// DefaultOrganization is the id of the organization that a first start
// creates, and that the operator's token acts on unless told otherwise.
const DefaultOrganization = "default"

var (
	// ErrAway: the store does not answer. It may later.
	ErrAway = errors.New("store does not answer")
	// ErrNotFound: no such key, request, entry or organization.
	ErrNotFound = errors.New("not found")
	// ErrConflict: an idempotency key was used before, for other content.
	ErrConflict = errors.New("idempotency key was used for other content")
	// ErrExists: there is one already.
	ErrExists = errors.New("exists already")
	// ErrLastOwner: the organization would be left without an owner.
	ErrLastOwner = errors.New("an organization needs an owner")
	// ErrBalanceRange: a balance would be more than Money can hold, or less.
	ErrBalanceRange = errors.New("balance out of range")
	// ErrInvalid: a settlement cannot be booked, now or ever.
	ErrInvalid = errors.New("settlement cannot be booked")
	// ErrTooManySecrets: MaxPreviousSecrets of the key still work.
	ErrTooManySecrets = errors.New("too many earlier secrets of the key still work")
	// ErrRevoked: the key is revoked, which cannot be undone.
	ErrRevoked = errors.New("key is revoked")
)

// Organization owns keys and credits.
type Organization struct {
	ID        string
	Name      string
	CreatedAt time.Time
	// Budget is the spend allowed in each period, all keys together; nil is
	// no limit.
	Budget       *Money
	BudgetPeriod Period
	// BudgetSoft is the spend in each period from which on requests are served
	// with a warning; nil is none.
	BudgetSoft *Money
	// WeekStart is the day that weekly periods begin on; "" leaves it to the
	// gateway's configuration.
	WeekStart WeekStart
	// RateLimitRPM is requests per calendar minute, all keys together; 0 is no
	// limit.
	RateLimitRPM int64
	// HoldStrict holds the most that a request may cost before it is sent,
	// rather than an estimate.
	HoldStrict bool
}

// Account is an organization's money.
type Account struct {
	Organization Organization
	// Balance is the sum of all ledger entries.
	Balance Money
}

// EntryType says why a ledger entry exists.
type EntryType string

const (
	Purchase   EntryType = "purchase"
	UsageDebit EntryType = "usage_debit"
	Adjustment EntryType = "adjustment"
	Refund     EntryType = "refund"
	Dispute    EntryType = "dispute"
)

// Entry is one line of an organization's ledger. Entries are only ever
// appended.
type Entry struct {
	ID             string
	OrganizationID string
	Type           EntryType
	// Amount is negative for a debit.
	Amount Money
	// BalanceAfter is the organization's balance including this entry.
	BalanceAfter Money
	CreatedAt    time.Time
	// RequestID is the request that a usage_debit pays for.
	RequestID string
	// PaymentID is the payment that a purchase, refund or dispute belongs to.
	PaymentID string
	// Reason and Actor explain an adjustment.
	Reason string
	Actor  string
	// IdempotencyKey makes a repeated append harmless. It is unique within
	// the organization.
	IdempotencyKey string
}
