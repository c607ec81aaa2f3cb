package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

const hasSchemaVersion = `SELECT to_regclass('goose_db_version') IS NOT NULL`

// Schema tells how far the tables of a database are, without changing it.
func Schema(ctx context.Context, dsn string) (s billing.Schema, err error) {
	config, err := pgxpool.ParseConfig(dsn) // as Open does, for the same settings
	if err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version: %w", oneLine{err})
	}
	db := connect(config.ConnConfig)
	defer func() { err = errors.Join(err, db.Close()) }()
	var exists bool
	if err := db.QueryRowContext(ctx, hasSchemaVersion).Scan(&exists); err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version: %w", oneLine{err})
	}
	if !exists {
		known, err := schema.Known(migrations)
		return billing.Schema{Known: known}, err
	}
	return schema.Of(ctx, db, migrations)
}
