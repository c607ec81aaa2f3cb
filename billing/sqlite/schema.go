package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const hasSchemaVersion = `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version')`

// Schema tells how far the tables of the file at path are, without changing
// it. A file that does not exist has none.
func Schema(ctx context.Context, path string) (s billing.Schema, err error) {
	known, err := knownSchema()
	if err != nil {
		return billing.Schema{}, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return billing.Schema{Known: known}, nil
	} else if err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version: %w", err)
	}
	db, err := sql.Open("sqlite", readOnlyDSN(path))
	if err != nil {
		return billing.Schema{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var exists bool
	if err := db.QueryRowContext(ctx, hasSchemaVersion).Scan(&exists); err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version of %s: %w", path, err)
	}
	if !exists {
		return billing.Schema{Known: known}, nil
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
