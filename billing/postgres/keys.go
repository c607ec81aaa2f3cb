package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

const (
	keyColumns = `id, organization_id, name, hash, prefix, allowed_providers, allowed_models, allowed_ips,
	rate_limit_rpm, usage_limit, usage_limit_reset, expires_at, revoked_at, created_at, last_used_at,
	project, rate_limit_tpm, max_concurrent, usage_soft_limit, previous_secret_expires_at, owner`

	// A key has one current secret, and may have previous ones that end.
	selectKeysByHash = `
SELECT hash, NULL::timestamptz, ` + keyColumns + ` FROM keys WHERE hash = ANY($1)
UNION ALL
SELECT s.hash, s.expires_at, k.* FROM key_secrets s
JOIN LATERAL (SELECT ` + keyColumns + ` FROM keys WHERE id = s.key_id) k ON true
WHERE s.hash = ANY($1)`

	selectKey = `SELECT ` + keyColumns + ` FROM keys WHERE organization_id = $1 AND id = $2`

	// Keys of an organization and of an owner have an index each; filterKeys is
	// what has none. All four queries take the same arguments: those of all owners
	// have $3 for that alone.
	filterKeys = `
	AND ($4 = '' OR project = $4)
	AND ($5 = '' OR position(lower($5 COLLATE "C") IN lower(name COLLATE "C")) > 0)
	AND ($6 = '' OR $6 = CASE
		WHEN revoked_at IS NOT NULL THEN 'revoked'
		WHEN expires_at <= $7 THEN 'expired'
		ELSE 'active' END)
ORDER BY created_at DESC, id DESC LIMIT $2`

	selectKeys = `SELECT ` + keyColumns + ` FROM keys
WHERE organization_id = $1 AND $3 = ''` + filterKeys

	selectKeysAfter = `SELECT ` + keyColumns + ` FROM keys
WHERE organization_id = $1 AND $3 = ''
	AND (created_at, id) < (SELECT created_at, id FROM keys WHERE organization_id = $1 AND id = $8)` + filterKeys

	selectKeysOf = `SELECT ` + keyColumns + ` FROM keys
WHERE organization_id = $1 AND owner = $3` + filterKeys

	selectKeysOfAfter = `SELECT ` + keyColumns + ` FROM keys
WHERE organization_id = $1 AND owner = $3
	AND (created_at, id) < (SELECT created_at, id FROM keys WHERE organization_id = $1 AND id = $8)` + filterKeys

	insertKey = `
INSERT INTO keys (` + keyColumns + `)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
	$16, $17, $18, $19, $20, $21)`

	updateKey = `
UPDATE keys SET name = $3, prefix = $5, allowed_providers = $6, allowed_models = $7, allowed_ips = $8,
	rate_limit_rpm = $9, usage_limit = $10, usage_limit_reset = $11, expires_at = $12, revoked_at = $13,
	last_used_at = $15, project = $16, rate_limit_tpm = $17, max_concurrent = $18, usage_soft_limit = $19,
	previous_secret_expires_at = $20, owner = $21
WHERE id = $1 AND organization_id = $2 AND hash = $4 AND created_at = $14`
)

// CreateKey implements billing.Keys.
func (s *Store) CreateKey(ctx context.Context, k billing.Key) error {
	k, err := books.NewKey(k)
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	err = s.writeFor(ctx, k.OrganizationID, func(tx pgx.Tx) error {
		if err := organizationExists(ctx, tx, k.OrganizationID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertKey, keyArgs(k)...); err != nil {
			return err
		}
		if err := keyChanged(ctx, tx, k.ID); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.KeyCreated(ctx, k))
	})
	if err != nil {
		return fmt.Errorf("create key %q: %w", k.ID, err)
	}
	return nil
}

// KeysByHash implements billing.Keys.
func (s *Store) KeysByHash(ctx context.Context, hashes []billing.KeyHash) (map[billing.KeyHash]billing.Key, error) {
	wanted := make([][]byte, len(hashes))
	for i := range hashes {
		wanted[i] = hashes[i][:]
	}
	rows, err := s.pool.Query(ctx, selectKeysByHash, wanted)
	if err != nil {
		return nil, fmt.Errorf("read keys by hash: %w", err)
	}
	defer rows.Close()
	found := make(map[billing.KeyHash]billing.Key)
	for rows.Next() {
		var (
			hash billing.KeyHash
			k    billing.Key
		)
		if err := rows.Scan(append([]any{hashColumn{&hash}, timeColumn{&k.SecretExpiresAt}}, keyFields(&k)...)...); err != nil {
			return nil, fmt.Errorf("read keys by hash: %w", err)
		}
		found[hash] = k
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read keys by hash: %w", err)
	}
	return found, nil
}

