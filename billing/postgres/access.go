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
	insertOperatorToken = `
INSERT INTO operator_tokens (` + columns.OperatorToken + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

	selectOperatorTokens = `SELECT ` + columns.OperatorToken + ` FROM operator_tokens
ORDER BY created_at DESC, id DESC LIMIT $1`

	selectOperatorTokensAfter = `SELECT ` + columns.OperatorToken + ` FROM operator_tokens
WHERE (created_at, id) < (SELECT created_at, id FROM operator_tokens WHERE id = $2)
ORDER BY created_at DESC, id DESC LIMIT $1`

	selectOperatorTokenByHash = `SELECT ` + columns.OperatorToken + ` FROM operator_tokens WHERE hash = $1`

	selectOperatorToken = `SELECT ` + columns.OperatorToken + ` FROM operator_tokens WHERE id = $1 FOR UPDATE`

	revokeOperatorToken = `
UPDATE operator_tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1
RETURNING ` + columns.OperatorToken

	useOperatorToken = `UPDATE operator_tokens SET last_used_at = greatest(last_used_at, $2) WHERE id = $1`

	insertSession = `
INSERT INTO sessions (` + columns.Session + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

	selectSession = `SELECT ` + columns.Session + ` FROM sessions WHERE id = $1`

	selectSessionForUpdate = selectSession + ` FOR UPDATE`

	selectSessionByHash = `SELECT ` + columns.Session + ` FROM sessions WHERE hash = $1 OR previous_hash = $1`

	updateSession = `
UPDATE sessions SET hash = $2, previous_hash = $3, previous_until = $4, csrf_token = $5,
	rotated_at = $6, last_seen_at = $7
WHERE id = $1`

	deleteSession = `DELETE FROM sessions WHERE id = $1`

	insertLogin = `
INSERT INTO logins (` + columns.Login + `) VALUES ($1, $2, $3, $4, $5, $6)`

	takeLogin = `DELETE FROM logins WHERE state = $1
RETURNING ` + columns.Login

	dropSessions = `DELETE FROM sessions WHERE expires_at <= $1 OR last_seen_at < $2`
	dropLogins   = `DELETE FROM logins WHERE expires_at <= $1`
)

// CreateOperatorToken implements billing.Access.
func (s *Store) CreateOperatorToken(ctx context.Context, t billing.OperatorToken) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertOperatorToken, t.ID, t.Name, t.Hash[:], t.Prefix, t.CreatedBy,
			t.CreatedAt, optionalTime(t.ExpiresAt), optionalTime(t.RevokedAt), optionalTime(t.LastUsedAt))
		if err != nil {
			return err
		}
		return recordChange(ctx, tx, books.TokenCreated(ctx, t))
	})
	if err != nil {
		return fmt.Errorf("create operator token %q: %w", t.ID, err)
	}
	return nil
}

// ListOperatorTokens implements billing.Access.
func (s *Store) ListOperatorTokens(ctx context.Context, page billing.Page) ([]billing.OperatorToken, error) {
	query, args := selectOperatorTokens, []any{books.PageLimit(page)}
	if page.After != "" {
		query, args = selectOperatorTokensAfter, append(args, page.After)
	}
	tokens, err := list(ctx, s.pool, columns.ScanOperatorToken, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list operator tokens: %w", err)
	}
	return tokens, nil
}

// OperatorTokenByHash implements billing.Access.
func (s *Store) OperatorTokenByHash(ctx context.Context, hash billing.KeyHash) (billing.OperatorToken, error) {
	t, err := columns.ScanOperatorToken(s.pool.QueryRow(ctx, selectOperatorTokenByHash, hash[:]))
	if err != nil {
		return billing.OperatorToken{}, fmt.Errorf("read operator token: %w", notFound(err))
	}
	return t, nil
}

// RevokeOperatorToken implements billing.Access.
func (s *Store) RevokeOperatorToken(ctx context.Context, id string, at time.Time) (billing.OperatorToken, error) {
	var t billing.OperatorToken
	err := s.write(ctx, func(tx pgx.Tx) error {
		before, err := columns.ScanOperatorToken(tx.QueryRow(ctx, selectOperatorToken, id))
		if err != nil {
			return notFound(err)
		}
		if t, err = columns.ScanOperatorToken(tx.QueryRow(ctx, revokeOperatorToken, id, at)); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.TokenRevoked(ctx, before, t))
	})
	if err != nil {
		return billing.OperatorToken{}, fmt.Errorf("revoke operator token %q: %w", id, err)
	}
	return t, nil
}

