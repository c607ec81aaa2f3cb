package oidc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// refreshAfter is the age at which a document is fetched again.
	refreshAfter = 10 * time.Minute
	// staleAfter is the age at which it is no longer used when that fails.
	staleAfter = time.Hour
	// tryAgainAfter is how long a failure answers those who come next.
	tryAgainAfter = time.Second
)

// cached is a document of the provider's. One caller at a time fetches it. The
// others wait if they have nothing else, and use what there is if it is old.
type cached[T any] struct {
	fetch func(context.Context) (T, error)
	// fetching is held by the one who fetches.
	fetching sync.Mutex

	mu    sync.Mutex
	known document[T]
}

// document is one as far as it is known.
type document[T any] struct {
	value   T
	fetched time.Time // when value was
	tried   time.Time
	err     error // of the last try
}

// get returns the document. An error is ErrAway.
func (c *cached[T]) get(ctx context.Context, now time.Time) (T, error) {
	d := c.now()
	if d.isFresh(now) {
		return d.value, nil
	}
	if !d.isUsable(now) {
		c.fetching.Lock()
	} else if !c.fetching.TryLock() {
		return d.value, nil // a provider that hangs must not hold up everybody
	}
	defer c.fetching.Unlock()
	if d = c.now(); d.isFresh(now) { // somebody else has fetched it
		return d.value, nil
	}
	if now.Sub(d.tried) >= tryAgainAfter {
		d = c.update(ctx, now)
	}
	if d.err != nil && !d.isUsable(now) {
		var zero T
		return zero, d.err
	}
	return d.value, nil
}

// renew fetches the document again.
func (c *cached[T]) renew(ctx context.Context, now time.Time) (T, error) {
	c.fetching.Lock()
	defer c.fetching.Unlock()
	d := c.update(ctx, now)
	return d.value, d.err
}

func (c *cached[T]) now() document[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

func (d *document[T]) isFresh(now time.Time) bool {
	return !d.fetched.IsZero() && now.Sub(d.fetched) < refreshAfter
}

func (d *document[T]) isUsable(now time.Time) bool {
	return !d.fetched.IsZero() && now.Sub(d.fetched) < staleAfter
}

// update is for the one who fetches.
func (c *cached[T]) update(ctx context.Context, now time.Time) document[T] {
	// Whoever waits for the document wants it even if this caller leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	began := time.Now()
	value, err := c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	// Who has waited for a failure is told of it, and does not try again.
	c.known.tried = now.Add(time.Since(began))
	if err != nil {
		c.known.err = fmt.Errorf("%w: %w", ErrAway, err)
		return c.known
	}
	c.known.value, c.known.fetched, c.known.err = value, now, nil
	return c.known
}

// bounded cuts answers that are longer than any that is meant well.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, maxDocument), body}
	return res, nil
}
