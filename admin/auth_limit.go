package admin

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxLimited is how many clients an addressLimit remembers at least.
const maxLimited = 4096

// addressLimit limits what clients may do, by their addresses. It remembers the
// clients of two generations: when the younger is full, the older is forgotten,
// so that any number of addresses takes little memory.
type addressLimit struct {
	every time.Duration
	burst int
	now   func() time.Time

	mu           sync.Mutex
	young, older map[netip.Prefix]*rate.Limiter
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
	if limiter := l.young[network]; limiter != nil {
		return limiter
	}
	limiter := l.older[network]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Every(l.every), l.burst)
	}
	if l.young == nil || len(l.young) >= maxLimited {
		l.older, l.young = l.young, make(map[netip.Prefix]*rate.Limiter)
	}
	l.young[network] = limiter
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
