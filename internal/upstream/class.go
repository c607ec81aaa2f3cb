package upstream

import "net/http"

// Class is what became of one attempt.
type Class uint8

const (
	// OK is an answer that is not an error.
	OK Class = iota
	// Rejected is an error of the request's own: any other status of 4xx.
	Rejected
	// RateLimited is status 429.
	RateLimited
	// Unauthorized is status 401 or 403.
	Unauthorized
	// ServerError is a status of 5xx.
	ServerError
	// TimedOut is no answer in time, or status 408.
	TimedOut
	// Unreachable is a connection that was not made, or broke.
	Unreachable
	// Abandoned is an attempt without a verdict: the client left.
	Abandoned

	classes = int(Abandoned) // those that are counted
)

func (c Class) String() string {
	return [...]string{
		"ok", "rejected", "rate_limited", "unauthorized", "server_error", "timed_out", "unreachable", "abandoned",
	}[c]
}

// Failure tells whether the attempt counts against the provider. A 429, 401 or
// 403 is about the credential and any other 4xx about the request: the provider
// is up, and others are served. If these opened the breaker, one client with
// bad requests, or one used up credential, would lock out all.
func (c Class) Failure() bool { return c == ServerError || c == TimedOut || c == Unreachable }

// ClassOf is the class of an answer with the status.
func ClassOf(status int) Class {
	switch {
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Unauthorized
	case status == http.StatusRequestTimeout:
		return TimedOut
	case status >= http.StatusInternalServerError:
		return ServerError
	case status >= http.StatusBadRequest:
		return Rejected
	}
	return OK
}
