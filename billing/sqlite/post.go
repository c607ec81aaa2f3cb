package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// postStatements are what Post runs, prepared once.
type postStatements struct {
	requests                                   *bulk[books.Row]
	debits                                     *bulk[books.Line]
	rollups                                    *bulk[books.Rollup]
	selectLedger, putLedger                    *sql.Stmt
	addSettled, touchKey                       *sql.Stmt
	selectLeasesOfSubject                      *sql.Stmt
	subtractLeased, subtractLease, deleteLease *sql.Stmt
}

func prepare(ctx context.Context, db *sql.DB) (*postStatements, error) {
	p := &postStatements{}
	for _, q := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&p.selectLedger, selectLedger},
		{&p.putLedger, putLedger},
		{&p.addSettled, addSettled},
		{&p.touchKey, touchKey},
		{&p.selectLeasesOfSubject, selectLeasesOfSubject},
		{&p.subtractLeased, subtractLeased},
		{&p.subtractLease, subtractLease},
		{&p.deleteLease, deleteLease},
	} {
		stmt, err := db.PrepareContext(ctx, q.query)
		if err != nil {
			return nil, fmt.Errorf("prepare statement: %w", err)
		}
		*q.to = stmt
	}
	var err error
	if p.requests, err = newBulk(ctx, db, bulkQuery{insertRequests, requestValues, ""}, requestArgs); err != nil {
		return nil, err
	}
	if p.debits, err = newBulk(ctx, db, bulkQuery{insertEntries, debitValues, ""}, debitArgs); err != nil {
		return nil, err
	}
	if p.rollups, err = newBulk(ctx, db, bulkQuery{insertRollups, rollupValues, addRollups}, rollupArgs); err != nil {
		return nil, err
	}
	return p, nil
}

// Post implements billing.Ledger. Settlements of organizations and keys that
// the store does not know are booked like all others. A batch with a
// settlement that cannot be booked, such as one of negative cost, is refused.
func (s *Store) Post(ctx context.Context, node string, batch []billing.Settlement) ([]string, error) {
	rows, err := books.NewRows(batch)
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	var conflicts []string
	var sheets []books.Sheet
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		fresh, dropped, err := s.withoutDropped(ctx, tx, rows)
		if err != nil {
			return err
		}
		known, err := s.posts.requests.insert(ctx, tx, fresh)
		if err != nil {
			return fmt.Errorf("insert requests: %w", err)
		}
		if len(known) > 0 {
			if fresh, conflicts, err = sift(ctx, tx, fresh, known); err != nil {
				return err
			}
		}
		conflicts = append(conflicts, dropped...)
		if len(fresh) == 0 {
			return nil
		}
		sheets = s.sheets.Missing(fresh)
		for _, sheet := range sheets {
			if _, err := tx.ExecContext(ctx, insertSheet, sheet.Hash, sheet.Text); err != nil {
				return fmt.Errorf("insert price sheet: %w", err)
			}
		}
		return s.post(ctx, tx, node, fresh)
	})
	if err != nil {
		return nil, fmt.Errorf("post: %w", blame(rows, err))
	}
	s.sheets.Stored(sheets)
	return conflicts, nil
}

// blame says that a settlement cannot be booked where the error is about its
// values, and no other: a transaction repeated with the same values fails again.
// Whatever else it is, such as a full disk or a file that is locked, may pass.
func blame(rows []books.Row, err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() {
	case codes.SQLITE_CONSTRAINT_DATATYPE, // a sum overflows, and is no integer any more
		codes.SQLITE_TOOBIG:
		return books.Blame(rows, err)
	}
	return err
}

// sift returns the rows that are not among the known, and the ids of the known
// that are stored with other content.
func sift(ctx context.Context, tx *sql.Tx, rows []books.Row, known []int) (fresh []books.Row, conflicts []string, err error) {
	for i := range rows {
		r := &rows[i]
		if len(known) == 0 || known[0] != i {
			fresh = append(fresh, *r)
			continue
		}
		known = known[1:]
		var stored []byte
		if err := tx.QueryRowContext(ctx, selectRequestHash, r.OrganizationID, r.RequestID).Scan(&stored); err != nil {
			return nil, nil, fmt.Errorf("read request %q: %w", r.RequestID, err)
		}
		if r.ConflictsWith(stored) {
			conflicts = append(conflicts, r.RequestID)
		}
	}
	return fresh, conflicts, nil
}

func (s *Store) post(ctx context.Context, tx *sql.Tx, node string, fresh []books.Row) error {
	posting := books.NewPosting(fresh)
	if err := s.insertDebits(ctx, tx, posting, books.Organizations(fresh)); err != nil {
		return err
	}
	add := tx.StmtContext(ctx, s.posts.addSettled)
	for _, l := range posting.Settled {
		if _, err := add.ExecContext(ctx, leaseArgs(l)...); err != nil {
			return fmt.Errorf("settle allowance: %w", err)
		}
	}
	if err := s.release(ctx, tx, node, posting.Spent); err != nil {
		return err
	}
	if _, err := s.posts.rollups.insert(ctx, tx, posting.Rollups); err != nil {
		return fmt.Errorf("add to rollups: %w", err)
	}
	touch := tx.StmtContext(ctx, s.posts.touchKey)
	for _, u := range posting.Uses {
		if _, err := touch.ExecContext(ctx, u.OrganizationID, u.KeyID, micros(u.At)); err != nil {
			return fmt.Errorf("touch key: %w", err)
		}
	}
	return nil
}

func (s *Store) insertDebits(ctx context.Context, tx *sql.Tx, posting books.Posting, orgs []string) error {
	accounts := make(map[string]books.Account, len(orgs))
	for _, org := range orgs {
		a, err := s.ledger(ctx, tx, org)
		if err != nil {
			return err
		}
		accounts[org] = a
	}
	lines, err := posting.Debits(accounts)
	if err != nil {
		return err
	}
	switch known, err := s.posts.debits.insert(ctx, tx, lines); {
	case err != nil:
		return fmt.Errorf("insert entries: %w", err)
	case len(known) > 0:
		return fmt.Errorf("insert entry %q: it is there already", lines[known[0]].IdempotencyKey)
	}
	for _, org := range orgs {
		if err := s.putLedger(ctx, tx, org, accounts[org]); err != nil {
			return err
		}
	}
	return nil
}
