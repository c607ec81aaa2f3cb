package billing

import (
	"context"
	"errors"
	"time"
)

// MinRetention is how long requests are kept at least: longer than any period
// of a limit, and than any journal is away.
const MinRetention = 35 * 24 * time.Hour

var (
	// ErrNotKept: the request is older than those that are kept. It is an
	// ErrNotFound, too.
	ErrNotKept = errors.New("older than the requests that are kept")
	// ErrUnproven: what is to be dropped cannot be proven.
	ErrUnproven = errors.New("the books do not prove what is to be dropped")
)

// Retention keeps rows of requests for some time. Entries, balances, limits and
// rollups stay for ever.
type Retention interface {
	// PrepareRequests makes room for the requests of the next months, where the
	// database needs any. It is safe on many nodes at once.
	PrepareRequests(ctx context.Context) error
	// RequestsKept returns the time, a whole hour, that requests are kept from.
	// Rows that arrived before may be gone, whole quarters of hours of them still
	// have their rollups. The zero time says that all are kept.
	RequestsKept(ctx context.Context) (time.Time, error)
	// DropRequests drops rows that arrived before a time, or somewhat earlier,
	// but none of the last MinRetention, and returns how many. Each is proven
	// first, and ErrUnproven says that some could not be. Of many nodes one
	// does it; the others return at once.
	DropRequests(ctx context.Context, before time.Time) (int64, error)
}
