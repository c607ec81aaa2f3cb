package books

import (
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// RotateKey gives a key another secret, of which so many replaced ones still
// work. A revoked one has none any more.
func RotateKey(k billing.Key, previous int, r billing.Rotation) (billing.Key, error) {
	if r.Check != nil {
		if err := r.Check(k); err != nil {
			return billing.Key{}, err
		}
	}
	if !k.RevokedAt.IsZero() {
		return billing.Key{}, billing.ErrRevoked
	}
	if r.Overlap < 0 || r.Overlap > billing.MaxOverlap {
		return billing.Key{}, fmt.Errorf("overlap of secrets by %s", r.Overlap)
	}
	if r.Overlap > 0 && previous >= billing.MaxPreviousSecrets {
		return billing.Key{}, billing.ErrTooManySecrets
	}
	k.Hash, k.Prefix = r.Hash, r.Prefix
	if r.Overlap == 0 {
		k.PreviousSecretExpiresAt = time.Time{}
	} else if until := PreviousUntil(r); until.After(k.PreviousSecretExpiresAt) {
		k.PreviousSecretExpiresAt = until
	}
	return NewKey(k)
}

// PreviousUntil is when the secret that is replaced ends.
func PreviousUntil(r billing.Rotation) time.Time { return Time(r.At.Add(r.Overlap)) }

// KeptReply is the reply to an earlier rotation.
type KeptReply struct {
	ID, Request, Reply []byte
}

// Answers tells whether the reply is to be given again: the same rotation is
// asked for. ErrConflict says that its idempotency key stands for another one.
func (kept KeptReply) Answers(r *billing.Retry) (bool, error) {
	switch {
	case string(kept.ID) != string(r.ID[:]):
		return false, nil
	case string(kept.Request) != string(r.Request[:]):
		return false, billing.ErrConflict
	}
	return true, nil
}

// ReplyTo makes the reply to keep.
func ReplyTo(k billing.Key, r *billing.Retry) (KeptReply, error) {
	reply, err := r.Reply(k)
	if err != nil {
		return KeptReply{}, fmt.Errorf("make reply: %w", err)
	}
	return KeptReply{ID: r.ID[:], Request: r.Request[:], Reply: reply}, nil
}
