package billing

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"
)

// OperatorTokenPrefix starts every operator token's secret.
const OperatorTokenPrefix = "sk-operator-"

const (
	operatorTokenLength  = len(OperatorTokenPrefix) + 2*secretBytes
	operatorTokenDisplay = len(OperatorTokenPrefix) + 4
)

const (
	// SessionLifetime is how long a session lasts, however it is used.
	SessionLifetime = 12 * time.Hour
	// SessionIdle is how long one lasts that is not used.
	SessionIdle = time.Hour
)

// OperatorToken opens the management API to who runs the gateway.
type OperatorToken struct {
	ID   string
	Name string
	// Hash of the secret, and its first characters for display.
	Hash   KeyHash
	Prefix string
	// CreatedBy names who did.
	CreatedBy string
	CreatedAt time.Time
	// ExpiresAt is the zero time for a token that does not expire, RevokedAt for
	// one that is not revoked, and LastUsedAt for one that was never used.
	ExpiresAt  time.Time
	RevokedAt  time.Time
	LastUsedAt time.Time
}

// Status returns the token's state at the given time.
func (t *OperatorToken) Status(now time.Time) KeyStatus {
	k := Key{RevokedAt: t.RevokedAt, ExpiresAt: t.ExpiresAt}
	return k.Status(now)
}

// NewOperatorSecret returns a fresh operator token from a cryptographic source.
func NewOperatorSecret() string { return OperatorTokenPrefix + NewNonce() }

// IsOperatorSecret tells whether s has the form of an operator token.
func IsOperatorSecret(s string) bool {
	return len(s) == operatorTokenLength && s[:len(OperatorTokenPrefix)] == OperatorTokenPrefix && IsNonce(s[len(OperatorTokenPrefix):])
}

// DisplayOperatorPrefix returns the part of an operator token that may be shown
// again.
func DisplayOperatorPrefix(secret string) string { return secret[:operatorTokenDisplay] + "..." }

// NewNonce returns 64 hexadecimal characters that nobody can guess.
func NewNonce() string {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails: it ends the program instead
	return hex.EncodeToString(b[:])
}

// IsNonce tells whether s has the form of what NewNonce returns.
func IsNonce(s string) bool {
	if len(s) != 2*secretBytes {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Session is a browser that somebody has logged in with.
type Session struct {
	ID string
	// Hash of the value of the browser's cookie.
	Hash KeyHash
	// PreviousHash is that of the value before the last rotation, which is
	// accepted until PreviousUntil: requests may have been under way. The zero
	// time is for a session that was not rotated yet.
	PreviousHash  KeyHash
	PreviousUntil time.Time
	Identity      Identity
	// CSRFToken is what the browser sends along to show that a page of the
	// gateway makes the request. It opens nothing without the cookie.
	CSRFToken  string
	CreatedAt  time.Time
	RotatedAt  time.Time
	LastSeenAt time.Time
	// ExpiresAt is when the session ends however it is used.
	ExpiresAt time.Time
}

// Login is one that a browser has begun and not finished yet.
type Login struct {
	// State is the hash of the parameter that comes back from the identity
	// provider, and Browser that of the cookie of the browser that began.
	State   KeyHash
	Browser KeyHash
	// Nonce is what the ID token must hold, and Verifier what proves to the
	// identity provider that it is the gateway that has begun.
	Nonce    string
	Verifier string
	// ReturnTo is the path to go on at.
	ReturnTo  string
	ExpiresAt time.Time
}

// Access is what opens the management API. Nothing in it opens anything to one
// who has read it: of secrets there are hashes.
type Access interface {
	CreateOperatorToken(ctx context.Context, t OperatorToken) error
	// ListOperatorTokens returns tokens in order of creation, newest first.
	ListOperatorTokens(ctx context.Context, page Page) ([]OperatorToken, error)
	// OperatorTokenByHash returns the token with a secret, by that secret's hash,
	// or ErrNotFound. Whether it has ended is for the caller to decide.
	OperatorTokenByHash(ctx context.Context, hash KeyHash) (OperatorToken, error)
	// RevokeOperatorToken ends a token, or is ErrNotFound. One that is revoked
	// keeps the time of that.
	RevokeOperatorToken(ctx context.Context, id string, at time.Time) (OperatorToken, error)
	// UseOperatorToken records when a token was last used.
	UseOperatorToken(ctx context.Context, id string, at time.Time) error

	CreateSession(ctx context.Context, s Session) error
	// SessionByHash returns the session whose cookie has, or had before the last
	// rotation, the value with the hash, or ErrNotFound. Whether it has ended is
	// for the caller to decide.
	SessionByHash(ctx context.Context, hash KeyHash) (Session, error)
	// Session returns a session whatever its cookie is by now, or ErrNotFound.
	Session(ctx context.Context, id string) (Session, error)
	// UpdateSession reads the session, lets change alter it, and writes it back,
	// all in one transaction; an error from change is returned and nothing is
	// written. Id, identity, creation and end do not change.
	UpdateSession(ctx context.Context, id string, change func(*Session) error) (Session, error)
	// DeleteSession ends a session; one that is not there has ended.
	DeleteSession(ctx context.Context, id string) error

	CreateLogin(ctx context.Context, l Login) error
	// TakeLogin returns a login by its state and removes it: a second call is
	// ErrNotFound.
	TakeLogin(ctx context.Context, state KeyHash) (Login, error)
	// DropAccess deletes the sessions and logins that have ended by the given
	// time, and sessions that were last seen before idle.
	DropAccess(ctx context.Context, now, idle time.Time) error
}
