package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/caddymodule"
	"github.com/danielgtaylor/huma/v2"
)

// provider is how this node sees a provider.
type provider struct {
	Name        string         `json:"name" doc:"The first part of its routes."`
	Protocol    string         `json:"protocol" enum:"openai,anthropic,gemini"`
	BaseURL     string         `json:"base_url"`
	Configured  bool           `json:"configured" doc:"Whether it has a credential."`
	Breaker     breaker        `json:"breaker"`
	LastMinute  recentAttempts `json:"last_minute" doc:"Attempts of the last sixty seconds."`
	Credentials []credential   `json:"credentials" nullable:"false"`
}

// breaker is a circuit breaker.
type breaker struct {
	State    string     `json:"state" enum:"closed,half_open,open" doc:"open: nothing is sent; half_open: the next request is a probe, or one is under way."`
	Failures int        `json:"consecutive_failures"`
	OpenedAt *time.Time `json:"opened_at" doc:"When it last opened; null while it is closed."`
	RetryAt  *time.Time `json:"retry_at" doc:"When the next request goes through as a probe; null while it is closed."`
}

// recentAttempts are attempts by outcome.
type recentAttempts struct {
	Requests int            `json:"requests"`
	Failures int            `json:"failures" doc:"Those that count against the provider: server_error, timed_out, unreachable."`
	Outcomes map[string]int `json:"outcomes"`
}

// credential is what requests are sent with, without its secret.
type credential struct {
	Label        string     `json:"label"`
	Weight       int        `json:"weight" doc:"Its share of the requests, relative to the others'."`
	RestingUntil *time.Time `json:"resting_until" doc:"Until then others are preferred; null if it does not rest."`
	Reason       *string    `json:"reason" doc:"Why it rests: rate_limited or unauthorized."`
	Requests     int64      `json:"requests" doc:"Since the process started, as are the failures."`
	Failures     int64      `json:"failures"`
}

func newProvider(s caddymodule.ProviderStatus) provider {
	return provider{
		Name: s.Name, Protocol: string(s.Protocol), BaseURL: s.BaseURL, Configured: s.Configured,
		Breaker: breaker{
			State: s.Breaker, Failures: s.Consecutive, OpenedAt: timeOrNil(s.OpenedAt), RetryAt: timeOrNil(s.RetryAt),
		},
		LastMinute:  recentAttempts{Requests: s.Requests, Failures: s.Failures, Outcomes: s.Outcomes},
		Credentials: mapped(s.Credentials, newCredential),
	}
}

func newCredential(s caddymodule.CredentialStatus) credential {
	return credential{
		Label: s.Label, Weight: s.Weight, RestingUntil: timeOrNil(s.RestingUntil), Reason: orNil(s.Reason),
		Requests: s.Requests, Failures: s.Failures,
	}
}

func (a *api) registerProviders() {
	register(a, huma.Operation{
		OperationID: "list-providers", Method: http.MethodGet, Path: "/v1/providers", Tags: []string{"Providers"},
		Summary: "How this node sees the providers, by name",
	}, a.listProviders)
}

func (a *api) listProviders(context.Context, *struct{}) (*body[list[provider]], error) {
	return &body[list[provider]]{list[provider]{Data: mapped(a.gateway.Providers(), newProvider)}}, nil
}
