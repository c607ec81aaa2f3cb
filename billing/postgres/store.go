// Package postgres keeps the books in a PostgreSQL database that many nodes
// share.
package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock is the advisory lock that one node holds while it migrates.
const migrationLock = 0x6c6c6d67617465 // "llmgate"

const (
	lockMigrations   = `SELECT pg_advisory_lock($1)`
	unlockMigrations = `SELECT pg_advisory_unlock($1)`
	selectIdentity   = `SELECT database FROM identity`
)

// Store is a billing.Store in a PostgreSQL database.
type Store struct {
	pool   *pgxpool.Pool
	sheets books.Sheets
	// reports are those that read many rows.
	reports *books.Turns
}

var _ billing.Store = (*Store)(nil)

// Open connects to the database and brings its schema up to date. Any number of
// nodes may do so at once. The dsn is a postgres:// URL or a list of key=value
// settings, in which pool_max_conns sets the number of connections.
func Open(ctx context.Context, dsn string) (*Store, error) {
	s, err := open(ctx, dsn)
	switch {
	case isAway(err):
		return nil, fmt.Errorf("open store: %w: %w", billing.ErrAway, oneLine{err})
	case err != nil:
		return nil, fmt.Errorf("open store: %w", oneLine{err})
	}
	return s, nil
}

// isAway tells whether there was no server that takes connections, which may
// pass. A server that refuses this user, say, is there.
func isAway(err error) bool {
	if _, failed := errors.AsType[*pgconn.ConnectError](err); !failed {
		return false
	}
	e, answered := errors.AsType[*pgconn.PgError](err)
	return !answered || e.Code == "57P03" /* cannot_connect_now */ || e.Code == "53300" /* too_many_connections */
}

func open(ctx context.Context, dsn string) (*Store, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, config.ConnConfig); err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Store{pool: pool, reports: books.NewTurns(int(config.MaxConns))}, nil
}

func migrate(ctx context.Context, config *pgx.ConnConfig) (err error) {
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	lock, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	// Closing the session gives the lock back too, whatever has happened to it.
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := lock.ExecContext(ctx, lockMigrations, migrationLock); err != nil {
		return fmt.Errorf("lock migrations: %w", err)
	}
	p, err := schema.NewProvider(goose.DialectPostgres, db, migrations)
	if err != nil {
		return err
	}
	if _, err := schema.Up(ctx, p); err != nil {
		return err
	}
	if _, err := lock.ExecContext(ctx, unlockMigrations, migrationLock); err != nil {
		return fmt.Errorf("unlock migrations: %w", err)
	}
	return nil
}

// oneLine is an error whose text has no line breaks: the driver reports each
// address that it tried on a line of its own.
type oneLine struct{ err error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.err.Error()), " ") }
func (e oneLine) Unwrap() error { return e.err }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping store: %w", oneLine{err})
	}
	return nil
}

// Identity implements billing.Store.
func (s *Store) Identity(ctx context.Context) (string, error) {
	var id string
	if err := s.pool.QueryRow(ctx, selectIdentity).Scan(&id); err != nil {
		return "", fmt.Errorf("read identity of the database: %w", oneLine{err})
	}
	return id, nil
}

// Close closes all connections.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

// write runs f in a transaction, on behalf of no organization or of several.
func (s *Store) write(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, f)
}

// optionalTime stores the zero time as NULL.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
