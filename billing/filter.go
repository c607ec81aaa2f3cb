package billing

import (
	"net/netip"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Detail selects requests by what their audit rows say. Zero values select all;
// of several values in a list, each will do.
type Detail struct {
	RequestID    string
	KeyNames     []string
	Endpoints    []string
	Errors       []string
	UsageSources []metering.Source
	PriceRuleIDs []string
	// Statuses are HTTP status codes, and 0; a number from 1 to 5 stands for all
	// codes that begin with it.
	Statuses []int
	// ClientIP is the network of the client, or its one address.
	ClientIP netip.Prefix
	// UserAgent is contained in the client's, whatever the case of its ASCII
	// letters.
	UserAgent string
	Streaming *bool
	// Changed tells whether a translation had to alter parameters.
	Changed          *bool
	Cost             Range[Money]
	MarketCost       Range[Money]
	Latency          Range[time.Duration]
	TTFB             Range[time.Duration]
	PromptTokens     Range[int64]
	CompletionTokens Range[int64]
	CachedTokens     Range[int64]
	// Tokens are those of prompt and completion together.
	Tokens   Range[int64]
	Attempts Range[int64]
}

// EntryFilter selects entries. Zero values select all.
type EntryFilter struct {
	// From is inclusive, To exclusive.
	From, To time.Time
	// ID is that of one entry.
	ID string
	// Types are those that will do.
	Types []EntryType
}

// Range bounds a number, both bounds inclusive; nil is none.
type Range[T ~int64] struct{ Min, Max *T }
