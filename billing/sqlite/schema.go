package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

const hasSchemaVersion = `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version')`

// Schema tells how far the tables of the file at path are, without changing
// it. A file that does not exist has none.
func Schema(ctx context.Context, path string) (s billing.Schema, err error) {
	known, err := schema.Known(migrations)
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
	return schema.Of(ctx, db, migrations)
}
