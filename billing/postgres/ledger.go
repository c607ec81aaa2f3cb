package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	insertRequests = `
INSERT INTO requests (` + columns.Request + `)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[],
	$8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
	$15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::text[],
	$22::boolean[], $23::text[], $24::bigint[], $25::bigint[], $26::text[], $27::bigint[], $28::bigint[],
	$29::bigint[], $30::text[], $31::text[], $32::text[], $33::boolean[], $34::bigint[], $35::jsonb[],
	$36::boolean[], $37::bytea[], $38::text[], $39::jsonb[], $40::bytea[])
ON CONFLICT (organization_id, request_id) DO NOTHING RETURNING organization_id, request_id`

	insertSheets = `
INSERT INTO price_sheets (hash, text) SELECT * FROM unnest($1::bytea[], $2::text[]) ON CONFLICT DO NOTHING`

	// The debits of requests that are dropped have their hashes, too.
	selectRequestHashes = `
SELECT w.organization_id, w.request_id, coalesce(r.hash, e.hash)
FROM unnest($1::text[], $2::text[]) AS w (organization_id, request_id)
LEFT JOIN requests r ON r.organization_id = w.organization_id AND r.request_id = w.request_id
LEFT JOIN entries e ON e.organization_id = w.organization_id AND e.idempotency_key = 'req:' || w.request_id`

	putLedgers = `
UPDATE accounts a SET balance = w.balance, entries = w.entries
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (organization_id, balance, entries)
WHERE a.organization_id = w.organization_id`

	insertEntries = `
INSERT INTO entries (` + columns.Entry + `)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[],
	$7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[])`

	selectEntryByIdempotencyKey = `SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = $1 AND idempotency_key = $2`

	selectEntries = `SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = $1 AND seq > $2 AND seq < $3 AND created_at >= $4 AND created_at < $5
	AND ($6::text[] IS NULL OR type = ANY ($6))
ORDER BY seq`

	selectEntriesNewestFirst = selectEntries + ` DESC LIMIT $7`
	selectEntriesOldestFirst = selectEntries + ` ASC LIMIT $7`

	addSettled = `
INSERT INTO allowances AS a (organization_id, subject, kind, period, period_start, settled)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[])
ON CONFLICT (organization_id, subject, kind, period, period_start) DO UPDATE SET settled = a.settled + excluded.settled`

	addCredited = `
INSERT INTO allowances AS a (organization_id, subject, kind, period, period_start, credited)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[])
ON CONFLICT (organization_id, subject, kind, period, period_start) DO UPDATE SET credited = a.credited + excluded.credited`

	addRollups = `
INSERT INTO rollups AS r (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
	$8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
ON CONFLICT (organization_id, series, start, key_id, project, provider, model) DO UPDATE SET
	requests = r.requests + excluded.requests,
	prompt_tokens = r.prompt_tokens + excluded.prompt_tokens,
	completion_tokens = r.completion_tokens + excluded.completion_tokens,
	cached_tokens = r.cached_tokens + excluded.cached_tokens,
	reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
	cost = r.cost + excluded.cost,
	market_cost = r.market_cost + excluded.market_cost`

	touchKeys = `
UPDATE keys k SET last_used_at = w.at
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS w (organization_id, id, at)
WHERE k.organization_id = w.organization_id AND k.id = w.id AND (k.last_used_at IS NULL OR k.last_used_at < w.at)`
)

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
	err = s.write(ctx, func(tx pgx.Tx) error {
		accounts, inserted, err := insertRequestRows(ctx, tx, rows)
		if err != nil {
			return err
		}
		fresh, known := books.Split(rows, inserted)
		if conflicts, err = conflictsOf(ctx, tx, known); err != nil || len(fresh) == 0 {
			return err
		}
		sheets = s.sheets.Missing(fresh)
		return post(ctx, tx, node, fresh, accounts, sheets)
	})
	if err != nil {
		return nil, fmt.Errorf("post: %w", blame(rows, err))
	}
	s.sheets.Stored(sheets)
	return conflicts, nil
}

