package billing

import (
	"crypto/sha256"
	"time"
)

const (
	// MaxOverlap is the longest that a secret may go on working after it was
	// replaced.
	MaxOverlap = 30 * 24 * time.Hour
	// MaxPreviousSecrets is how many replaced secrets of a key may work at a
	// time.
	MaxPreviousSecrets = 20
	// ReplyKept is how long the reply to a rotation is kept for retries.
	ReplyKept = time.Hour
)

// Rotation gives a key another secret, of which it has the hash and the first
// characters.
type Rotation struct {
	Hash   KeyHash
	Prefix string
	At     time.Time
	// Overlap is how long the secret that is replaced goes on working. Secrets
	// from before that keep their own ends. Without an overlap all of them end
	// at once.
	Overlap time.Duration
	// Check refuses the rotation of the key as it is then, by its error; nil
	// accepts. What was rotated before and is answered again is not checked.
	Check func(Key) error
	// Retry makes the rotation once however often it is asked for; nil for a
	// rotation that is always another one.
	Retry *Retry
}

// Retry is what a rotation is recognized by, and answered with, when it is
// asked for again.
type Retry struct {
	// ID is the hash of an idempotency key, Request that of what was asked for.
	ID, Request [sha256.Size]byte
	// Reply makes the reply from the rotated key. It is kept for ReplyKept, or
	// until the key is rotated again, so it must hold no secret in the clear.
	Reply func(Key) ([]byte, error)
}
