package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// refusal is an error that the provider answers.
type refusal struct {
	status  int
	message string
	// code is the machine-readable reason, for protocols that have one.
	code string
	// retryAfter is in seconds, 0 to say nothing.
	retryAfter int64
}

func (e *refusal) Error() string { return fmt.Sprintf("%d: %s", e.status, e.message) }

// invalid is the refusal of a request that makes no sense.
func invalid(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

// scripted is the refusal that a script asked for.
func scripted(status int, retryAfter int64) *refusal {
	return &refusal{status: status, message: "The sandbox was told to fail.", retryAfter: retryAfter}
}

// body returns the refusal as the protocol words it.
func (e *refusal) body(p metering.Protocol, requestID string) []byte {
	var v any
	switch p {
	case metering.Anthropic:
		v = map[string]any{
			"type":       "error",
			"error":      map[string]any{"type": anthropicErrorType(e.status), "message": e.message},
			"request_id": requestID,
		}
	case metering.Gemini:
		v = map[string]any{"error": e.geminiStatus()}
	default:
		kind, code := openAIErrorType(e.status)
		if e.code != "" {
			code = e.code
		}
		v = map[string]any{"error": map[string]any{
			"message": e.message, "type": kind, "param": nil, "code": orNull(code),
		}}
	}
	body, _ := json.Marshal(v) // strings and numbers always marshal
	return body
}

func (e *refusal) geminiStatus() map[string]any {
	s := map[string]any{"code": e.status, "message": e.message, "status": geminiErrorStatus(e.status)}
	switch {
	case e.code != "":
		s["details"] = []any{map[string]any{
			"@type":  "type.googleapis.com/google.rpc.ErrorInfo",
			"reason": e.code, "domain": "googleapis.com",
		}}
	case e.retryAfter > 0:
		s["details"] = []any{map[string]any{
			"@type":      "type.googleapis.com/google.rpc.RetryInfo",
			"retryDelay": fmt.Sprintf("%ds", e.retryAfter),
		}}
	}
	return s
}

func openAIErrorType(status int) (kind, code string) {
	switch {
	case status == http.StatusUnauthorized:
		return "invalid_request_error", "invalid_api_key"
	case status == http.StatusTooManyRequests:
		return "requests", "rate_limit_exceeded"
	case status >= http.StatusInternalServerError:
		return "server_error", ""
	}
	return "invalid_request_error", ""
}

// statusOverloaded is Anthropic's own.
const statusOverloaded = 529

func anthropicErrorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout:
		return "timeout_error"
	case statusOverloaded:
		return "overloaded_error"
	}
	if status >= http.StatusInternalServerError {
		return "api_error"
	}
	return "invalid_request_error"
}

func geminiErrorStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	if status >= http.StatusInternalServerError {
		return "INTERNAL"
	}
	return "INVALID_ARGUMENT"
}

// orNull is nil for an empty string, so that JSON says null.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
