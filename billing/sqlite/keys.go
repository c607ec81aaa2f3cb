package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// A key has one current secret, and may have previous ones that end.
	selectKeyByHash = `
SELECT ` + columns.Key + `, (SELECT s.expires_at FROM key_secrets s WHERE s.hash = ?1) FROM keys
WHERE hash = ?1 OR id = (SELECT s.key_id FROM key_secrets s WHERE s.hash = ?1)`

	selectKey = `SELECT ` + columns.Key + ` FROM keys WHERE organization_id = ?1 AND id = ?2`

	// Keys of an organization and of an owner have an index each; filterKeys is
	// what has none. All four queries take the same arguments: those of all owners
	// have ?3 for that alone.
	filterKeys = `
	AND (?4 = '' OR project = ?4)
	AND (?5 = '' OR instr(lower(name), lower(?5)) > 0)
	AND (?6 = '' OR ?6 = CASE
		WHEN revoked_at IS NOT NULL THEN 'revoked'
		WHEN expires_at <= ?7 THEN 'expired'
		ELSE 'active' END)
ORDER BY created_at DESC, id DESC LIMIT ?2`

	selectKeys = `SELECT ` + columns.Key + ` FROM keys
WHERE organization_id = ?1 AND ?3 = ''` + filterKeys

	selectKeysAfter = `SELECT ` + columns.Key + ` FROM keys
WHERE organization_id = ?1 AND ?3 = ''
	AND (created_at, id) < (SELECT created_at, id FROM keys WHERE organization_id = ?1 AND id = ?8)` + filterKeys

	selectKeysOf = `SELECT ` + columns.Key + ` FROM keys
WHERE organization_id = ?1 AND owner = ?3` + filterKeys

	selectKeysOfAfter = `SELECT ` + columns.Key + ` FROM keys
WHERE organization_id = ?1 AND owner = ?3
	AND (created_at, id) < (SELECT created_at, id FROM keys WHERE organization_id = ?1 AND id = ?8)` + filterKeys

	insertKey = `
INSERT INTO keys (` + columns.Key + `)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
	?16, ?17, ?18, ?19, ?20, ?21)`

	updateKey = `
UPDATE keys SET name = ?3, prefix = ?5, allowed_providers = ?6, allowed_models = ?7, allowed_ips = ?8,
	rate_limit_rpm = ?9, usage_limit = ?10, usage_limit_reset = ?11, expires_at = ?12, revoked_at = ?13,
	last_used_at = ?15, project = ?16, rate_limit_tpm = ?17, max_concurrent = ?18, usage_soft_limit = ?19,
	previous_secret_expires_at = ?20, owner = ?21
WHERE id = ?1 AND organization_id = ?2 AND hash = ?4 AND created_at = ?14`
)

// CreateKey implements billing.Keys.
func (s *Store) CreateKey(ctx context.Context, k billing.Key) error {
	k, err := books.NewKey(k)
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := organizationExists(ctx, tx, k.OrganizationID); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, insertKey, keyArgs(k)...); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, books.KeyCreated(ctx, k)); err != nil {
			return err
		}
		return keyChanged(ctx, tx, k.ID)
	})
	if err != nil {
		return fmt.Errorf("create key %q: %w", k.ID, err)
	}
	return nil
}

// KeysByHash implements billing.Keys.
func (s *Store) KeysByHash(ctx context.Context, hashes []billing.KeyHash) (map[billing.KeyHash]billing.Key, error) {
	found := make(map[billing.KeyHash]billing.Key)
	for _, h := range hashes {
		var k billing.Key
		err := s.reader.QueryRowContext(ctx, selectKeyByHash, h[:]).Scan(append(columns.KeyFields(&k), columns.Time{To: &k.SecretExpiresAt})...)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read keys by hash: %w", err)
		}
		found[h] = k
	}
	return found, nil
}

// Key implements billing.Keys.
func (s *Store) Key(ctx context.Context, org, id string) (billing.Key, error) {
	k, err := columns.ScanKey(s.reader.QueryRowContext(ctx, selectKey, org, id))
	if err != nil {
		return billing.Key{}, fmt.Errorf("read key %q: %w", id, notFound(err))
	}
	return k, nil
}

// ListKeys implements billing.Keys.
func (s *Store) ListKeys(ctx context.Context, org string, f billing.KeyFilter, page billing.Page) ([]billing.Key, error) {
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer done()
	first, after := selectKeys, selectKeysAfter
	if f.Owner != "" {
		first, after = selectKeysOf, selectKeysOfAfter
	}
	query, args := first, []any{org, books.PageLimit(page), f.Owner, f.Project, f.Name, string(f.Status), micros(f.At)}
	if page.After != "" {
		query, args = after, append(args, page.After)
	}
	keys, err := list(ctx, s.reader, columns.ScanKey, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// UpdateKey implements billing.Keys. A revoked key stays revoked: to change
// that is ErrRevoked.
func (s *Store) UpdateKey(ctx context.Context, org, id string, change func(*billing.Key) error) (billing.Key, error) {
	var k billing.Key
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if k, err = columns.ScanKey(tx.QueryRowContext(ctx, selectKey, org, id)); err != nil {
			return notFound(err)
		}
		before := books.KeyFields(k)
		if k, err = books.ChangeKey(k, change); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, updateKey, keyArgs(k)...); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, books.KeyUpdated(ctx, before, k)); err != nil {
			return err
		}
		return keyChanged(ctx, tx, k.ID)
	})
	if err != nil {
		return billing.Key{}, fmt.Errorf("update key %q: %w", id, err)
	}
	return k, nil
}

func keyArgs(k billing.Key) []any {
	return []any{
		k.ID, k.OrganizationID, k.Name, k.Hash[:], k.Prefix,
		books.EncodeList(k.AllowedProviders), books.EncodeList(k.AllowedModels), books.EncodeList(k.AllowedIPs),
		k.RateLimitRPM, columns.OptionalAmount(k.UsageLimit), string(k.UsageLimitReset),
		optionalMicros(k.ExpiresAt), optionalMicros(k.RevokedAt), micros(k.CreatedAt), optionalMicros(k.LastUsedAt),
		k.Project, k.RateLimitTPM, k.MaxConcurrent, columns.OptionalAmount(k.UsageSoftLimit),
		optionalMicros(k.PreviousSecretExpiresAt), k.Owner,
	}
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// list runs a query and scans its rows.
func list[T any](ctx context.Context, db querier, scan func(columns.Row) (T, error), query string, args ...any) ([]T, error) {
	return listUpTo(ctx, db, 0, scan, query, args...)
}

// listUpTo makes room for n elements at once: pages of exports would leave as
// much garbage by growing as they are large.
func listUpTo[T any](ctx context.Context, db querier, n int, scan func(columns.Row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := slices.Grow([]T(nil), n)
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return billing.ErrNotFound
	}
	return err
}
