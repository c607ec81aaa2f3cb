package billingtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testRotations(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"old secrets work until their end":             keepsOldSecrets,
		"two rotations in a row keep both old secrets": keepsSecretsOfTwoRotations,
		"no overlap ends all old secrets":              endsSecretsAtOnce,
		"an edit changes nothing about secrets":        keepsSecretsInEdits,
		"a revoked key is not rotated":                 refusesToRotate,
		"only so many old secrets work at a time":      boundsOldSecrets,
		"ended secrets are dropped by a rotation":      dropsSecretsByRotation,
		"what is old is dropped":                       dropsOldSecrets,
		"a retry is answered and not made":             answersRetries,
		"retries at the same time are one rotation":    rotatesOnce,
	})
}

// rotation is to a secret, at noon.
func rotation(secret string, overlap time.Duration) billing.Rotation {
	return billing.Rotation{
		Hash: billing.HashSecret(secret), Prefix: billing.DisplayPrefix(secret), At: noon, Overlap: overlap,
	}
}

// rotate gives the test's key a new secret.
func rotate(t *testing.T, s billing.Store, overlap time.Duration, at time.Time) (secret string, k billing.Key) {
	t.Helper()
	secret = billing.NewSecret()
	r := rotation(secret, overlap)
	r.At = at
	k, _, err := s.RotateKey(t.Context(), org, key, r)
	check(t, err)
	return secret, k
}

// endOf is when a secret of the test's key ends. A secret without a key has
// ended at the zero time of Unix.
func endOf(t *testing.T, s billing.Store, secret string) time.Time {
	t.Helper()
	k, err := keyByHash(t, s, billing.HashSecret(secret))
	if errors.Is(err, billing.ErrNotFound) {
		return ended
	}
	check(t, err)
	equal(t, "key of the secret", k.ID, key)
	return k.SecretExpiresAt
}

var (
	ended   = time.Unix(0, 0).UTC()
	current = time.Time{} // the end of a current secret
)

func keepsOldSecrets(t *testing.T, s billing.Store) {
	before, err := s.Key(t.Context(), org, key)
	check(t, err)
	first, k := rotate(t, s, time.Hour, noon)
	want := before
	want.Hash, want.Prefix = billing.HashSecret(first), billing.DisplayPrefix(first)
	want.PreviousSecretExpiresAt = noon.Add(time.Hour)
	equal(t, "rotated key", k, want)
	stored, err := s.Key(t.Context(), org, key)
	check(t, err)
	equal(t, "stored key", stored, want)

	old, err := keyByHash(t, s, before.Hash)
	check(t, err)
	want.SecretExpiresAt = noon.Add(time.Hour)
	equal(t, "key by its old secret", old, want)
	equal(t, "it has ended a moment before its end", old.SecretEnded(noon.Add(time.Hour-1)), false)
	equal(t, "it has ended at its end", old.SecretEnded(noon.Add(time.Hour)), true)
	equal(t, "end of the new secret", endOf(t, s, first), current)
}

func keepsSecretsOfTwoRotations(t *testing.T, s billing.Store) {
	first, _ := rotate(t, s, 0, noon)
	second, _ := rotate(t, s, 48*time.Hour, noon)
	third, k := rotate(t, s, time.Hour, noon.Add(time.Minute))
	equal(t, "end of the first secret", endOf(t, s, first), noon.Add(48*time.Hour))
	equal(t, "end of the second secret", endOf(t, s, second), noon.Add(time.Hour+time.Minute))
	equal(t, "end of the third secret", endOf(t, s, third), current)
	equal(t, "end of the last previous secret", k.PreviousSecretExpiresAt, noon.Add(48*time.Hour))
}

func endsSecretsAtOnce(t *testing.T, s billing.Store) {
	first, _ := rotate(t, s, 0, noon)
	second, _ := rotate(t, s, time.Hour, noon)
	third, k := rotate(t, s, 0, noon)
	equal(t, "end of the first secret", endOf(t, s, first), ended)
	equal(t, "end of the second secret", endOf(t, s, second), ended)
	equal(t, "end of the third secret", endOf(t, s, third), current)
	equal(t, "end of the last previous secret", k.PreviousSecretExpiresAt, time.Time{})
}

func keepsSecretsInEdits(t *testing.T, s billing.Store) {
	first, _ := rotate(t, s, 0, noon)
	second, want := rotate(t, s, time.Hour, noon)
	want.Name, want.RevokedAt = "renamed", noon
	got, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
		k.Name, k.RevokedAt = "renamed", noon
		k.Hash, k.Prefix, k.PreviousSecretExpiresAt = billing.KeyHash{}, "x", time.Time{}
		return nil
	})
	check(t, err)
	equal(t, "edited key", got, want)
	for _, secret := range []string{first, second} {
		k, err := keyByHash(t, s, billing.HashSecret(secret))
		check(t, err)
		equal(t, "status by each secret", k.Status(noon), billing.KeyRevoked)
	}
}

func boundsOldSecrets(t *testing.T, s billing.Store) {
	for range billing.MaxPreviousSecrets {
		rotate(t, s, time.Hour, noon)
	}
	before, err := s.Key(t.Context(), org, key)
	check(t, err)
	_, _, err = s.RotateKey(t.Context(), org, key, rotation(billing.NewSecret(), time.Hour))
	equal(t, "error with an overlap", err, billing.ErrTooManySecrets)
	got, err := s.Key(t.Context(), org, key)
	check(t, err)
	equal(t, "key", got, before)
	rotate(t, s, time.Hour, noon.Add(time.Hour)) // when all others have ended
	for range billing.MaxPreviousSecrets - 1 {
		rotate(t, s, time.Hour, noon.Add(time.Hour))
	}
	rotate(t, s, 0, noon.Add(time.Hour))
	rotate(t, s, time.Hour, noon.Add(time.Hour))
}

