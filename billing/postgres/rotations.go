package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	selectReply = `
SELECT idempotency_hash, request_hash, reply FROM key_rotations WHERE key_id = $1 AND created_at > $2`

	deleteReply = `DELETE FROM key_rotations WHERE key_id = $1`

	insertReply = `
INSERT INTO key_rotations (key_id, organization_id, idempotency_hash, request_hash, reply, created_at)
VALUES ($1, $2, $3, $4, $5, $6)`

	updateSecret = `UPDATE keys SET hash = $2, prefix = $3, previous_secret_expires_at = $4 WHERE id = $1`

	// Without an overlap all secrets of before end.
	deleteEndedSecrets = `DELETE FROM key_secrets WHERE key_id = $1 AND ($3 OR expires_at <= $2)`

	countSecrets = `SELECT count(*) FROM key_secrets WHERE key_id = $1 AND expires_at > $2`

	insertSecret = `INSERT INTO key_secrets (hash, organization_id, key_id, expires_at) VALUES ($1, $2, $3, $4)`

	dropSecrets = `DELETE FROM key_secrets WHERE expires_at <= $1`
	dropReplies = `DELETE FROM key_rotations WHERE created_at <= $1`
)

// RotateKey implements billing.Keys.
func (s *Store) RotateKey(ctx context.Context, org, id string, r billing.Rotation) (k billing.Key, reply []byte, err error) {
	err = s.writeFor(ctx, org, func(tx pgx.Tx) error {
		if _, err := lockAccounts(ctx, tx, []string{org}); err != nil {
			return err
		}
		if k, err = columns.ScanKey(tx.QueryRow(ctx, selectKey, org, id)); err != nil {
			return notFound(err)
		}
		reply, err = keptReply(ctx, tx, id, r)
		if err != nil || reply != nil {
			return err
		}
		k, reply, err = rotateKey(ctx, tx, k, r)
		return err
	})
	if err != nil {
		return billing.Key{}, nil, fmt.Errorf("rotate key %q: %w", id, err)
	}
	return k, reply, nil
}

// keptReply returns the reply to a rotation that was made before, nil if it
// was not.
func keptReply(ctx context.Context, tx pgx.Tx, id string, r billing.Rotation) ([]byte, error) {
	if r.Retry == nil {
		return nil, nil
	}
	var kept books.KeptReply
	err := tx.QueryRow(ctx, selectReply, id, r.At.Add(-billing.ReplyKept)).Scan(&kept.ID, &kept.Request, &kept.Reply)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if again, err := kept.Answers(r.Retry); err != nil || !again {
		return nil, err
	}
	return kept.Reply, nil
}

func rotateKey(ctx context.Context, tx pgx.Tx, before billing.Key, r billing.Rotation) (billing.Key, []byte, error) {
	var previous int
	if err := tx.QueryRow(ctx, countSecrets, before.ID, r.At).Scan(&previous); err != nil {
		return billing.Key{}, nil, err
	}
	k, err := books.RotateKey(before, previous, r)
	if err != nil {
		return billing.Key{}, nil, err
	}
	var (
		kept  books.KeptReply
		batch pgx.Batch
	)
	batch.Queue(updateSecret, k.ID, k.Hash[:], k.Prefix, optionalTime(k.PreviousSecretExpiresAt))
	batch.Queue(deleteEndedSecrets, k.ID, r.At, r.Overlap == 0)
	if r.Overlap > 0 {
		batch.Queue(insertSecret, before.Hash[:], k.OrganizationID, k.ID, books.PreviousUntil(r))
	}
	batch.Queue(deleteReply, k.ID)
	if r.Retry != nil {
		if kept, err = books.ReplyTo(k, r.Retry); err != nil {
			return billing.Key{}, nil, err
		}
		batch.Queue(insertReply, k.ID, k.OrganizationID, kept.ID, kept.Request, kept.Reply, r.At)
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return billing.Key{}, nil, err
	}
	if err := keyChanged(ctx, tx, k.ID); err != nil {
		return billing.Key{}, nil, err
	}
	return k, kept.Reply, recordChange(ctx, tx, books.KeyRotated(ctx, before, k, r))
}

// DropSecrets implements billing.Keys.
func (s *Store) DropSecrets(ctx context.Context, before time.Time) error {
	for _, drop := range []string{dropSecrets, dropReplies} {
		if _, err := s.pool.Exec(ctx, drop, before); err != nil {
			return fmt.Errorf("drop old secrets: %w", err)
		}
	}
	return nil
}
