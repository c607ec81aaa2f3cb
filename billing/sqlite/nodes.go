package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	putNode = `
INSERT INTO nodes (id, incarnation, host, version, started_at, lease_ttl_ns, unposted, lag_ns, seen_at, beats, expired)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 0)
ON CONFLICT DO UPDATE SET incarnation = excluded.incarnation, host = excluded.host, version = excluded.version,
	started_at = excluded.started_at, lease_ttl_ns = excluded.lease_ttl_ns, unposted = excluded.unposted,
	lag_ns = excluded.lag_ns, seen_at = excluded.seen_at, beats = beats + 1, expired = 0`

	selectExpired = `SELECT expired FROM nodes WHERE id = ?1`

	beatNode = putNode + ` WHERE incarnation = excluded.incarnation`

	selectNodes = `
SELECT id, incarnation, host, version, started_at, seen_at, beats, lease_ttl_ns, expired, unposted, lag_ns,
	(SELECT count(*) FROM leases WHERE node > id || '.' AND node < id || '/'),
	(SELECT coalesce(sum(amount), 0) FROM leases WHERE node > id || '.' AND node < id || '/' AND kind = 'credits')
FROM nodes ORDER BY id`

	expireNode = `UPDATE nodes SET expired = 1 WHERE id = ?1 AND beats = ?2 AND NOT expired`

	deleteNode = `DELETE FROM nodes WHERE id = ?1 AND incarnation = ?2`
)

func nodeArgs(n billing.Node) []any {
	return []any{
		n.ID, n.Incarnation, n.Host, n.Version, micros(n.StartedAt), int64(n.LeaseTTL), n.Unposted, int64(n.Lag),
		micros(time.Now()),
	}
}

// Join implements billing.Nodes.
func (s *Store) Join(ctx context.Context, n billing.Node) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, putNode, nodeArgs(n)...); err != nil {
			return err
		}
		if err := returnQuotas(ctx, tx, n.ID, n.StartedAt); err != nil {
			return err
		}
		return returnAll(ctx, tx, n.ID)
	})
	if err != nil {
		return fmt.Errorf("register node: %w", err)
	}
	return nil
}

// Beat implements billing.Nodes.
func (s *Store) Beat(ctx context.Context, n billing.Node) (all []billing.Node, expired bool, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, selectExpired, n.ID).Scan(&expired)
		if errors.Is(err, sql.ErrNoRows) {
			expired, err = true, nil // for all that is known
		}
		if err != nil {
			return err
		}
		if done, err := changed(tx.ExecContext(ctx, beatNode, nodeArgs(n)...)); err != nil || !done {
			return errors.Join(err, billing.ErrReplaced)
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("register heartbeat: %w", err)
	}
	all, err = s.ListNodes(ctx)
	return all, expired, err
}

// Expire implements billing.Nodes.
func (s *Store) Expire(ctx context.Context, id string, beats int64) (done bool, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		done, err = changed(tx.ExecContext(ctx, expireNode, id, beats))
		if err != nil || !done {
			return err
		}
		if err := returnQuotas(ctx, tx, id, books.Always.To); err != nil {
			return err
		}
		return returnAll(ctx, tx, id)
	})
	if err != nil {
		return false, fmt.Errorf("expire node: %w", err)
	}
	return done, nil
}

// Leave implements billing.Nodes.
func (s *Store) Leave(ctx context.Context, n billing.Node) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		done, err := changed(tx.ExecContext(ctx, deleteNode, n.ID, n.Incarnation))
		if err != nil || !done {
			return err // the leases are those of another process now
		}
		if err := returnQuotas(ctx, tx, n.ID, books.Always.To); err != nil {
			return err
		}
		return returnAll(ctx, tx, n.ID)
	})
	if err != nil {
		return fmt.Errorf("remove node: %w", err)
	}
	return nil
}

// changed tells whether a statement has changed any row.
func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// ListNodes implements billing.Nodes.
func (s *Store) ListNodes(ctx context.Context) ([]billing.Node, error) {
	nodes, err := list(ctx, s.reader, columns.ScanNode, selectNodes)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return nodes, nil
}

// Ask implements billing.Leases: there is nobody else.
func (s *Store) Ask(context.Context, string, []billing.Allowance) error { return nil }

// Listen implements billing.Leases. There are no other nodes to hear.
func (s *Store) Listen(ctx context.Context, _ string, _ billing.Listener) error {
	<-ctx.Done()
	return nil
}
