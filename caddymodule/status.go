package caddymodule

import (
	"maps"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// ProviderStatus is how this node sees a provider.
type ProviderStatus struct {
	Name     string
	Protocol metering.Protocol
	BaseURL  string
	// Configured tells whether it has a credential.
	Configured bool
	// Breaker is its circuit breaker: "closed", "open" or "half_open".
	Breaker string
	// Consecutive is the number of failures in a row.
	Consecutive int
	// OpenedAt is when the breaker last opened, and RetryAt when a request may
	// go through as a probe; zero while it is closed.
	OpenedAt, RetryAt time.Time
	// Requests, Failures and Outcomes count the attempts of the last minute.
	Requests, Failures int
	Outcomes           map[string]int
	Credentials        []CredentialStatus
}

// CredentialStatus is how this node sees a credential of a provider.
type CredentialStatus struct {
	Label  string
	Weight int
	// RestingUntil is zero if it does not rest; else Reason says why it does:
	// "rate_limited" or "unauthorized".
	RestingUntil time.Time
	Reason       string
	// Requests and Failures are attempts since the process started.
	Requests, Failures int64
}

// ProviderStatus tells how this node sees the providers, by name.
func (a *App) ProviderStatus() []ProviderStatus {
	list := make([]ProviderStatus, 0, len(a.Providers))
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		list = append(list, a.Providers[name].status())
	}
	return list
}

func (p *Provider) status() ProviderStatus {
	b := p.state.Breaker.Status()
	s := ProviderStatus{
		Name: p.name, Protocol: p.Protocol, BaseURL: p.base.String(), Configured: p.configured(),
		Breaker: b.State.String(), Consecutive: b.Consecutive, OpenedAt: b.OpenedAt, RetryAt: b.RetryAt,
		Requests: b.LastMinute.Total(), Failures: b.LastMinute.Failures(), Outcomes: make(map[string]int),
	}
	for class, n := range b.LastMinute {
		s.Outcomes[upstream.Class(class).String()] = n
	}
	if p.credentials == nil {
		return s
	}
	for _, c := range p.credentials.Status() {
		status := CredentialStatus{
			Label: c.Label, Weight: c.Weight, RestingUntil: c.RestingUntil, Requests: c.Requests, Failures: c.Failures,
		}
		if !c.RestingUntil.IsZero() {
			status.Reason = c.Reason.String()
		}
		s.Credentials = append(s.Credentials, status)
	}
	return s
}
