package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
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
	refuseModelFormat = refusal{status: http.StatusBadRequest, text: "model must use provider/model format"}
	refuseProtocol    = refusal{status: http.StatusBadRequest, text: "provider not supported in unified mode"}
	refuseLargeBody   = refusal{status: http.StatusRequestEntityTooLarge, text: "request body too large"}
	refuseUnpriced    = refusal{status: http.StatusBadRequest, text: "model not priced"}

	refuseRate             = refusal{status: http.StatusTooManyRequests, text: "rate_limited"}
	refuseOrganizationRate = refusal{status: http.StatusTooManyRequests, text: "organization_rate_limited"}
	refuseTokenRate        = refusal{status: http.StatusTooManyRequests, text: "token_rate_limited"}
	refuseConcurrency      = refusal{status: http.StatusTooManyRequests, text: "concurrency_limited", retryAfter: time.Second}

	refuseSpend   = refusal{status: http.StatusForbidden, text: "spend_exceeded"}
	refuseCredits = refusal{status: http.StatusForbidden, text: "insufficient_credits"}
	refuseBudget  = refusal{status: http.StatusForbidden, text: "budget_exceeded"}

	refuseUpstream    = refusal{status: http.StatusBadGateway, text: "upstream request failed"}
	refuseUnavailable = refusal{status: http.StatusServiceUnavailable, text: "provider temporarily unavailable"}
	refuseLedger      = refusal{status: http.StatusServiceUnavailable, text: "ledger unavailable", retryAfter: time.Second}
)

// isLimit tells whether the request would be served if a limit were higher.
func (e *refusal) isLimit() bool {
	switch e.text {
	case refuseSpend.text, refuseCredits.text, refuseBudget.text:
		return true
	}
	return e.status == http.StatusTooManyRequests
}

// refuseSpending turns an authorizer's error into the answer for it.
func (c *call) refuseSpending(err error) *refusal {
	switch {
	case errors.Is(err, billing.ErrSpendExceeded):
		return refuseSpend.because(err)
	case errors.Is(err, billing.ErrInsufficientCredits):
		return refuseCredits.because(err)
	case errors.Is(err, billing.ErrBudgetExceeded):
		refused := refuseBudget.because(err)
		refused.help = "the organization's budget does not cover this request"
		return refused
	case errors.Is(err, billing.ErrProjectBudgetExceeded):
		refused := refuseBudget.because(err)
		refused.help = fmt.Sprintf("the budget of project %q does not cover this request", c.key.Project)
		return refused
	default:
		return refuseLedger.because(err)
	}
}

// errorProtocol is the protocol whose SDKs are to parse the gateway's errors;
// "" for the gateway's own shape.
func (c *call) errorProtocol() metering.Protocol {
	if c.app.ErrorFormat == errorFormatProvider {
		return c.protocol()
	}
	return ""
}

// write answers the client, unless a response has already begun.
func (e *refusal) write(w http.ResponseWriter, protocol metering.Protocol) {
	body, err := json.Marshal(e.body(protocol))
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

// body is the error in the shape of the protocol, or the gateway's own. The
// text is always in it, as the code where the shape has one.
func (e *refusal) body(protocol metering.Protocol) any {
	message := e.text
	if e.help != "" {
		message += ": " + e.help
	}
	switch protocol {
	case metering.OpenAI:
		return map[string]any{"error": map[string]any{
			"message": message, "type": e.openAIType(), "param": nil, "code": e.text,
		}}
	case metering.Anthropic:
		return map[string]any{"type": "error", "error": map[string]any{
			"type": e.anthropicType(), "message": message, "code": e.text,
		}}
	case metering.Gemini:
		return map[string]any{"error": map[string]any{
			"code": e.status, "message": message, "status": e.geminiStatus(),
			"details": []any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": e.text}},
		}}
	}
	if e.help == "" {
		return map[string]any{"error": e.text}
	}
	return map[string]any{"error": e.text, "message": e.help}
}

func (e *refusal) openAIType() string {
	switch {
	case e.status == http.StatusUnauthorized:
		return "authentication_error"
	case e.status == http.StatusForbidden:
		return "permission_error"
	case e.status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case e.status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}

func (e *refusal) anthropicType() string {
	switch {
	case e.status == http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case e.status >= http.StatusInternalServerError:
		return "api_error"
	}
	return e.openAIType()
}

func (e *refusal) geminiStatus() string {
	switch e.status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return "UNAVAILABLE"
	}
	return "INVALID_ARGUMENT"
}
