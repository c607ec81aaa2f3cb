package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

const (
	selectQuota = `
SELECT coalesce(sum(max(granted, used)) FILTER (WHERE node <> ?5), 0),
	coalesce(sum(used) FILTER (WHERE node <> ?5), 0),
	coalesce(sum(max(granted - used, 0)) FILTER (WHERE node <> ?5), 0),
	coalesce(max(serial) FILTER (WHERE node = ?5), 0),
	coalesce(max(granted) FILTER (WHERE node = ?5), 0)
FROM quotas WHERE kind = ?1 AND organization_id = ?2 AND subject = ?3 AND window_start = ?4`

	putQuota = `
INSERT INTO quotas (kind, organization_id, subject, window_start, node, granted, used, serial)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT DO UPDATE SET granted = excluded.granted, used = excluded.used, serial = excluded.serial`

	// What has not begun when a process starts, no process before it has used.
	deleteOpenQuotas = `DELETE FROM quotas WHERE ` + ofNode + ` AND (kind = 'key_concurrency' OR window_start > ?2)`

	deleteEndedQuotas = `
DELETE FROM quotas WHERE (kind, organization_id, subject, window_start, node) IN (
	SELECT kind, organization_id, subject, window_start, node FROM quotas
	WHERE window_start < ?1 AND kind <> 'key_concurrency' LIMIT ?2
)`
)

// forgetAtOnce is how many rows of ended minutes one call removes.
const forgetAtOnce = 1000

// Draw implements billing.Quotas.
func (s *Store) Draw(ctx context.Context, node string, draws []billing.Draw) ([]billing.Drawn, error) {
	var drawn []billing.Drawn
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, d := range draws {
			one, err := drawOne(ctx, tx, node, d)
			if err != nil {
				return err
			}
			drawn = append(drawn, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("draw quotas: %w", err)
	}
	return drawn, nil
}

func drawOne(ctx context.Context, tx *sql.Tx, node string, d billing.Draw) (billing.Drawn, error) {
	var (
		drawn             billing.Drawn
		elsewhere, serial int64
	)
	q := d.Quota
	args := []any{string(q.Kind), q.OrganizationID, q.Subject, micros(q.Start), node}
	err := tx.QueryRowContext(ctx, selectQuota, args...).Scan(&elsewhere, &drawn.UsedElsewhere, &drawn.UnusedElsewhere,
		&serial, &drawn.Granted)
	if err != nil || serial >= d.Serial {
		return drawn, err
	}
	drawn.Granted = books.Granted(d, elsewhere)
	_, err = tx.ExecContext(ctx, putQuota, append(args, drawn.Granted, d.Used, d.Serial)...)
	return drawn, err
}

// ForgetQuotas implements billing.Quotas.
func (s *Store) ForgetQuotas(ctx context.Context, before time.Time) (more bool, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, deleteEndedQuotas, micros(before), forgetAtOnce)
		if err != nil {
			return err
		}
		removed, err := res.RowsAffected()
		more = removed == forgetAtOnce
		return err
	})
	if err != nil {
		return false, fmt.Errorf("forget quotas: %w", err)
	}
	return more, nil
}

// returnQuotas gives back what a node has of quotas that an end of its process
// frees: its open requests, and minutes that begin after the given time.
func returnQuotas(ctx context.Context, tx *sql.Tx, node string, after time.Time) error {
	_, err := tx.ExecContext(ctx, deleteOpenQuotas, node, micros(after))
	return err
}

// AskForQuotas implements billing.Quotas: there is nobody else.
func (s *Store) AskForQuotas(context.Context, string, []billing.Quota) error { return nil }

// ListenForQuotas implements billing.Quotas.
func (s *Store) ListenForQuotas(ctx context.Context, _ string, _ func([]billing.Quota)) error {
	<-ctx.Done()
	return nil
}
