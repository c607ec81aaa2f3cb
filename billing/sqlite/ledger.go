package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

const (
	insertRequest = `
INSERT INTO requests (` + requestColumns + `)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (request_id) DO NOTHING`

	selectRequestHash = `SELECT hash FROM requests WHERE request_id = ?1`

	selectLedger = `SELECT balance, entries FROM accounts WHERE organization_id = ?1`

	putLedger = `
INSERT INTO accounts (organization_id, balance, entries) VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET balance = excluded.balance, entries = excluded.entries`

	entryColumns = `organization_id, seq, type, amount, balance_after, created_at, request_id, payment_id,
	reason, actor, idempotency_key, hash`

	insertEntry = `INSERT INTO entries (` + entryColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	selectEntryByIdempotencyKey = `SELECT ` + entryColumns + ` FROM entries
WHERE organization_id = ?1 AND idempotency_key = ?2`

	selectEntries = `SELECT ` + entryColumns + ` FROM entries
WHERE organization_id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3`

	addSettled = `
INSERT INTO allowances (organization_id, key_id, kind, period, period_start, settled)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET settled = settled + excluded.settled`

	addCredited = `
INSERT INTO allowances (organization_id, key_id, kind, period, period_start, credited)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET credited = credited + excluded.credited`

	addRollup = `
INSERT INTO rollups_hourly (organization_id, hour, key_id, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
	requests = requests + excluded.requests,
	prompt_tokens = prompt_tokens + excluded.prompt_tokens,
	completion_tokens = completion_tokens + excluded.completion_tokens,
	cached_tokens = cached_tokens + excluded.cached_tokens,
	reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
	cost = cost + excluded.cost,
	market_cost = market_cost + excluded.market_cost`

	touchKey = `
UPDATE keys SET last_used_at = ?3
WHERE organization_id = ?1 AND id = ?2 AND (last_used_at IS NULL OR last_used_at < ?3)`
)

// postStatements are what Post runs, prepared once.
type postStatements struct {
	insertRequest                              *sql.Stmt
	selectLedger, putLedger, insertEntry       *sql.Stmt
	addSettled, addRollup, touchKey            *sql.Stmt
	selectLeasesOfKey                          *sql.Stmt
	subtractLeased, subtractLease, deleteLease *sql.Stmt
}

func prepare(ctx context.Context, db *sql.DB) (*postStatements, error) {
	p := &postStatements{}
	for _, q := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&p.insertRequest, insertRequest},
		{&p.selectLedger, selectLedger},
		{&p.putLedger, putLedger},
		{&p.insertEntry, insertEntry},
		{&p.addSettled, addSettled},
		{&p.addRollup, addRollup},
		{&p.touchKey, touchKey},
		{&p.selectLeasesOfKey, selectLeasesOfKey},
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
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var fresh []books.Row
		var err error
		if fresh, conflicts, err = s.insertRequests(ctx, tx, rows); err != nil {
			return err
		}
		if len(fresh) == 0 {
			return nil
		}
		return s.post(ctx, tx, node, fresh)
	})
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	return conflicts, nil
}

