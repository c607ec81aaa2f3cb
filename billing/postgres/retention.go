package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
	"github.com/caddy-llm-gateway/gateway/billing/internal/proof"
)

const (
	// monthsAhead is how many partitions are made ahead: so many months a
	// gateway may run without making any.
	monthsAhead = 3
	// retentionLock is the advisory lock of the node that drops requests.
	retentionLock = 0x6c6c6d6b657074 // "llmkept"
	// lockTries is how often a lock is asked for that others hold. Each time
	// they may wait a quarter of a second for the one who waits.
	lockTries = 5

	lockRetention   = `SELECT pg_try_advisory_lock($1)`
	unlockRetention = `SELECT pg_advisory_unlock($1)`

	makePartitions = `SELECT make_request_partitions($1)`
	watchPartition = `SELECT watch_request_partition($1)`
	dropPartition  = `SELECT drop_request_partition($1, $2, $3, $4)`

	// No node's clock can have more dropped than the database's own allows.
	selectOldPartitions = `
SELECT name, coalesce(first_id, ''), end_id, request_id_time(end_id) FROM request_partitions
WHERE end_id <= request_id_floor(least($1::timestamptz, now() - make_interval(secs => $2)))
ORDER BY end_id`

	selectLate = `SELECT late FROM requests_kept`
	selectKept = `SELECT first_id, kept_from FROM requests_kept`

	selectHasStray = `
SELECT EXISTS (
	SELECT FROM requests_default, requests_kept
	WHERE request_id < first_id AND arrived_at < kept_from
)`

	deleteRequests = `DELETE FROM requests WHERE organization_id = $1 AND request_id = ANY ($2::text[])`

	addDropped = `
INSERT INTO dropped_requests AS d (organization_id, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost, debits)
SELECT organization_id, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost, debits
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
	$9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
	AS w (organization_id, series, start, key_id, project, provider, model,
		requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost, debits)
ON CONFLICT (organization_id, start, key_id, project, provider, model) DO UPDATE SET
	requests = d.requests + excluded.requests,
	prompt_tokens = d.prompt_tokens + excluded.prompt_tokens,
	completion_tokens = d.completion_tokens + excluded.completion_tokens,
	cached_tokens = d.cached_tokens + excluded.cached_tokens,
	reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
	cost = d.cost + excluded.cost,
	market_cost = d.market_cost + excluded.market_cost,
	debits = d.debits + excluded.debits`
)

// errPosted: requests were posted to a partition while it was proven.
var errPosted = errors.New("requests were posted to it in the meantime")

// partition is a range of ids, the last exclusive, and the time that it ends.
type partition struct {
	name        string
	first, last string
	end         time.Time
}

// PrepareRequests implements billing.Retention: it makes partitions.
func (s *Store) PrepareRequests(ctx context.Context) error {
	err := tryLocks(ctx, func() error {
		_, err := s.pool.Exec(ctx, makePartitions, monthsAhead)
		return err
	})
	if err != nil {
		return fmt.Errorf("make partitions of requests: %w", oneLine{err})
	}
	return nil
}

// RequestsKept implements billing.Retention.
func (s *Store) RequestsKept(ctx context.Context) (time.Time, error) {
	_, from, err := s.kept(ctx)
	return from, err
}

func (s *Store) kept(ctx context.Context) (firstID string, from time.Time, err error) {
	if err := s.pool.QueryRow(ctx, selectKept).Scan(&firstID, columns.Time{To: &from}); err != nil {
		return "", time.Time{}, fmt.Errorf("read what requests are kept: %w", err)
	}
	return firstID, from, nil
}

// missing says why there is no request of an id.
func (s *Store) missing(ctx context.Context, id string) error {
	firstID, _, err := s.kept(ctx)
	if err != nil {
		return err
	}
	return books.Missing(id, firstID)
}

// DropRequests implements billing.Retention. It drops whole months.
func (s *Store) DropRequests(ctx context.Context, before time.Time) (dropped int64, err error) {
	// The lock ends with its connection, which is not one of the pool.
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return 0, fmt.Errorf("drop requests: %w", oneLine{err})
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var mine bool
	if err := conn.QueryRow(ctx, lockRetention, retentionLock).Scan(&mine); err != nil || !mine {
		return 0, err
	}
	// The server may notice the end of the connection only a moment later.
	defer func() {
		_, unlocked := conn.Exec(context.WithoutCancel(ctx), unlockRetention, retentionLock)
		err = errors.Join(err, unlocked)
	}()
	old, err := list(ctx, s.pool, scanPartition, selectOldPartitions, before, billing.MinRetention.Seconds())
	if err != nil {
		return 0, fmt.Errorf("list old partitions: %w", err)
	}
	for _, p := range old {
		n, err := s.dropPartition(ctx, p)
		dropped += n
		if err != nil {
			return dropped, fmt.Errorf("drop partition %s: %w", p.name, err)
		}
	}
	n, err := s.dropStrays(ctx)
	if err != nil {
		err = fmt.Errorf("drop late requests: %w", err)
	}
	return dropped + n, err
}

