package billing

import (
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Settlement is what one request really used and cost: its audit row, and,
// if it cost anything, its debit. It never holds content of prompts or
// completions.
type Settlement struct {
	// RequestID is NewID(RequestIDPrefix, At), unique in the organization.
	// Stores look for times by the ids: a request whose id is of another time
	// is missed by those who ask for a range of time.
	RequestID      string
	OrganizationID string
	KeyID          string
	KeyName        string
	// Project that the key belonged to; "" for none.
	Project string
	// At is when the request arrived. It decides the period that the cost
	// belongs to, and the prices.
	At time.Time

	Provider string
	// Model is the one that was priced: the response's, else the request's.
	Model    string
	Endpoint string

	Usage       metering.Usage
	UsageSource metering.Source
	// UsageMismatch marks counts that do not add up to the provider's total.
	UsageMismatch bool
	// ServiceTier as the provider reported it.
	ServiceTier string

	// Cost is what the organization pays, at its own rate.
	Cost Money
	// MarketCost is what the provider's list price comes to.
	MarketCost  Money
	PriceRuleID string
	// PriceSheet is the text of the metering.Sheet by which it was priced; ""
	// without a price.
	PriceSheet string

	Latency time.Duration
	TTFB    time.Duration
	// Status that the client was answered with; 0 if it left before that.
	Status int
	// Error is the gateway's error string, or what ended the response early.
	Error     string
	ClientIP  string
	UserAgent string
	Streaming bool
	// Attempts to get an answer from a provider, and what became of each.
	Attempts   int
	AttemptLog []Attempt
	// Changes lists the parameters that a translation had to alter.
	Changes []string

	// Recovered marks a settlement made by replaying a journal that has no
	// settlement for this request. A store that already has one keeps it.
	Recovered bool
}

// Attempt is one try to get an answer from a provider. The customer pays for
// the one that answered.
type Attempt struct {
	Provider string `json:"provider"`
	Model    string `json:"model,omitempty"`
	// Credential is the label of the one that was used.
	Credential string `json:"credential,omitempty"`
	// Status that the provider answered with; 0 without an answer.
	Status int `json:"status,omitempty"`
	// Error is why there was no answer, or no whole one.
	Error    string        `json:"error,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}