func refusesToRotate(t *testing.T, s billing.Store) {
	_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
		k.RevokedAt = noon
		return nil
	})
	check(t, err)
	_, _, err = s.RotateKey(t.Context(), org, key, rotation(billing.NewSecret(), time.Hour))
	equal(t, "error for a revoked key", err, billing.ErrRevoked)
	_, _, err = s.RotateKey(t.Context(), other, key, rotation(billing.NewSecret(), time.Hour))
	equal(t, "error for another organization's key", err, billing.ErrNotFound)
	for _, overlap := range []time.Duration{-1, billing.MaxOverlap + 1} {
		if _, _, err = s.RotateKey(t.Context(), org, key, rotation(billing.NewSecret(), overlap)); err == nil {
			t.Errorf("an overlap of %s was taken", overlap)
		}
	}
}

func dropsSecretsByRotation(t *testing.T, s billing.Store) {
	first, _ := rotate(t, s, 0, noon)
	second, _ := rotate(t, s, time.Minute, noon)
	rotate(t, s, time.Hour, noon.Add(time.Minute))
	equal(t, "end of the first secret", endOf(t, s, first), ended)
	equal(t, "end of the second secret", endOf(t, s, second), noon.Add(time.Hour+time.Minute))
}

func dropsOldSecrets(t *testing.T, s billing.Store) {
	first, _ := rotate(t, s, 0, noon)
	r, calls := retry("rotate once", "overlap")
	r.Overlap = time.Hour
	_, _, err := s.RotateKey(t.Context(), org, key, r)
	check(t, err)

	check(t, s.DropSecrets(t.Context(), noon.Add(-1*time.Microsecond)))
	equal(t, "end of the secret while all is young", endOf(t, s, first), noon.Add(time.Hour))
	_, _, err = s.RotateKey(t.Context(), org, key, r)
	check(t, err)
	equal(t, "rotations", calls.Load(), 1)

	check(t, s.DropSecrets(t.Context(), noon.Add(time.Hour)))
	equal(t, "end of the secret", endOf(t, s, first), ended)
	r.Hash = billing.HashSecret("another")
	_, _, err = s.RotateKey(t.Context(), org, key, r)
	check(t, err)
	equal(t, "rotations after the reply was dropped", calls.Load(), 2)
}

// retry is a rotation to a new secret, which counts how often it is made.
func retry(id, request string) (billing.Rotation, *atomic.Int32) {
	calls := new(atomic.Int32)
	r := rotation(billing.NewSecret(), time.Hour)
	r.Retry = &billing.Retry{
		ID: sha256.Sum256([]byte(id)), Request: sha256.Sum256([]byte(request)),
		Reply: func(k billing.Key) ([]byte, error) {
			return fmt.Appendf(nil, "%x, %d", k.Hash, calls.Add(1)), nil
		},
	}
	return r, calls
}

func answersRetries(t *testing.T, s billing.Store) {
	try := func(r billing.Rotation, at time.Time) (billing.Key, string, error) {
		r.At = at
		k, reply, err := s.RotateKey(t.Context(), org, key, r)
		return k, string(reply), err
	}
	first, _ := retry("one", "overlap")
	rotated, reply, err := try(first, noon)
	check(t, err)
	before := version(t, s)

	again, calls := retry("one", "overlap")
	kept := noon.Add(billing.ReplyKept - time.Second)
	k, repeated, err := try(again, kept)
	check(t, err)
	equal(t, "reply to a retry", repeated, reply)
	equal(t, "key after a retry", k, rotated)
	equal(t, "rotations by a retry", calls.Load(), 0)

	other, _ := retry("one", "another overlap")
	_, _, err = try(other, kept)
	equal(t, "error for another request", err, billing.ErrConflict)
	equal(t, "version", version(t, s), before)

	// A failure to make the reply undoes the rotation.
	refusal := errors.New("refused")
	broken, _ := retry("two", "overlap")
	broken.Retry.Reply = func(billing.Key) ([]byte, error) { return nil, refusal }
	_, _, err = try(broken, kept)
	equal(t, "error of the reply", err, refusal)
	k, err = s.Key(t.Context(), org, key)
	check(t, err)
	equal(t, "key after a failure", k, rotated)

	// The reply is kept for its time, and until the next rotation.
	_, second, err := try(again, noon.Add(billing.ReplyKept))
	check(t, err)
	if second == reply {
		t.Error("an old reply was given again")
	}
	next, _ := retry("two", "overlap")
	_, _, err = try(next, noon.Add(billing.ReplyKept))
	check(t, err)
	last, calls := retry("one", "overlap")
	_, _, err = try(last, noon.Add(billing.ReplyKept))
	check(t, err)
	equal(t, "rotations after another one", calls.Load(), 1)
}

func rotatesOnce(t *testing.T, s billing.Store) {
	before, err := s.Key(t.Context(), org, key)
	check(t, err)
	const callers = 8
	var made atomic.Int32
	replies := make([]string, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			r, calls := retry("one", "overlap")
			_, reply, err := s.RotateKey(t.Context(), org, key, r)
			if err != nil {
				t.Error(err)
			}
			replies[i] = string(reply)
			made.Add(calls.Load())
		})
	}
	group.Wait()
	equal(t, "rotations", made.Load(), 1)
	for _, reply := range replies {
		equal(t, "reply", reply, replies[0])
	}
	old, err := keyByHash(t, s, before.Hash)
	check(t, err)
	equal(t, "end of the first secret", old.SecretExpiresAt, noon.Add(time.Hour))
}
