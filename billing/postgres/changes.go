package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// The counter's row stays locked until the transaction ends, so versions are
	// in the order of the commits: who has seen one has seen all before it. It
	// is the last lock that a transaction takes, but that of recordChange.
	advanceKey = `
WITH next AS (UPDATE keys_version SET version = version + 1 RETURNING version)
UPDATE keys SET version = next.version FROM next WHERE id = $1`

	advanceOrganization = `
WITH next AS (UPDATE keys_version SET version = version + 1 RETURNING version)
UPDATE organizations SET version = next.version FROM next WHERE id = $1`

	// Nodes hear of it when the transaction commits, and only then.
	notifyChange = `SELECT pg_notify('llm_gateway_changes', '')`

	selectChanges = `
SELECT version, '' AS organization_id, '' AS key_id FROM keys_version
UNION ALL SELECT version, organization_id, id FROM keys WHERE version > $1
UNION ALL SELECT version, id, '' FROM organizations WHERE version > $1`
)

// keyChanged records that a key has changed, at the end of the transaction
// that changed it, before recordChange.
func keyChanged(ctx context.Context, tx pgx.Tx, id string) error {
	return record(ctx, tx, advanceKey, id)
}

// organizationChanged does so for an organization, and for whatever else
// applies to all of its keys.
func organizationChanged(ctx context.Context, tx pgx.Tx, org string) error {
	return record(ctx, tx, advanceOrganization, org)
}

func record(ctx context.Context, tx pgx.Tx, advance, id string) error {
	var batch pgx.Batch
	batch.Queue(advance, id)
	batch.Queue(notifyChange)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("record the change: %w", err)
	}
	return nil
}

// Changes implements billing.Keys. It is one statement, which sees one moment.
func (s *Store) Changes(ctx context.Context, since int64) (billing.Changes, error) {
	var (
		c       billing.Changes
		version int64
		ref     billing.KeyRef
	)
	rows, err := s.pool.Query(ctx, selectChanges, since)
	if err != nil {
		return billing.Changes{}, fmt.Errorf("read changes: %w", err)
	}
	_, err = pgx.ForEachRow(rows, []any{&version, &ref.OrganizationID, &ref.ID}, func() error {
		switch {
		case ref.OrganizationID == "":
			c.Version = version
		case ref.ID == "":
			c.Organizations = append(c.Organizations, ref.OrganizationID)
		default:
			c.Keys = append(c.Keys, ref)
		}
		return nil
	})
	if err != nil {
		return billing.Changes{}, fmt.Errorf("read changes: %w", err)
	}
	return c, nil
}
