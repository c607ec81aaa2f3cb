package billing

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// KeyPrefix starts every proxy key's secret.
const KeyPrefix = "sk-proxy-"

const (
	secretBytes   = 32
	secretLength  = len(KeyPrefix) + 2*secretBytes
	displayLength = len(KeyPrefix) + 4
)

// KeyHash is the SHA-256 of a proxy key's secret: all that is stored of it.
type KeyHash [sha256.Size]byte

// KeyStatus is a key's state at some moment.
type KeyStatus string

const (
	KeyActive  KeyStatus = "active"
	KeyExpired KeyStatus = "expired"
	KeyRevoked KeyStatus = "revoked"
)

// Key is a proxy key: what a developer's SDK uses instead of a provider's
// credential. Empty lists allow everything.
type Key struct {
	ID             string
	OrganizationID string
	Name           string
	// Hash of the secret, and its first characters for display.
	Hash   KeyHash
	Prefix string
	// AllowedProviders are provider names.
	AllowedProviders []string
	// AllowedModels are globs, in which * stands for any characters.
	AllowedModels []string
	// AllowedIPs are addresses and CIDR ranges, see ParseAddresses.
	AllowedIPs []string
	// Owner is the id of the member whose key it is; "" for the organization's.
	Owner string
	// Project groups keys that share a budget; "" for none.
	Project string
	// RateLimitRPM is requests per calendar minute, RateLimitTPM tokens, input
	// and output together; 0 is no limit.
	RateLimitRPM int64
	RateLimitTPM int64
	// MaxConcurrent is how many requests may be open at a time; 0 is no limit.
	MaxConcurrent int64
	// UsageLimit is the spend allowed in each period; nil is no limit. From
	// UsageSoftLimit on, if that is set, requests are served with a warning.
	UsageLimit      *Money
	UsageSoftLimit  *Money
	UsageLimitReset Period
	// ExpiresAt is the zero time for a key that does not expire.
	ExpiresAt time.Time
	// RevokedAt is the zero time for a key that is not revoked.
	RevokedAt  time.Time
	CreatedAt  time.Time
	LastUsedAt time.Time
	// PreviousSecretExpiresAt is when the last of the secrets from before a
	// rotation ends; the zero time if there was no overlap.
	PreviousSecretExpiresAt time.Time
	// SecretExpiresAt is set by KeysByHash: when the secret with that hash ends.
	// It is the zero time for the key's current secret.
	SecretExpiresAt time.Time
}

// KeyFilter selects keys. Zero values select all.
type KeyFilter struct {
	// Owner is a member's id.
	Owner   string
	Project string
	// Name is a part of the key's, its ASCII letters in whatever case.
	Name string
	// Status is that at the time At.
	Status KeyStatus
	At     time.Time
}

// KeyRef names a key.
type KeyRef struct{ OrganizationID, ID string }

// Changes are the keys and organizations that have changed since some version.
type Changes struct {
	// Version is the newest there is.
	Version       int64
	Keys          []KeyRef
	Organizations []string
}

// Status returns the key's state at the given time.
func (k *Key) Status(now time.Time) KeyStatus {
	switch {
	case !k.RevokedAt.IsZero():
		return KeyRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return KeyExpired
	}
	return KeyActive
}

// SecretEnded tells whether the secret that the key was found by was replaced
// and has reached its end.
func (k *Key) SecretEnded(now time.Time) bool {
	return !k.SecretExpiresAt.IsZero() && !now.Before(k.SecretExpiresAt)
}

// NewSecret returns a fresh proxy key secret from a cryptographic source.
func NewSecret() string {
	var b [secretBytes]byte
	rand.Read(b[:]) // never fails: it ends the program instead
	return KeyPrefix + hex.EncodeToString(b[:])
}

// IsSecret tells whether s has the form of a proxy key's secret.
func IsSecret(s string) bool {
	if len(s) != secretLength || !strings.HasPrefix(s, KeyPrefix) {
		return false
	}
	for _, c := range []byte(s[len(KeyPrefix):]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// HashSecret returns the hash that a secret is stored and looked up by.
func HashSecret(secret string) KeyHash { return sha256.Sum256([]byte(secret)) }

// DisplayPrefix returns the part of a secret that may be shown again.
func DisplayPrefix(secret string) string { return secret[:displayLength] + "..." }
