package upstream

import (
	"sync"
	"time"
)

const (
	// restRateLimited is how long a credential rests after a 429 that does not
	// say how long, and restUnauthorized after a 401 or 403; at first.
	restRateLimited  = 30 * time.Second
	restUnauthorized = time.Minute
	maxRest          = 10 * time.Minute
)

// Credential is what requests are sent with.
type Credential struct {
	// Label names the credential wherever it is told of.
	Label  string
	Secret string
	// Weight is its share of the requests, relative to the others'.
	Weight int

	health *health
}

// health is what is known about a credential.
type health struct {
	now func() time.Time

	mu                 sync.Mutex
	requests, failures int64
	until              time.Time // it rests until then
	reason             Class
	streak             int // rests in a row
}

// restingUntil is the end of the credential's rest, if it rests.
func (h *health) restingUntil(now time.Time) (until time.Time, rests bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until, h.until.After(now)
}

// Use is a credential in use for one attempt.
type Use struct {
	*Credential
	streak int // when it was picked
}

// Report says what became of the attempt. A credential that was refused rests:
// as long as the provider says, or else twice as long each time. It reports
// whether a rest began. Several that were refused at once are one refusal.
func (u Use) Report(class Class, retryAfter time.Duration) (rested bool) {
	h := u.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if class != Abandoned {
		h.requests++
	}
	first := u.streak == h.streak
	switch class {
	case RateLimited, Unauthorized:
		h.failures++
		if first {
			h.streak++
		}
		h.until, h.reason = later(h.until, h.now().Add(restOf(class, retryAfter, h.streak))), class
		return first
	case OK:
		if first {
			h.streak, h.until = 0, time.Time{}
		}
	default:
		if class.Failure() {
			h.failures++
		}
	}
	return false
}

func restOf(class Class, retryAfter time.Duration, streak int) time.Duration {
	if class == RateLimited && retryAfter > 0 {
		return min(retryAfter, maxRest)
	}
	rest := restRateLimited
	if class == Unauthorized {
		rest = restUnauthorized
	}
	for range streak - 1 {
		if rest *= 2; rest >= maxRest {
			return maxRest
		}
	}
	return rest
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Pool shares requests among the credentials of a provider by their weights,
// those of the same credential spread out. That one rests only means that
// others are preferred: if all do, the one that wakes first is used.
type Pool struct {
	now         func() time.Time
	credentials []*Credential

	mu      sync.Mutex
	credits []int // of each; the one with the most is next
}

// NewPool returns a pool of at least one credential of the provider.
func (p *Provider) NewPool(credentials []Credential) *Pool {
	pool := &Pool{now: p.now, credits: make([]int, len(credentials))}
	for _, c := range credentials {
		c.health = p.healthOf(c.Secret)
		pool.credentials = append(pool.credentials, &c)
	}
	return pool
}

// Pick returns the credential for the next attempt.
func (p *Pool) Pick() Use {
	chosen := p.credentials[0]
	if len(p.credentials) > 1 {
		chosen = p.next(p.now())
	}
	chosen.health.mu.Lock()
	defer chosen.health.mu.Unlock()
	return Use{chosen, chosen.health.streak}
}

// next takes turns: each credential that does not rest earns its weight, and
// the one that has earned the most pays for all.
func (p *Pool) next(now time.Time) *Credential {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, total := -1, 0
	soonest, wakes := 0, time.Time{}
	for i, c := range p.credentials {
		if until, rests := c.health.restingUntil(now); rests {
			if wakes.IsZero() || until.Before(wakes) {
				soonest, wakes = i, until
			}
			continue
		}
		p.credits[i] += c.Weight
		total += c.Weight
		if best < 0 || p.credits[i] > p.credits[best] {
			best = i
		}
	}
	if best < 0 {
		return p.credentials[soonest]
	}
	p.credits[best] -= total
	return p.credentials[best]
}

// Ready tells whether there is a credential that does not rest.
func (p *Pool) Ready() bool {
	now := p.now()
	for _, c := range p.credentials {
		if _, rests := c.health.restingUntil(now); !rests {
			return true
		}
	}
	return false
}

// CredentialStatus is what is known about a credential.
type CredentialStatus struct {
	Label  string
	Weight int
	// RestingUntil is zero if it does not rest; else Reason says why it does.
	RestingUntil time.Time
	Reason       Class
	// Requests and Failures are attempts since the process started.
	Requests, Failures int64
}

// Status tells how the credentials stand, in the order configured.
func (p *Pool) Status() []CredentialStatus {
	now := p.now()
	list := make([]CredentialStatus, len(p.credentials))
	for i, c := range p.credentials {
		list[i] = c.status(now)
	}
	return list
}

func (c *Credential) status(now time.Time) CredentialStatus {
	h := c.health
	h.mu.Lock()
	defer h.mu.Unlock()
	s := CredentialStatus{Label: c.Label, Weight: c.Weight, Requests: h.requests, Failures: h.failures}
	if h.until.After(now) {
		s.RestingUntil, s.Reason = h.until, h.reason
	}
	return s
}