func scanPartition(row columns.Row) (partition, error) {
	var p partition
	err := row.Scan(&p.name, &p.first, &p.last, columns.Time{To: &p.end})
	return p, err
}

// dropPartition proves a partition and drops it. What is posted to it from the
// moment on that it is watched is counted, and lets it stay; all else is in the
// verification and in the proof.
func (s *Store) dropPartition(ctx context.Context, p partition) (int64, error) {
	err := tryLocks(ctx, func() error {
		_, err := s.pool.Exec(ctx, watchPartition, p.name)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("watch it: %w", err)
	}
	if err := s.mustBalance(ctx); err != nil {
		return 0, err
	}
	var (
		d    *proof.Dropping
		late int64
	)
	err = s.inSnapshot(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, selectLate).Scan(&late); err != nil {
			return err
		}
		d = proof.NewDropping(tx, &proofQueries, p.first, p.last, p.end)
		return d.All(ctx)
	})
	if err != nil {
		return 0, err
	}
	var orgs, ids []string
	for _, id := range d.Later() {
		orgs, ids = append(orgs, id.OrganizationID), append(ids, id.RequestID)
	}
	err = tryLocks(ctx, func() error {
		return s.write(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, addDropped, droppedArrays(d.Sums())...); err != nil {
				return err
			}
			var done bool
			if err := tx.QueryRow(ctx, dropPartition, p.name, late, orgs, ids).Scan(&done); err != nil {
				return err
			}
			if !done {
				return errPosted
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	return requestsIn(d.Sums()), nil
}

// dropStrays deletes what no partition of a month has: requests that came too
// late for theirs, or whose ids are older than they are.
func (s *Store) dropStrays(ctx context.Context) (dropped int64, err error) {
	var some bool
	if err := s.pool.QueryRow(ctx, selectHasStray).Scan(&some); err != nil || !some {
		return 0, err
	}
	if err := s.mustBalance(ctx); err != nil {
		return 0, err
	}
	firstID, from, err := s.kept(ctx)
	if err != nil {
		return 0, err
	}
	var orgs []string
	err = s.inSnapshot(ctx, func(tx *sql.Tx) error {
		orgs, err = proof.NewDropping(tx, &proofQueries, "", firstID, from).Organizations(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, org := range orgs {
		for {
			n, err := s.dropSome(ctx, org, firstID, from)
			if err != nil {
				return dropped, err
			}
			if n == 0 {
				break
			}
			dropped += n
		}
	}
	return dropped, nil
}

func (s *Store) dropSome(ctx context.Context, org, firstID string, from time.Time) (int64, error) {
	var (
		ids  []string
		sums []proof.Dropped
	)
	err := s.inSnapshot(ctx, func(tx *sql.Tx) (err error) {
		d := proof.NewDropping(tx, &proofQueries, "", firstID, from)
		ids, err = d.Some(ctx, org)
		sums = d.Sums()
		return err
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	err = s.write(ctx, func(tx pgx.Tx) error {
		deleted, err := tx.Exec(ctx, deleteRequests, org, ids)
		if err != nil {
			return err
		}
		if n := deleted.RowsAffected(); n != int64(len(ids)) {
			return fmt.Errorf("%d of %d requests are there", n, len(ids))
		}
		_, err = tx.Exec(ctx, addDropped, droppedArrays(sums)...)
		return err
	})
	return int64(len(ids)), err
}

// mustBalance verifies what is new, so that all that is dropped was verified.
func (s *Store) mustBalance(ctx context.Context) error {
	v, err := s.Verify(ctx, billing.VerifyOptions{Mode: billing.Incremental})
	if err != nil {
		return err
	}
	return proof.MustBalance(v)
}

// inSnapshot runs f in a transaction that sees one moment.
func (s *Store) inSnapshot(ctx context.Context, f func(*sql.Tx) error) (err error) {
	db := connect(s.pool.Config().ConnConfig)
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := beginSnapshot(ctx, db)
	if err != nil {
		return err
	}
	defer tx.Rollback() // it has nothing to commit
	return f(tx)
}

// tryLocks runs f again while it does not get a lock in time.
func tryLocks(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		e, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || e.Code != "55P03" /* lock_not_available */ || try == lockTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * time.Second):
		}
	}
}

func requestsIn(sums []proof.Dropped) (n int64) {
	for i := range sums {
		n += sums[i].Requests
	}
	return n
}

func droppedArrays(sums []proof.Dropped) []any {
	return append(
		rollupArrays(column(sums, func(d *proof.Dropped) books.Rollup { return d.Rollup })),
		column(sums, func(d *proof.Dropped) int64 { return d.Debits }))
}