// UseOperatorToken implements billing.Access.
func (s *Store) UseOperatorToken(ctx context.Context, id string, at time.Time) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, useOperatorToken, id, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("record the use of operator token %q: %w", id, err)
	}
	return nil
}

// CreateSession implements billing.Access.
func (s *Store) CreateSession(ctx context.Context, v billing.Session) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertSession, v.ID, v.Hash[:], columns.PreviousHash(v), optionalTime(v.PreviousUntil),
			v.Identity.Issuer, v.Identity.Subject, v.Identity.Email, v.Identity.Name, v.CSRFToken,
			v.CreatedAt, v.RotatedAt, v.LastSeenAt, v.ExpiresAt)
		return err
	})
	if err != nil {
		return fmt.Errorf("create session %q: %w", v.ID, err)
	}
	return nil
}

// SessionByHash implements billing.Access.
func (s *Store) SessionByHash(ctx context.Context, hash billing.KeyHash) (billing.Session, error) {
	v, err := columns.ScanSession(s.pool.QueryRow(ctx, selectSessionByHash, hash[:]))
	if err != nil {
		return billing.Session{}, fmt.Errorf("read session: %w", notFound(err))
	}
	return v, nil
}

// Session implements billing.Access.
func (s *Store) Session(ctx context.Context, id string) (billing.Session, error) {
	v, err := columns.ScanSession(s.pool.QueryRow(ctx, selectSession, id))
	if err != nil {
		return billing.Session{}, fmt.Errorf("read session %q: %w", id, notFound(err))
	}
	return v, nil
}

// UpdateSession implements billing.Access.
func (s *Store) UpdateSession(ctx context.Context, id string, change func(*billing.Session) error) (billing.Session, error) {
	var v billing.Session
	err := s.write(ctx, func(tx pgx.Tx) error {
		before, err := columns.ScanSession(tx.QueryRow(ctx, selectSessionForUpdate, id))
		if err != nil {
			return notFound(err)
		}
		if v, err = books.ChangeSession(before, change); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, updateSession, id, v.Hash[:], columns.PreviousHash(v), optionalTime(v.PreviousUntil),
			v.CSRFToken, v.RotatedAt, v.LastSeenAt)
		return err
	})
	if err != nil {
		return billing.Session{}, fmt.Errorf("update session %q: %w", id, err)
	}
	return v, nil
}

// DeleteSession implements billing.Access.
func (s *Store) DeleteSession(ctx context.Context, id string) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, deleteSession, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete session %q: %w", id, err)
	}
	return nil
}

// CreateLogin implements billing.Access.
func (s *Store) CreateLogin(ctx context.Context, l billing.Login) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertLogin, l.State[:], l.Browser[:], l.Nonce, l.Verifier, l.ReturnTo, l.ExpiresAt)
		return err
	})
	if err != nil {
		return fmt.Errorf("create login: %w", err)
	}
	return nil
}

// TakeLogin implements billing.Access.
func (s *Store) TakeLogin(ctx context.Context, state billing.KeyHash) (billing.Login, error) {
	var l billing.Login
	err := s.write(ctx, func(tx pgx.Tx) error {
		var err error
		l, err = columns.ScanLogin(tx.QueryRow(ctx, takeLogin, state[:]))
		return err
	})
	if err != nil {
		return billing.Login{}, fmt.Errorf("take login: %w", notFound(err))
	}
	return l, nil
}

// DropAccess implements billing.Access.
func (s *Store) DropAccess(ctx context.Context, now, idle time.Time) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		_, sessions := tx.Exec(ctx, dropSessions, now, idle)
		_, logins := tx.Exec(ctx, dropLogins, now)
		return errors.Join(sessions, logins)
	})
	if err != nil {
		return fmt.Errorf("drop sessions and logins that have ended: %w", err)
	}
	return nil
}
