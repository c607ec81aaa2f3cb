package admin

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// maxRemembered is how many keys a memory has at least.
const maxRemembered = 4096

// memory remembers the keys that were used last, in two generations: when the
// younger is full, the older is forgotten, so that any number of them takes
// little memory.
type memory[K comparable, V any] struct{ young, older map[K]V }

// get returns what there is of a key, which is used by that.
func (m *memory[K, V]) get(key K) (v V, ok bool) {
	if v, ok = m.young[key]; ok {
		return v, true
	}
	if v, ok = m.older[key]; ok {
		m.put(key, v)
	}
	return v, ok
}

func (m *memory[K, V]) put(key K, v V) {
	if _, known := m.young[key]; !known && (m.young == nil || len(m.young) >= maxRemembered) {
		m.older, m.young = m.young, make(map[K]V)
	}
	m.young[key] = v
}

func (m *memory[K, V]) forget(key K) {
	delete(m.young, key)
	delete(m.older, key)
}

// addressLimit limits what clients may do, by their addresses.
type addressLimit struct {
	every time.Duration
	burst int
	now   func() time.Time

	mu      sync.Mutex
	clients memory[netip.Prefix, *rate.Limiter]
}

// check fails if the client has nothing left.
func (l *addressLimit) check(client string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing(client, l.now())
}

// count takes one from what the client has left.
func (l *addressLimit) count(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(client).AllowN(l.now(), 1)
}

// take is both, of which nothing comes in between.
func (l *addressLimit) take(client string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if err := l.missing(client, now); err != nil {
		return err
	}
	l.of(client).AllowN(now, 1)
	return nil
}

// missing fails if the client has nothing left. The caller holds mu.
func (l *addressLimit) missing(client string, now time.Time) error {
	missing := 1 - l.of(client).TokensAt(now)
	if missing <= 0 {
		return nil
	}
	return tooMany(time.Duration(missing * float64(l.every)))
}

func (l *addressLimit) of(client string) *rate.Limiter {
	network := networkOf(client)
	limiter, ok := l.clients.get(network)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(l.every), l.burst)
		l.clients.put(network, limiter)
	}
	return limiter
}

// networkOf is what one client has addresses of: a single one of IPv4, 2^64 of
// IPv6. Those without an address share one.
func networkOf(client string) netip.Prefix {
	address, err := netip.ParseAddr(client)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	network, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

func tooMany(wait time.Duration) error {
	seconds := max(1, int64(math.Ceil(wait.Seconds())))
	return &problem{
		status:     http.StatusTooManyRequests,
		Message:    fmt.Sprintf("too many attempts from your address: try again in %d seconds", seconds),
		retryAfter: seconds,
	}
}

// accepted are the credentials that were right lately, by their hashes. Those of
// operators are apart, so that no number of others makes them forgotten.
type accepted struct {
	mu                sync.Mutex
	operators, others memory[billing.KeyHash, struct{}]
}

func (a *accepted) has(hash billing.KeyHash) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, operator := a.operators.get(hash)
	_, other := a.others.get(hash)
	return operator || other
}

func (a *accepted) add(hash billing.KeyHash, operator bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if operator {
		a.operators.put(hash, struct{}{})
		return
	}
	a.others.put(hash, struct{}{})
}

func (a *accepted) forget(hash billing.KeyHash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.operators.forget(hash)
	a.others.forget(hash)
}

// admit finds out whose a credential is, unless too many wrong ones have come
// from the address. What was right lately is not held up by the wrong ones of
// others there: it is no guess.
func (a *api) admit(l *addressLimit, c *caller, credential string, identify func() error) error {
	hash := billing.HashSecret(credential)
	if !a.accepted.has(hash) {
		if err := l.check(c.clientIP); err != nil {
			return err
		}
	}
	err := identify()
	switch {
	case err == nil:
		a.accepted.add(hash, c.role == billing.RoleOperator)
	case credential != "" && isRefused(err):
		a.accepted.forget(hash)
		l.count(c.clientIP)
	}
	return err
}