// insertRequests returns the rows that were not there yet, and the ids of those
// that were, with other content.
func (s *Store) insertRequests(ctx context.Context, tx *sql.Tx, rows []books.Row) (fresh []books.Row, conflicts []string, err error) {
	insert := tx.StmtContext(ctx, s.posts.insertRequest)
	fresh = make([]books.Row, 0, len(rows))
	for i := range rows {
		r := &rows[i]
		res, err := insert.ExecContext(ctx, requestArgs(r)...)
		if err != nil {
			return nil, nil, fmt.Errorf("insert request %q: %w", r.RequestID, err)
		}
		inserted, err := res.RowsAffected()
		if err != nil {
			return nil, nil, fmt.Errorf("insert request %q: %w", r.RequestID, err)
		}
		if inserted == 1 {
			fresh = append(fresh, *r)
			continue
		}
		var stored []byte
		if err := tx.QueryRowContext(ctx, selectRequestHash, r.RequestID).Scan(&stored); err != nil {
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
	for _, l := range posting.Spent {
		if _, err := add.ExecContext(ctx, leaseArgs(l)...); err != nil {
			return fmt.Errorf("settle allowance: %w", err)
		}
	}
	if err := s.release(ctx, tx, node, posting.Spent); err != nil {
		return err
	}
	add = tx.StmtContext(ctx, s.posts.addRollup)
	for _, r := range posting.Rollups {
		_, err := add.ExecContext(ctx, r.OrganizationID, micros(r.Hour), r.KeyID, r.Provider, r.Model, r.Requests,
			r.PromptTokens, r.CompletionTokens, r.CachedTokens, r.ReasoningTokens, int64(r.Cost), int64(r.MarketCost))
		if err != nil {
			return fmt.Errorf("add to rollup: %w", err)
		}
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
	if err := s.insertLines(ctx, tx, lines...); err != nil {
		return err
	}
	for _, org := range orgs {
		if err := s.putLedger(ctx, tx, org, accounts[org]); err != nil {
			return err
		}
	}
	return nil
}

// Append implements billing.Ledger. An organization that does not exist is
// ErrNotFound. An adjustment, refund or dispute may bring credits below what is
// settled and leased; then nothing is left to lease.
func (s *Store) Append(ctx context.Context, e billing.Entry) (billing.Entry, error) {
	line, err := books.NewLine(e)
	if err != nil {
		return billing.Entry{}, fmt.Errorf("append: %w", err)
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := organizationExists(ctx, tx, line.OrganizationID); err != nil {
			return err
		}
		var err error
		line, err = s.append(ctx, tx, line)
		return err
	})
	if err != nil {
		return billing.Entry{}, fmt.Errorf("append %s: %w", e.Type, err)
	}
	return line.Entry, nil
}

func (s *Store) append(ctx context.Context, tx *sql.Tx, line books.Line) (books.Line, error) {
	first, err := scanLine(tx.QueryRowContext(ctx, selectEntryByIdempotencyKey, line.OrganizationID, line.IdempotencyKey))
	switch {
	case err == nil:
		return first, line.Repeats(first)
	case !errors.Is(err, sql.ErrNoRows):
		return books.Line{}, fmt.Errorf("read entry: %w", err)
	}
	account, err := s.ledger(ctx, tx, line.OrganizationID)
	if err != nil {
		return books.Line{}, err
	}
	if line, err = line.Append(account); err != nil {
		return books.Line{}, err
	}
	if err := s.insertLines(ctx, tx, line); err != nil {
		return books.Line{}, err
	}
	account = books.Account{Balance: line.BalanceAfter, Entries: line.Seq}
	if err := s.putLedger(ctx, tx, line.OrganizationID, account); err != nil {
		return books.Line{}, err
	}
	credit := billing.Lease{Allowance: billing.CreditsOf(line.OrganizationID), Amount: line.Amount}
	if _, err := tx.ExecContext(ctx, addCredited, leaseArgs(credit)...); err != nil {
		return books.Line{}, fmt.Errorf("credit allowance: %w", err)
	}
	return line, nil
}

// Transactions implements billing.Ledger.
func (s *Store) Transactions(ctx context.Context, org string, page billing.Page) ([]billing.Entry, error) {
	before := int64(math.MaxInt64)
	if page.After != "" {
		var err error
		if before, err = books.EntrySeq(page.After); err != nil {
			return nil, fmt.Errorf("list transactions: %w", err)
		}
	}
	entries, err := list(ctx, s.reader, scanEntry, selectEntries, org, before, books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	return entries, nil
}

func (s *Store) ledger(ctx context.Context, tx *sql.Tx, org string) (books.Account, error) {
	var a books.Account
	err := tx.StmtContext(ctx, s.posts.selectLedger).QueryRowContext(ctx, org).Scan(&a.Balance, &a.Entries)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return books.Account{}, fmt.Errorf("read account %q: %w", org, err)
	}
	return a, nil
}

func (s *Store) putLedger(ctx context.Context, tx *sql.Tx, org string, a books.Account) error {
	if _, err := tx.StmtContext(ctx, s.posts.putLedger).ExecContext(ctx, org, int64(a.Balance), a.Entries); err != nil {
		return fmt.Errorf("write account %q: %w", org, err)
	}
	return nil
}

func (s *Store) insertLines(ctx context.Context, tx *sql.Tx, lines ...books.Line) error {
	insert := tx.StmtContext(ctx, s.posts.insertEntry)
	for i := range lines {
		l := &lines[i]
		_, err := insert.ExecContext(ctx, l.OrganizationID, l.Seq, string(l.Type), int64(l.Amount), int64(l.BalanceAfter),
			micros(l.CreatedAt), l.RequestID, l.PaymentID, l.Reason, l.Actor, l.IdempotencyKey, l.Hash)
		if err != nil {
			return fmt.Errorf("insert entry %q: %w", l.IdempotencyKey, err)
		}
	}
	return nil
}

func scanLine(row scanner) (books.Line, error) {
	var l books.Line
	err := row.Scan(&l.OrganizationID, &l.Seq, &l.Type, &l.Amount, &l.BalanceAfter, timeColumn{&l.CreatedAt},
		&l.RequestID, &l.PaymentID, &l.Reason, &l.Actor, &l.IdempotencyKey, &l.Hash)
	l.ID = books.EntryID(l.Seq)
	return l, err
}

func scanEntry(row scanner) (billing.Entry, error) {
	l, err := scanLine(row)
	return l.Entry, err
}
