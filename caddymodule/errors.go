package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// refusal is an answer of the gateway's own to a proxy request. Its text is
// part of the contract with clients.
type refusal struct {
	status int
	text   string
	// help says what to do about it, where the text alone does not.
	help       string
	retryAfter time.Duration
	cause      error
}

func (e *refusal) Error() string {
	if e.cause != nil {
		return e.text + ": " + e.cause.Error()
	}
	return e.text
}

func (e *refusal) Unwrap() error { return e.cause }

// because returns the refusal with its cause, which is logged and not shown.
func (e refusal) because(err error) *refusal {
	e.cause = err
	return &e
}

var (
	refuseUnknownProvider = refusal{status: http.StatusBadRequest, text: "unknown provider"}
	refuseInvalidPath     = refusal{status: http.StatusBadRequest, text: "invalid request path"}

	refuseMissingKey = refusal{status: http.StatusUnauthorized, text: "missing proxy key"}
	refuseInvalidKey = refusal{status: http.StatusUnauthorized, text: "invalid proxy key"}
	refuseRevokedKey = refusal{status: http.StatusForbidden, text: "key_revoked"}
	refuseExpiredKey = refusal{status: http.StatusForbidden, text: "key_expired"}
	refuseIP         = refusal{status: http.StatusForbidden, text: "ip_blocked"}

	refuseNotConfigured = refusal{status: http.StatusBadRequest, text: "provider not configured"}
	refuseProvider      = refusal{status: http.StatusForbidden, text: "provider_not_allowed"}
	refuseModel         = refusal{status: http.StatusForbidden, text: "model_not_allowed"}

	refuseInvalidBody = refusal{status: http.StatusBadRequest, text: "invalid request body"}
	refuseLargeBody   = refusal{status: http.StatusRequestEntityTooLarge, text: "request body too large"}
	refuseUnpriced    = refusal{status: http.StatusBadRequest, text: "model not priced"}

	refuseRate = refusal{status: http.StatusTooManyRequests, text: "rate_limited"}

	refuseSpend   = refusal{status: http.StatusForbidden, text: "spend_exceeded"}
	refuseCredits = refusal{status: http.StatusForbidden, text: "insufficient_credits"}
	refuseBudget  = refusal{status: http.StatusForbidden, text: "budget_exceeded"}

	refuseUpstream = refusal{status: http.StatusBadGateway, text: "upstream request failed"}
	refuseLedger   = refusal{status: http.StatusServiceUnavailable, text: "ledger unavailable", retryAfter: time.Second}
)

// refuseSpending turns an authorizer's error into the answer for it.
func refuseSpending(err error) *refusal {
	switch {
	case errors.Is(err, billing.ErrSpendExceeded):
		return refuseSpend.because(err)
	case errors.Is(err, billing.ErrInsufficientCredits):
		return refuseCredits.because(err)
	case errors.Is(err, billing.ErrBudgetExceeded):
		return refuseBudget.because(err)
	default:
		return refuseLedger.because(err)
	}
}

// write answers the client, unless a response has already begun.
func (e *refusal) write(w http.ResponseWriter) {
	body, err := json.Marshal(struct {
		Error   string `json:"error"`
		Message string `json:"message,omitempty"`
	}{e.text, e.help})
	if err != nil {
		body = []byte(`{"error":"internal error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Gateway-Error", e.text)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(max(1, (e.retryAfter+time.Second-1)/time.Second))))
	}
	w.WriteHeader(e.status)
	w.Write(body)
}
