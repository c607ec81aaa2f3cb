package billing

import (
	"context"
	"time"
)

// QuotaKind says what a quota counts.
type QuotaKind string

const (
	// KeyRPM: requests of a key in a calendar minute.
	KeyRPM QuotaKind = "key_rpm"
	// OrganizationRPM: requests of all keys of an organization in one.
	OrganizationRPM QuotaKind = "organization_rpm"
	// KeyTPM: tokens of a key in one, input and output together.
	KeyTPM QuotaKind = "key_tpm"
	// KeyConcurrency: requests of a key that are open.
	KeyConcurrency QuotaKind = "key_concurrency"
)

// Quota is a limit on what is counted, not paid. What the allowances are for
// money it is for requests and tokens: the store hands out parts of it, which
// nodes use up without asking.
type Quota struct {
	Kind           QuotaKind
	OrganizationID string
	// Subject is the key's id; "" for what all keys of an organization share.
	Subject string
	// Start of the minute in which is counted; the zero time for
	// KeyConcurrency.
	Start time.Time
}

// Draw is what a node would like to have of a quota, and what it has used of
// it. All numbers are absolute, so that a draw may be repeated after an unknown
// outcome.
type Draw struct {
	Quota Quota
	// Limit of the quota, as the node knows it.
	Limit int64
	// Used is what the node has used so far.
	Used int64
	// Want is what the node wants to be granted in all: no less than Used. Less
	// than it has gives the difference back.
	Want int64
	// Least is what it needs in all to have any use of more than it has used.
	// Where there is less, it keeps nothing beyond that for itself.
	Least int64
	// Serial grows with each draw of a process. One that arrives behind a later
	// one changes nothing.
	Serial int64
}

// Drawn answers a draw.
type Drawn struct {
	// Granted is what the node may use in all. It is less than it had been
	// granted if it wants less, or the limit is lower now.
	Granted int64
	// UsedElsewhere and UnusedElsewhere are of what the other nodes have been
	// granted, as they have told last.
	UsedElsewhere, UnusedElsewhere int64
}

// Quotas hand parts of quotas to nodes. At every commit, for each quota that
// was drawn from by one limit: granted <= limit, over all nodes. What a node has
// used above its grant counts as granted.
type Quotas interface {
	// Draw grants what is wanted as far as the limits leave room, each draw of
	// another quota. The answer has the order of the draws.
	Draw(ctx context.Context, node string, draws []Draw) ([]Drawn, error)
	// ForgetQuotas removes what was counted in minutes that began before the
	// given time. A call removes a bounded number, and tells whether there may be
	// more.
	ForgetQuotas(ctx context.Context, before time.Time) (more bool, err error)
	// AskForQuotas asks all other nodes to give back what they have not used.
	// It is a hint, and may get lost.
	AskForQuotas(ctx context.Context, node string, quotas []Quota) error
	// ListenForQuotas calls asked with what other nodes ask for, until ctx
	// ends, or with an error when the connection is lost.
	ListenForQuotas(ctx context.Context, node string, asked func([]Quota)) error
}