// Key implements billing.Keys.
func (s *Store) Key(ctx context.Context, org, id string) (billing.Key, error) {
	k, err := scanKey(s.of(org).QueryRow(ctx, selectKey, org, id))
	if err != nil {
		return billing.Key{}, fmt.Errorf("read key %q: %w", id, notFound(err))
	}
	return k, nil
}

// ListKeys implements billing.Keys.
func (s *Store) ListKeys(ctx context.Context, org string, f billing.KeyFilter, page billing.Page) ([]billing.Key, error) {
	first, after := selectKeys, selectKeysAfter
	if f.Owner != "" {
		first, after = selectKeysOf, selectKeysOfAfter
	}
	query, args := first, []any{org, books.PageLimit(page), f.Owner, f.Project, f.Name, string(f.Status), f.At}
	if page.After != "" {
		query, args = after, append(args, page.After)
	}
	keys, err := list(ctx, s.of(org), scanKey, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// UpdateKey implements billing.Keys. A revoked key stays revoked: to change
// that is ErrRevoked.
func (s *Store) UpdateKey(ctx context.Context, org, id string, change func(*billing.Key) error) (billing.Key, error) {
	var k billing.Key
	err := s.writeFor(ctx, org, func(tx pgx.Tx) error {
		// Leases are granted from the key's limit under the same lock.
		_, err := lockAccounts(ctx, tx, []string{org})
		if err != nil {
			return err
		}
		if k, err = scanKey(tx.QueryRow(ctx, selectKey, org, id)); err != nil {
			return notFound(err)
		}
		before := books.KeyFields(k)
		if k, err = books.ChangeKey(k, change); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, updateKey, keyArgs(k)...); err != nil {
			return err
		}
		if err := keyChanged(ctx, tx, k.ID); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.KeyUpdated(ctx, before, k))
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
		k.RateLimitRPM, optionalAmount(k.UsageLimit), string(k.UsageLimitReset),
		optionalTime(k.ExpiresAt), optionalTime(k.RevokedAt), k.CreatedAt, optionalTime(k.LastUsedAt),
		k.Project, k.RateLimitTPM, k.MaxConcurrent, optionalAmount(k.UsageSoftLimit),
		optionalTime(k.PreviousSecretExpiresAt), k.Owner,
	}
}

func scanKey(row scanner) (billing.Key, error) {
	var k billing.Key
	err := row.Scan(keyFields(&k)...)
	return k, err
}

// keyFields are what keyColumns are scanned into.
func keyFields(k *billing.Key) []any {
	return []any{
		&k.ID, &k.OrganizationID, &k.Name, hashColumn{&k.Hash}, &k.Prefix,
		listColumn{&k.AllowedProviders}, listColumn{&k.AllowedModels}, listColumn{&k.AllowedIPs},
		&k.RateLimitRPM, &k.UsageLimit, &k.UsageLimitReset,
		timeColumn{&k.ExpiresAt}, timeColumn{&k.RevokedAt}, timeColumn{&k.CreatedAt}, timeColumn{&k.LastUsedAt},
		&k.Project, &k.RateLimitTPM, &k.MaxConcurrent, &k.UsageSoftLimit,
		timeColumn{&k.PreviousSecretExpiresAt}, &k.Owner,
	}
}

// scanner is a row or the current row of several.
type scanner interface{ Scan(dest ...any) error }

// querier is the pool, a scope of it, or a transaction.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

// list runs a query and scans its rows.
func list[T any](ctx context.Context, db querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (T, error) { return scan(row) })
}

type (
	listColumn     = arrayColumn[string]
	attemptsColumn = arrayColumn[billing.Attempt]
)

// arrayColumn scans a JSON array.
type arrayColumn[T string | billing.Attempt] struct{ to *[]T }

func (c arrayColumn[T]) Scan(v any) error {
	var err error
	switch v := v.(type) {
	case string:
		*c.to, err = books.DecodeList[T](v)
	case []byte:
		*c.to, err = books.DecodeList[T](string(v))
	default:
		err = fmt.Errorf("%T is not a list", v)
	}
	return err
}

// hashColumn scans a key's hash.
type hashColumn struct{ to *billing.KeyHash }

func (c hashColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(c.to) {
		return fmt.Errorf("%T of %d bytes is not a hash", v, len(b))
	}
	copy(c.to[:], b)
	return nil
}

func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return billing.ErrNotFound
	}
	return err
}
