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

// cached is a document of the provider's. One caller at a time fetches it, and
// the others wait.
type cached[T any] struct {
	fetch func(context.Context) (T, error)

	mu      sync.Mutex
	value   T
	fetched time.Time // when value was
	tried   time.Time
	err     error // of the last try
}

// get returns the document. An error is ErrAway.
func (c *cached[T]) get(ctx context.Context, now time.Time) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.fetched.IsZero() && now.Sub(c.fetched) < refreshAfter {
		return c.value, nil
	}
	if now.Sub(c.tried) >= tryAgainAfter {
		c.update(ctx, now)
	}
	if c.err != nil && (c.fetched.IsZero() || now.Sub(c.fetched) >= staleAfter) {
		var zero T
		return zero, c.err
	}
	return c.value, nil
}

// renew fetches the document again.
func (c *cached[T]) renew(ctx context.Context, now time.Time) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.update(ctx, now)
	return c.value, c.err
}

func (c *cached[T]) update(ctx context.Context, now time.Time) {
	// Whoever waits for the document wants it even if this caller leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	began := time.Now()
	value, err := c.fetch(ctx)
	// Who has waited for a failure is told of it, and does not try again.
	c.tried = now.Add(time.Since(began))
	if err != nil {
		c.err = fmt.Errorf("%w: %w", ErrAway, err)
		return
	}
	c.value, c.fetched, c.err = value, now, nil
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
