package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
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
		known, err := knownSchema()
		return billing.Schema{Known: known}, err
	}
	return schemaOf(ctx, db)
}

func schemaOf(ctx context.Context, db *sql.DB) (billing.Schema, error) {
	known, err := knownSchema()
	if err != nil {
		return billing.Schema{}, err
	}
	var current int64
	if err := db.QueryRowContext(ctx, selectSchemaVersion).Scan(&current); err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version: %w", err)
	}
	return billing.Schema{Version: current, Known: known}, nil
}

func knownSchema() (int64, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	known, err := goose.NumericComponent(files[len(files)-1])
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	return known, nil
}
