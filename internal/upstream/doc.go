// Package upstream decides whether, when and with which credential a provider
// is asked: a circuit breaker for each provider, a pool of its credentials, and
// a policy of retries. It sends nothing itself.
//
// What is known about a provider is kept in a Registry, so that it survives
// changes of the configuration.
package upstream

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Registry keeps what is known about providers and their credentials. Entries
// stay as long as the process: there are as many as were ever configured.
type Registry struct {
	now     func() time.Time
	changed func(provider string, c Change)

	mu        sync.Mutex
	providers map[place]*Provider
}

// place is what identifies a provider: another address is another service.
type place struct{ name, baseURL string }

// NewRegistry returns a registry that goes by the clock. It calls changed after
// each change of a breaker's state, outside of any lock.
func NewRegistry(now func() time.Time, changed func(provider string, c Change)) *Registry {
	return &Registry{now: now, changed: changed, providers: make(map[place]*Provider)}
}

// Provider returns what is known about a provider.
func (r *Registry) Provider(name, baseURL string) *Provider {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := place{name, baseURL}
	p := r.providers[key]
	if p == nil {
		p = &Provider{
			Breaker: NewBreaker(r.now, func(c Change) { r.changed(name, c) }),
			now:     r.now,
			health:  make(map[[sha256.Size]byte]*health),
		}
		r.providers[key] = p
	}
	return p
}

// Provider is what is known about one provider.
type Provider struct {
	Breaker *Breaker

	now    func() time.Time
	mu     sync.Mutex
	health map[[sha256.Size]byte]*health
}

// healthOf returns what is known about a credential, whatever its label. Only
// its hash is kept.
func (p *Provider) healthOf(secret string) *health {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := sha256.Sum256([]byte(secret))
	h := p.health[key]
	if h == nil {
		h = &health{now: p.now}
		p.health[key] = h
	}
	return h
}
