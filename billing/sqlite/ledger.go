package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	insertRequests = `INSERT INTO requests (` + columns.Request + `) VALUES`

	selectRequestHash = `SELECT hash FROM requests WHERE organization_id = ?1 AND request_id = ?2`

	selectLedger = `SELECT balance, entries FROM accounts WHERE organization_id = ?1`

	putLedger = `
INSERT INTO accounts (organization_id, balance, entries) VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET balance = excluded.balance, entries = excluded.entries`

	insertEntries = `INSERT INTO entries (` + columns.Entry + `) VALUES`

	// debitValues has what is the same in all usage debits in it: to pass a
	// text costs as much as to insert it.
	debitValues = `(?, ?, '` + string(billing.UsageDebit) + `', ?, ?, ?, ?, '', '', '', ?, ?)`

	insertEntry = insertEntries + ` (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	selectEntryByIdempotencyKey = `SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = ?1 AND idempotency_key = ?2`

	insertSheet = `INSERT INTO price_sheets (hash, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING`

	selectEntries = `SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = ?1 AND seq > ?2 AND seq < ?3 AND created_at >= ?4 AND created_at < ?5
	AND (?6 = '[]' OR type IN (SELECT value FROM json_each(?6)))
ORDER BY seq`

	selectEntriesNewestFirst = selectEntries + ` DESC LIMIT ?7`
	selectEntriesOldestFirst = selectEntries + ` ASC LIMIT ?7`

	addSettled = `
INSERT INTO allowances (organization_id, subject, kind, period, period_start, settled)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET settled = settled + excluded.settled`

	addCredited = `
INSERT INTO allowances (organization_id, subject, kind, period, period_start, credited)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET credited = credited + excluded.credited`

	insertRollups = `
INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
VALUES`

	rollupValues = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	addRollups = `
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
	first, err := columns.ScanLine(tx.QueryRowContext(ctx, selectEntryByIdempotencyKey, line.OrganizationID, line.IdempotencyKey))
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
	if _, err := tx.ExecContext(ctx, insertEntry, lineArgs(line)...); err != nil {
		return books.Line{}, fmt.Errorf("insert entry: %w", err)
	}
	account = books.Account{Balance: line.BalanceAfter, Entries: line.Seq}
	if err := s.putLedger(ctx, tx, line.OrganizationID, account); err != nil {
		return books.Line{}, err
	}
	credit := billing.Lease{Allowance: billing.CreditsOf(line.OrganizationID), Amount: line.Amount}
	if _, err := tx.ExecContext(ctx, addCredited, leaseArgs(credit)...); err != nil {
		return books.Line{}, fmt.Errorf("credit allowance: %w", err)
	}
	return line, recordChange(ctx, tx, books.EntryAppended(ctx, line.Entry))
}

// Transactions implements billing.Ledger.
func (s *Store) Transactions(ctx context.Context, org string, f billing.EntryFilter, page billing.Page) ([]billing.Entry, error) {
	after, before, err := books.EntrySeqs(f, page)
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	defer done()
	query := selectEntriesNewestFirst
	if page.OldestFirst {
		query = selectEntriesOldestFirst
	}
	span := books.SpanOf(billing.Filter{From: f.From, To: f.To})
	entries, err := list(ctx, s.reader, columns.ScanEntry, query,
		org, after, before, micros(span.From), micros(span.To), books.EncodeList(books.Names(f.Types)), books.PageLimit(page))
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

func lineArgs(l books.Line) []any {
	return []any{
		l.OrganizationID, l.Seq, string(l.Type), int64(l.Amount), int64(l.BalanceAfter),
		micros(l.CreatedAt), l.RequestID, l.PaymentID, l.Reason, l.Actor, l.IdempotencyKey, l.Hash,
	}
}

// debitArgs are the arguments of debitValues.
func debitArgs(a *arguments, l *books.Line) {
	a.text(l.OrganizationID)
	a.number(l.Seq, int64(l.Amount), int64(l.BalanceAfter), micros(l.CreatedAt))
	a.text(l.RequestID, l.IdempotencyKey)
	a.add(l.Hash)
}

// rollupArgs are the arguments of rollupValues.
func rollupArgs(a *arguments, r *books.Rollup) {
	a.text(r.OrganizationID, r.Series)
	a.number(micros(r.Start))
	a.text(r.KeyID, r.Project, r.Provider, r.Model)
	a.number(r.Requests, r.PromptTokens, r.CompletionTokens, r.CachedTokens, r.ReasoningTokens, int64(r.Cost), int64(r.MarketCost))
}
