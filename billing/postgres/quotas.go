package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// A quota has no row of its own to lock. Locks are taken in one order, so
	// that no two draws can wait for each other.
	lockQuotas = `
SELECT pg_advisory_xact_lock(lock) FROM (
	SELECT DISTINCT hashtextextended(concat_ws('/', kind, organization_id, subject, extract(epoch FROM start)), 0) AS lock
	FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS w (kind, organization_id, subject, start)
	ORDER BY lock
) AS locks`

	// Package books says in Granted what is granted.
	drawQuotas = `
WITH wanted AS (
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[],
		$5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
		WITH ORDINALITY AS w (kind, organization_id, subject, window_start, allowed, used, want, least, serial, n)
),
elsewhere AS (
	SELECT n, coalesce(sum(greatest(q.granted, q.used)), 0) AS taken, coalesce(sum(q.used), 0) AS used,
		coalesce(sum(greatest(q.granted - q.used, 0)), 0) AS unused
	FROM wanted LEFT JOIN quotas q
		ON (q.kind, q.organization_id, q.subject, q.window_start)
			= (wanted.kind, wanted.organization_id, wanted.subject, wanted.window_start)
		AND q.node <> $10
	GROUP BY n
),
rooms AS (
	SELECT wanted.*, greatest(0, allowed - taken) AS room FROM wanted JOIN elsewhere USING (n)
),
drawn AS (
	INSERT INTO quotas AS q (kind, organization_id, subject, window_start, node, granted, used, serial)
	SELECT kind, organization_id, subject, window_start, $10,
		least(room, CASE WHEN least(want, room) >= least THEN want ELSE used END), used, serial
	FROM rooms
	ON CONFLICT (kind, organization_id, subject, window_start, node) DO UPDATE
		SET granted = excluded.granted, used = excluded.used, serial = excluded.serial
		WHERE q.serial < excluded.serial
	RETURNING kind, organization_id, subject, window_start, granted
)
SELECT coalesce(drawn.granted, before.granted, 0), elsewhere.used::bigint, elsewhere.unused::bigint
FROM wanted JOIN elsewhere USING (n)
LEFT JOIN drawn USING (kind, organization_id, subject, window_start)
LEFT JOIN quotas before ON before.node = $10
	AND (before.kind, before.organization_id, before.subject, before.window_start)
		= (wanted.kind, wanted.organization_id, wanted.subject, wanted.window_start)
ORDER BY n`

	// What has not begun when a process starts, no process before it has used.
	deleteOpenQuotas = `DELETE FROM quotas WHERE ` + ofNode + ` AND (kind = 'key_concurrency' OR window_start > $2)`

	deleteEndedQuotas = `
DELETE FROM quotas WHERE ctid = ANY (ARRAY(
	SELECT ctid FROM quotas WHERE window_start < $1 AND kind <> 'key_concurrency'
	LIMIT $2 FOR UPDATE SKIP LOCKED
))`

	askForQuotas = `SELECT pg_notify('llm_gateway_quotas', $1)`

	listenForQuotas = `LISTEN llm_gateway_quotas`
)

// forgetAtOnce is how many rows of ended minutes one call removes.
const forgetAtOnce = 1000

// Draw implements billing.Quotas. It is one round trip: what is sent together
// is one transaction, in which the second statement sees what was committed
// while the first has waited.
func (s *Store) Draw(ctx context.Context, node string, draws []billing.Draw) ([]billing.Drawn, error) {
	names := []any{
		column(draws, func(d *billing.Draw) string { return string(d.Quota.Kind) }),
		column(draws, func(d *billing.Draw) string { return d.Quota.OrganizationID }),
		column(draws, func(d *billing.Draw) string { return d.Quota.Subject }),
		column(draws, func(d *billing.Draw) time.Time { return d.Quota.Start }),
	}
	args := append(slices.Clone(names),
		column(draws, func(d *billing.Draw) int64 { return d.Limit }),
		column(draws, func(d *billing.Draw) int64 { return d.Used }),
		column(draws, func(d *billing.Draw) int64 { return d.Want }),
		column(draws, func(d *billing.Draw) int64 { return d.Least }),
		column(draws, func(d *billing.Draw) int64 { return d.Serial }),
		node)
	drawn := make([]billing.Drawn, 0, len(draws))
	var batch pgx.Batch
	batch.Queue(lockQuotas, names...)
	batch.Queue(drawQuotas, args...).Query(func(rows pgx.Rows) error {
		var d billing.Drawn
		_, err := pgx.ForEachRow(rows, []any{&d.Granted, &d.UsedElsewhere, &d.UnusedElsewhere}, func() error {
			drawn = append(drawn, d)
			return nil
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("draw quotas: %w", oneLine{err})
	}
	return drawn, nil
}

// ForgetQuotas implements billing.Quotas.
func (s *Store) ForgetQuotas(ctx context.Context, before time.Time) (more bool, err error) {
	tag, err := s.pool.Exec(ctx, deleteEndedQuotas, before, forgetAtOnce)
	if err != nil {
		return false, fmt.Errorf("forget quotas: %w", oneLine{err})
	}
	return tag.RowsAffected() == forgetAtOnce, nil
}

// returnQuotas gives back what a node has of quotas that an end of its process
// frees: its open requests, and minutes that begin after the given time.
func returnQuotas(ctx context.Context, tx pgx.Tx, node string, after time.Time) error {
	_, err := tx.Exec(ctx, deleteOpenQuotas, node, after)
	return err
}

// askingForQuotas is what one node tells the others.
type askingForQuotas struct {
	Node string          `json:"node"`
	For  []billing.Quota `json:"for"`
}

// AskForQuotas implements billing.Quotas.
func (s *Store) AskForQuotas(ctx context.Context, node string, quotas []billing.Quota) error {
	for some := range slices.Chunk(quotas, askAtOnce) {
		text, err := json.Marshal(askingForQuotas{Node: node, For: some})
		if err != nil {
			return fmt.Errorf("ask for quotas: %w", err)
		}
		if _, err := s.pool.Exec(ctx, askForQuotas, string(text)); err != nil {
			return fmt.Errorf("ask for quotas: %w", oneLine{err})
		}
	}
	return nil
}

// ListenForQuotas implements billing.Quotas. It has a connection of its own,
// like Listen: a gateway whose keys have no such limits needs none.
func (s *Store) ListenForQuotas(ctx context.Context, node string, asked func([]billing.Quota)) error {
	return s.listenTo(ctx, listenForQuotas, func() {}, func(n *pgconn.Notification) {
		var a askingForQuotas
		if json.Unmarshal([]byte(n.Payload), &a) == nil && a.Node != node {
			for i := range a.For {
				a.For[i].Start = a.For[i].Start.UTC()
			}
			asked(a.For)
		}
	})
}