// blame says that a settlement cannot be booked where the error is about its
// values, and no other: a transaction repeated with the same values fails again.
// The list is short. Whatever else it is, such as a full disk, a server that
// only reads, or a constraint that another version has added, may pass.
func blame(rows []books.Row, err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch e.Code {
	case "22003", // numeric_value_out_of_range: a sum overflows
		"22021", "22P05", // character_not_in_repertoire, untranslatable_character: the database is not in UTF-8
		"54000": // program_limit_exceeded: a text is too long for an index
		return books.Blame(rows, err)
	}
	return err
}

// insertRequestRows locks the accounts of the rows, inserts those that are not
// there yet, and returns the accounts and the ids of the inserted.
func insertRequestRows(ctx context.Context, tx pgx.Tx, rows []books.Row) (map[string]books.Account, map[books.ID]bool, error) {
	accounts := make(map[string]books.Account)
	inserted := make(map[books.ID]bool, len(rows))
	var batch pgx.Batch
	queueAccounts(&batch, books.Organizations(rows), accounts)
	batch.Queue(insertRequests, requestArrays(rows)...).Query(func(rows pgx.Rows) error {
		var id books.ID
		_, err := pgx.ForEachRow(rows, []any{&id.OrganizationID, &id.RequestID}, func() error {
			inserted[id] = true
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, fmt.Errorf("insert requests: %w", err)
	}
	return accounts, inserted, nil
}

// conflictsOf returns the ids of those rows that are stored with other content.
func conflictsOf(ctx context.Context, tx pgx.Tx, known []books.Row) (conflicts []string, err error) {
	if len(known) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, selectRequestHashes, planned,
		column(known, func(r *books.Row) string { return r.OrganizationID }),
		column(known, func(r *books.Row) string { return r.RequestID }))
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	stored := make(map[books.ID][]byte, len(known))
	var (
		id   books.ID
		hash []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&id.OrganizationID, &id.RequestID, &hash}, func() error {
		stored[id] = hash
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	for i := range known {
		// What cost nothing and is dropped has left no hash behind.
		if r := &known[i]; stored[r.ID()] != nil && r.ConflictsWith(stored[r.ID()]) {
			conflicts = append(conflicts, r.RequestID)
		}
	}
	return conflicts, nil
}

func post(ctx context.Context, tx pgx.Tx, node string, fresh []books.Row, accounts map[string]books.Account, sheets []books.Sheet) error {
	posting := books.NewPosting(fresh)
	lines, err := posting.Debits(accounts)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	if len(sheets) > 0 {
		// Whoever waits here for another's, and has accounts locked, has nothing
		// else that others wait for.
		batch.Queue(insertSheets,
			column(sheets, func(s *books.Sheet) []byte { return s.Hash }),
			column(sheets, func(s *books.Sheet) string { return s.Text }))
	}
	if len(lines) > 0 {
		batch.Queue(insertEntries, lineArrays(lines)...)
		batch.Queue(putLedgers, accountArrays(accounts)...)
		batch.Queue(addSettled, leaseArrays(posting.Settled)...)
		batch.Queue(releaseLeases, append(leaseArrays(posting.Spent), node)...)
	}
	batch.Queue(addRollups, rollupArrays(posting.Rollups)...)
	batch.Queue(touchKeys, useArrays(posting.Uses)...)
	return tx.SendBatch(ctx, &batch).Close()
}

// Append implements billing.Ledger. An organization that does not exist is
// ErrNotFound. An adjustment, refund or dispute may bring credits below what is
// settled and leased; then nothing is left to lease.
func (s *Store) Append(ctx context.Context, e billing.Entry) (billing.Entry, error) {
	line, err := books.NewLine(e)
	if err != nil {
		return billing.Entry{}, fmt.Errorf("append: %w", err)
	}
	err = s.writeFor(ctx, line.OrganizationID, func(tx pgx.Tx) error {
		if err := organizationExists(ctx, tx, line.OrganizationID); err != nil {
			return err
		}
		var err error
		line, err = appendLine(ctx, tx, line)
		return err
	})
	if err != nil {
		return billing.Entry{}, fmt.Errorf("append %s: %w", e.Type, err)
	}
	return line.Entry, nil
}

func appendLine(ctx context.Context, tx pgx.Tx, line books.Line) (books.Line, error) {
	accounts, err := lockAccounts(ctx, tx, []string{line.OrganizationID})
	if err != nil {
		return books.Line{}, err
	}
	first, err := columns.ScanLine(tx.QueryRow(ctx, selectEntryByIdempotencyKey, line.OrganizationID, line.IdempotencyKey))
	switch {
	case err == nil:
		return first, line.Repeats(first)
	case !errors.Is(err, pgx.ErrNoRows):
		return books.Line{}, fmt.Errorf("read entry: %w", err)
	}
	if line, err = line.Append(accounts[line.OrganizationID]); err != nil {
		return books.Line{}, err
	}
	accounts[line.OrganizationID] = books.Account{Balance: line.BalanceAfter, Entries: line.Seq}
	credit := billing.Lease{Allowance: billing.CreditsOf(line.OrganizationID), Amount: line.Amount}
	var batch pgx.Batch
	batch.Queue(insertEntries, lineArrays([]books.Line{line})...)
	batch.Queue(putLedgers, accountArrays(accounts)...)
	batch.Queue(addCredited, leaseArrays([]billing.Lease{credit})...)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return books.Line{}, fmt.Errorf("insert entry: %w", err)
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
	entries, err := list(ctx, s.of(org), columns.ScanEntry, query,
		planned, org, after, before, span.From, span.To, books.Names(f.Types), books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	return entries, nil
}

func accountArrays(accounts map[string]books.Account) []any {
	ids := make([]string, 0, len(accounts))
	for id := range accounts {
		ids = append(ids, id)
	}
	return []any{
		ids,
		column(ids, func(id *string) int64 { return int64(accounts[*id].Balance) }),
		column(ids, func(id *string) int64 { return accounts[*id].Entries }),
	}
}

func lineArrays(lines []books.Line) []any {
	return []any{
		column(lines, func(l *books.Line) string { return l.OrganizationID }),
		column(lines, func(l *books.Line) int64 { return l.Seq }),
		column(lines, func(l *books.Line) string { return string(l.Type) }),
		column(lines, func(l *books.Line) int64 { return int64(l.Amount) }),
		column(lines, func(l *books.Line) int64 { return int64(l.BalanceAfter) }),
		column(lines, func(l *books.Line) time.Time { return l.CreatedAt }),
		column(lines, func(l *books.Line) string { return l.RequestID }),
		column(lines, func(l *books.Line) string { return l.PaymentID }),
		column(lines, func(l *books.Line) string { return l.Reason }),
		column(lines, func(l *books.Line) string { return l.Actor }),
		column(lines, func(l *books.Line) string { return l.IdempotencyKey }),
		column(lines, func(l *books.Line) []byte { return l.Hash }),
	}
}

func rollupArrays(rollups []books.Rollup) []any {
	return []any{
		column(rollups, func(r *books.Rollup) string { return r.OrganizationID }),
		column(rollups, func(r *books.Rollup) string { return r.Series }),
		column(rollups, func(r *books.Rollup) time.Time { return r.Start }),
		column(rollups, func(r *books.Rollup) string { return r.KeyID }),
		column(rollups, func(r *books.Rollup) string { return r.Project }),
		column(rollups, func(r *books.Rollup) string { return r.Provider }),
		column(rollups, func(r *books.Rollup) string { return r.Model }),
		column(rollups, func(r *books.Rollup) int64 { return r.Requests }),
		column(rollups, func(r *books.Rollup) int64 { return r.PromptTokens }),
		column(rollups, func(r *books.Rollup) int64 { return r.CompletionTokens }),
		column(rollups, func(r *books.Rollup) int64 { return r.CachedTokens }),
		column(rollups, func(r *books.Rollup) int64 { return r.ReasoningTokens }),
		column(rollups, func(r *books.Rollup) int64 { return int64(r.Cost) }),
		column(rollups, func(r *books.Rollup) int64 { return int64(r.MarketCost) }),
	}
}

func useArrays(uses []books.Use) []any {
	return []any{
		column(uses, func(u *books.Use) string { return u.OrganizationID }),
		column(uses, func(u *books.Use) string { return u.KeyID }),
		column(uses, func(u *books.Use) time.Time { return u.At }),
	}
}
