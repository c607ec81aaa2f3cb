package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	advanceVersion = `UPDATE keys_version SET version = version + 1`

	versionKey = `UPDATE keys SET version = (SELECT version FROM keys_version) WHERE id = ?1`

	versionOrganization = `UPDATE organizations SET version = (SELECT version FROM keys_version) WHERE id = ?1`

	selectChanges = `
SELECT version, '' AS organization_id, '' AS key_id FROM keys_version
UNION ALL SELECT version, organization_id, id FROM keys WHERE version > ?1
UNION ALL SELECT version, id, '' FROM organizations WHERE version > ?1`
)

// keyChanged records that a key has changed, in the transaction that changed
// it.
func keyChanged(ctx context.Context, tx *sql.Tx, id string) error {
	return advance(ctx, tx, versionKey, id)
}

// organizationChanged does so for an organization, and for whatever else
// applies to all of its keys.
func organizationChanged(ctx context.Context, tx *sql.Tx, org string) error {
	return advance(ctx, tx, versionOrganization, org)
}

func advance(ctx context.Context, tx *sql.Tx, setVersion, id string) error {
	if _, err := tx.ExecContext(ctx, advanceVersion); err != nil {
		return fmt.Errorf("record the change: %w", err)
	}
	if _, err := tx.ExecContext(ctx, setVersion, id); err != nil {
		return fmt.Errorf("record the change: %w", err)
	}
	return nil
}

// Changes implements billing.Keys. It is one statement, which sees one moment.
func (s *Store) Changes(ctx context.Context, since int64) (billing.Changes, error) {
	rows, err := s.reader.QueryContext(ctx, selectChanges, since)
	if err != nil {
		return billing.Changes{}, fmt.Errorf("read changes: %w", err)
	}
	defer rows.Close()
	var c billing.Changes
	for rows.Next() {
		var (
			version int64
			ref     billing.KeyRef
		)
		if err := rows.Scan(&version, &ref.OrganizationID, &ref.ID); err != nil {
			return billing.Changes{}, fmt.Errorf("read changes: %w", err)
		}
		switch {
		case ref.OrganizationID == "":
			c.Version = version
		case ref.ID == "":
			c.Organizations = append(c.Organizations, ref.OrganizationID)
		default:
			c.Keys = append(c.Keys, ref)
		}
	}
	if err := rows.Err(); err != nil {
		return billing.Changes{}, fmt.Errorf("read changes: %w", err)
	}
	return c, nil
}
