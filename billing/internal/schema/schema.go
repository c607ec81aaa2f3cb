// Package schema brings the tables of a store up to date, and tells how far they
// are, by the store's migrations.
package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// folder has the migrations of a store.
const folder = "migrations"

const selectVersion = `SELECT coalesce(max(version_id), 0) FROM goose_db_version`

// Of tells how far the tables of a database are, which has some, without
// changing it.
func Of(ctx context.Context, db *sql.DB, migrations fs.FS) (billing.Schema, error) {
	known, err := Known(migrations)
	if err != nil {
		return billing.Schema{}, err
	}
	var current int64
	if err := db.QueryRowContext(ctx, selectVersion).Scan(&current); err != nil {
		return billing.Schema{}, fmt.Errorf("read schema version: %w", err)
	}
	return billing.Schema{Version: current, Known: known}, nil
}

// Known is the newest version that this program knows.
func Known(migrations fs.FS) (int64, error) {
	files, err := fs.Glob(migrations, folder+"/*.sql")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	if len(files) == 0 {
		return 0, errors.New("read migrations: there are none")
	}
	known, err := goose.NumericComponent(files[len(files)-1])
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	return known, nil
}

// Check tells whether the tables are this program's, without changing them.
func Check(ctx context.Context, db *sql.DB, migrations fs.FS) error {
	s, err := Of(ctx, db, migrations)
	if err != nil {
		return err
	}
	if s.Version != s.Known {
		return fmt.Errorf("database schema is version %d, this binary knows %d: use the gateway's own binary", s.Version, s.Known)
	}
	return nil
}

// NewProvider returns what applies the migrations to a database.
func NewProvider(dialect goose.Dialect, db *sql.DB, migrations fs.FS) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, folder)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	p, err := goose.NewProvider(dialect, db, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// Up applies what is missing, and returns the version that it began at; -1 if it
// cannot be read.
func Up(ctx context.Context, p *goose.Provider) (int64, error) {
	current, known, err := p.GetVersions(ctx)
	if err != nil {
		return -1, fmt.Errorf("read schema version: %w", err)
	}
	if current > known {
		return current, fmt.Errorf("database schema is version %d, this binary knows %d: run a newer gateway", current, known)
	}
	if _, err := p.Up(ctx); err != nil {
		return current, fmt.Errorf("migrate schema: %w", err)
	}
	return current, nil
}
