package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
	"github.com/caddy-llm-gateway/gateway/billing/internal/proof"
)

const (
	selectKept = `SELECT first_id, kept_from FROM requests_kept`

	putKept = `UPDATE requests_kept SET first_id = ?1, kept_from = ?2`

	deleteRequests = `DELETE FROM requests WHERE organization_id = ?1 AND request_id IN (SELECT value FROM json_each(?2))`

	addDropped = `
INSERT INTO dropped_requests (organization_id, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost, debits)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
	requests = requests + excluded.requests,
	prompt_tokens = prompt_tokens + excluded.prompt_tokens,
	completion_tokens = completion_tokens + excluded.completion_tokens,
	cached_tokens = cached_tokens + excluded.cached_tokens,
	reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
	cost = cost + excluded.cost,
	market_cost = market_cost + excluded.market_cost,
	debits = debits + excluded.debits`
)

// errDropped: another process drops the same requests, and is left to do so.
var errDropped = errors.New("requests were dropped in the meantime")

// kept is from where on requests are kept: those of lower ids that arrived
// before are dropped, or about to be.
type kept struct {
	firstID string
	from    time.Time
}

// drops tells whether a row may be among those that are dropped.
func (k *kept) drops(r *books.Row) bool {
	return r.RequestID < k.firstID && r.At.Before(k.from)
}

// loadKept reads what is kept into memory, where posts look for it: only one
// process is to post to a file.
func (s *Store) loadKept(ctx context.Context) error {
	k, err := scanKept(s.writer.QueryRowContext(ctx, selectKept))
	if err != nil {
		return fmt.Errorf("read what requests are kept: %w", err)
	}
	s.kept.Store(&k)
	return nil
}

func scanKept(row columns.Row) (k kept, err error) {
	err = row.Scan(&k.firstID, columns.Time{To: &k.from})
	return k, err
}

// PrepareRequests implements billing.Retention. A file needs no preparation.
func (s *Store) PrepareRequests(context.Context) error { return nil }

// RequestsKept implements billing.Retention.
func (s *Store) RequestsKept(context.Context) (time.Time, error) { return s.kept.Load().from, nil }

// DropRequests implements billing.Retention. It deletes in small transactions,
// between which others write.
func (s *Store) DropRequests(ctx context.Context, before time.Time) (dropped int64, err error) {
	if latest := time.Now().Add(-billing.MinRetention); before.After(latest) {
		before = latest
	}
	if err := s.loadKept(ctx); err != nil {
		return 0, fmt.Errorf("drop requests: %w", err)
	}
	if err := s.raiseKept(ctx, before.UTC().Truncate(time.Hour)); err != nil {
		return 0, fmt.Errorf("drop requests: %w", err)
	}
	// From here on no request without a debit is posted to what is dropped, so
	// that this verification has seen them all.
	if err := s.mustBalance(ctx); err != nil {
		return 0, fmt.Errorf("drop requests: %w", err)
	}
	var orgs []string
	err = s.dropping(ctx, func(d *proof.Dropping) error {
		orgs, err = d.Organizations(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("drop requests: %w", err)
	}
	for _, org := range orgs {
		for {
			n, err := s.dropSome(ctx, org)
			if err != nil {
				return dropped, fmt.Errorf("drop requests of organization %q: %w", org, err)
			}
			if n == 0 {
				break
			}
			dropped += n
		}
	}
	return dropped, nil
}

// raiseKept makes rows before a time ones that may be deleted, if the books
// balance.
func (s *Store) raiseKept(ctx context.Context, from time.Time) error {
	firstID := billing.IDFloor(billing.RequestIDPrefix, from)
	if firstID <= s.kept.Load().firstID {
		return nil
	}
	if err := s.mustBalance(ctx); err != nil {
		return err
	}
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, putKept, firstID, micros(from))
		return err
	})
	if err != nil {
		return err
	}
	return s.loadKept(ctx)
}

func (s *Store) mustBalance(ctx context.Context) error {
	v, err := s.Verify(ctx, billing.VerifyOptions{Mode: billing.Incremental})
	if err != nil {
		return err
	}
	return proof.MustBalance(v)
}

// dropSome proves some of an organization's requests, deletes them and returns
// how many.
func (s *Store) dropSome(ctx context.Context, org string) (int64, error) {
	var (
		ids  []string
		sums []proof.Dropped
	)
	err := s.dropping(ctx, func(d *proof.Dropping) (err error) {
		ids, err = d.Some(ctx, org)
		sums = d.Sums()
		return err
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	array, err := json.Marshal(ids)
	if err != nil {
		return 0, err
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		deleted, err := tx.ExecContext(ctx, deleteRequests, org, string(array))
		if err != nil {
			return err
		}
		n, err := deleted.RowsAffected()
		if err != nil {
			return err
		}
		if n != int64(len(ids)) {
			return errDropped
		}
		return addSums(ctx, tx, sums)
	})
	if errors.Is(err, errDropped) {
		return 0, nil
	}
	return int64(len(ids)), err
}

func addSums(ctx context.Context, tx *sql.Tx, sums []proof.Dropped) error {
	for _, d := range sums {
		_, err := tx.ExecContext(ctx, addDropped, d.OrganizationID, micros(d.Start), d.KeyID, d.Project, d.Provider, d.Model, d.Requests,
			d.PromptTokens, d.CompletionTokens, d.CachedTokens, d.ReasoningTokens, int64(d.Cost), int64(d.MarketCost), d.Debits)
		if err != nil {
			return fmt.Errorf("add to sums of dropped requests: %w", err)
		}
	}
	return nil
}

// dropping runs f on one snapshot of the requests that may be dropped.
func (s *Store) dropping(ctx context.Context, f func(*proof.Dropping) error) error {
	tx, err := s.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback() // it has nothing to commit
	k := s.kept.Load()
	return f(proof.NewDropping(tx, &proofQueries, "", k.firstID, k.from))
}

// withoutDropped returns the rows but for those that may have been dropped after
// they were posted, and the ids of those of them that had other content. Such a
// one has its debit; what cost nothing has none, and is not to be counted twice.
func (s *Store) withoutDropped(ctx context.Context, tx *sql.Tx, rows []books.Row) (rest []books.Row, conflicts []string, err error) {
	k := s.kept.Load()
	first := 0
	for first < len(rows) && !k.drops(&rows[first]) {
		first++
	}
	if first == len(rows) {
		return rows, nil, nil
	}
	rest = append(rest, rows[:first]...)
	for i := first; i < len(rows); i++ {
		r := &rows[i]
		if !k.drops(r) {
			rest = append(rest, *r)
			continue
		}
		debit, err := columns.ScanLine(tx.QueryRowContext(ctx, selectEntryByIdempotencyKey, r.OrganizationID, books.DebitKey(r.RequestID)))
		switch {
		case errors.Is(err, sql.ErrNoRows) && r.Cost != 0:
			rest = append(rest, *r)
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return nil, nil, fmt.Errorf("read debit of request %q: %w", r.RequestID, err)
		case r.ConflictsWith(debit.Hash):
			conflicts = append(conflicts, r.RequestID)
		}
	}
	return rest, conflicts, nil
}
