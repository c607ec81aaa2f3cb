package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// scopeTo makes the rest of the transaction see and write rows of one
	// organization alone: the policies of the tables compare them with it.
	scopeTo = `SELECT set_config('llm_gateway.organization', $1, true)`

	// scopePlanned does so, and has what follows planned for its arguments.
	scopePlanned = `
SELECT set_config('llm_gateway.organization', $1, true), set_config('plan_cache_mode', 'force_custom_plan', true)`

	selectBypassesPolicies = `SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user`
)

// scope queries on behalf of one organization. A query that forgot to name it
// would find nothing of another.
type scope struct {
	pool *pgxpool.Pool
	org  string
}

// of returns the store as one organization may see it.
func (s *Store) of(org string) scope { return scope{pool: s.pool, org: org} }

// writeFor runs f in a transaction on behalf of one organization.
func (s *Store) writeFor(ctx context.Context, org string, f func(tx pgx.Tx) error) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, scopeTo, org); err != nil {
			return err
		}
		return f(tx)
	})
}

// Query runs a query in one trip to the server: the scope goes ahead of it in
// the same pipeline, which is a transaction. The first of args may be planned.
func (s scope) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	set := scopeTo
	if len(args) > 0 && args[0] == any(planned) {
		set, args = scopePlanned, args[1:]
	}
	var batch pgx.Batch
	batch.Queue(set, s.org)
	batch.Queue(query, args...)
	results := s.pool.SendBatch(ctx, &batch)
	if _, err := results.Exec(); err != nil {
		return nil, errors.Join(err, results.Close())
	}
	rows, err := results.Query()
	if err != nil {
		return nil, errors.Join(err, results.Close())
	}
	return &scopedRows{Rows: rows, results: results}, nil
}

// QueryRow runs a query for one row. Errors are those of Scan.
func (s scope) QueryRow(ctx context.Context, query string, args ...any) columns.Row {
	rows, err := s.Query(ctx, query, args...)
	return scopedRow{rows, err}
}

// scopedRows give their connection back when they are read or closed.
type scopedRows struct {
	pgx.Rows
	results pgx.BatchResults
	closed  error
}

func (r *scopedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *scopedRows) Close() {
	r.Rows.Close()
	if err := r.results.Close(); r.closed == nil {
		r.closed = err
	}
}

func (r *scopedRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.closed
}

type scopedRow struct {
	rows pgx.Rows
	err  error
}

func (r scopedRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// BypassesPolicies tells whether the database keeps organizations apart for
// every role but the one that it is used with, which is a superuser or may
// bypass row-level security.
func (s *Store) BypassesPolicies(ctx context.Context) (bool, error) {
	var bypasses bool
	err := s.pool.QueryRow(ctx, selectBypassesPolicies).Scan(&bypasses)
	return bypasses, err
}
