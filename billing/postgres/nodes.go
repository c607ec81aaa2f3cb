package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	putNode = `
INSERT INTO nodes AS n (id, incarnation, host, version, started_at, lease_ttl_ns, unposted, lag_ns, seen_at, beats, expired)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), 1, false)
ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, host = excluded.host, version = excluded.version,
	started_at = excluded.started_at, lease_ttl_ns = excluded.lease_ttl_ns, unposted = excluded.unposted,
	lag_ns = excluded.lag_ns, seen_at = excluded.seen_at, beats = n.beats + 1, expired = false`

	selectExpired = `SELECT expired FROM nodes WHERE id = $1 FOR UPDATE`

	beatNode = putNode + ` WHERE n.incarnation = excluded.incarnation`

	selectSightings = `SELECT id, incarnation, beats, lease_ttl_ns, expired FROM nodes`

	selectNodes = `
SELECT id, incarnation, host, version, started_at, seen_at, beats, lease_ttl_ns, expired, unposted, lag_ns,
	coalesce(l.leases, 0), coalesce(l.credits, 0)
FROM nodes LEFT JOIN (
	SELECT split_part(node, '.', 1) AS id, count(*) AS leases,
		(sum(amount) FILTER (WHERE kind = 'credits'))::bigint AS credits
	FROM leases GROUP BY 1
) AS l USING (id)
ORDER BY id`

	expireNode = `UPDATE nodes SET expired = true WHERE id = $1 AND beats = $2 AND NOT expired`

	deleteNode = `DELETE FROM nodes WHERE id = $1 AND incarnation = $2`

	notify = `SELECT pg_notify('llm_gateway_leases', $1)`

	listen = `LISTEN llm_gateway_leases; LISTEN ` + changesChannel

	changesChannel = `llm_gateway_changes`
)

func nodeArgs(n billing.Node) []any {
	return []any{
		n.ID, n.Incarnation, n.Host, n.Version, n.StartedAt, int64(n.LeaseTTL), n.Unposted, int64(n.Lag),
	}
}

// Join implements billing.Nodes.
func (s *Store) Join(ctx context.Context, n billing.Node) error {
	err := s.write(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, putNode, nodeArgs(n)...); err != nil {
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
	err = s.write(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, selectExpired, n.ID).Scan(&expired)
		if errors.Is(err, pgx.ErrNoRows) {
			expired, err = true, nil // for all that is known
		}
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, beatNode, nodeArgs(n)...)
		if err == nil && tag.RowsAffected() == 0 {
			err = billing.ErrReplaced
		}
		if err != nil {
			return err
		}
		all, err = list(ctx, tx, scanSighting, selectSightings)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("register heartbeat: %w", err)
	}
	return all, expired, nil
}

// Expire implements billing.Nodes.
func (s *Store) Expire(ctx context.Context, id string, beats int64) (bool, error) {
	var done bool
	err := s.write(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, expireNode, id, beats)
		if done = err == nil && tag.RowsAffected() > 0; !done {
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
	err := s.write(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, deleteNode, n.ID, n.Incarnation)
		if err != nil || tag.RowsAffected() == 0 {
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

// ListNodes implements billing.Nodes.
func (s *Store) ListNodes(ctx context.Context) ([]billing.Node, error) {
	nodes, err := list(ctx, s.pool, columns.ScanNode, selectNodes)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return nodes, nil
}

func scanSighting(row columns.Row) (billing.Node, error) {
	var n billing.Node
	err := row.Scan(&n.ID, &n.Incarnation, &n.Beats, &n.LeaseTTL, &n.Expired)
	return n, err
}

// asking is what one node tells the others.
type asking struct {
	Node string              `json:"node"`
	For  []billing.Allowance `json:"for"`
}

// askAtOnce is how many allowances fit in a notification, which may have 8,000
// bytes.
const askAtOnce = 16

// Ask implements billing.Leases.
func (s *Store) Ask(ctx context.Context, node string, ids []billing.Allowance) error {
	for some := range slices.Chunk(ids, askAtOnce) {
		text, err := json.Marshal(asking{Node: node, For: some})
		if err != nil {
			return fmt.Errorf("ask for leases: %w", err)
		}
		if _, err := s.pool.Exec(ctx, notify, string(text)); err != nil {
			return fmt.Errorf("ask for leases: %w", err)
		}
	}
	return nil
}

// Listen implements billing.Leases. It has a connection of its own.
func (s *Store) Listen(ctx context.Context, node string, to billing.Listener) error {
	// Of what changed before, nobody tells this connection.
	return s.listenTo(ctx, listen, to.Changed, func(n *pgconn.Notification) {
		if n.Channel == changesChannel {
			to.Changed()
			return
		}
		var a asking
		if json.Unmarshal([]byte(n.Payload), &a) == nil && a.Node != node {
			for i := range a.For {
				a.For[i].Start = a.For[i].Start.UTC()
			}
			to.Asked(a.For)
		}
	})
}

// listenTo hears what is sent on the channels of a LISTEN statement, on a
// connection of its own, until ctx ends. It calls begun once it listens.
func (s *Store) listenTo(ctx context.Context, statement string, begun func(), heard func(*pgconn.Notification)) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("listen: %w", oneLine{err})
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	begun()
	for {
		n, err := conn.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		heard(n)
	}
}
