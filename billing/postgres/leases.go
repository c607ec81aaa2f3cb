package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	insertAccounts = `
INSERT INTO accounts (organization_id, balance, entries)
SELECT id, 0, 0 FROM unnest($1::text[]) WITH ORDINALITY AS w (id, n) ORDER BY n
ON CONFLICT DO NOTHING`

	selectAccounts = `
SELECT organization_id, balance, entries FROM accounts
WHERE organization_id = ANY ($1::text[]) ORDER BY organization_id FOR UPDATE`

	selectAllowances = `
SELECT coalesce(a.credited, 0), ` + settledIn + `,
	o.budget, coalesce(o.budget_period, ''), coalesce(o.week_start, ''), p.budget, coalesce(p.budget_period, ''),
	k.id IS NOT NULL, k.usage_limit, coalesce(k.usage_limit_reset, '')
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::timestamptz[], $8::timestamptz[])
	WITH ORDINALITY AS w (organization_id, subject, kind, period, period_start, kept, kept_from, kept_to, n)
LEFT JOIN allowances a USING (organization_id, subject, kind, period, period_start)
LEFT JOIN organizations o ON o.id = w.organization_id
LEFT JOIN projects p ON p.organization_id = w.organization_id AND p.name = w.subject AND w.kind = 'project'
LEFT JOIN keys k ON k.organization_id = w.organization_id AND k.id = w.subject AND w.kind = 'key'
ORDER BY w.n`

	selectLeased = `
SELECT organization_id, subject, kind, period, period_start, sum(amount)::bigint,
	coalesce(sum(amount) FILTER (WHERE node = $4), 0)::bigint
FROM leases JOIN (
	SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[]) AS w (organization_id, subject, kind)
) AS w USING (organization_id, subject, kind)
GROUP BY 1, 2, 3, 4, 5`

	// settledIn is what is settled in an allowance of w.
	settledIn = `(
	SELECT coalesce(sum(s.settled), 0)::bigint FROM allowances s
	WHERE s.organization_id = w.organization_id AND s.subject = w.subject AND s.kind = w.kind
		AND s.period = w.kept AND s.period_start >= w.kept_from AND s.period_start < w.kept_to
)`

	addLeased = `
INSERT INTO allowances AS a (organization_id, subject, kind, period, period_start, leased)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[])
ON CONFLICT (organization_id, subject, kind, period, period_start) DO UPDATE SET leased = a.leased + excluded.leased`

	addLeases = `
INSERT INTO leases AS l (organization_id, subject, kind, period, period_start, amount, node)
SELECT w.*, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[]) AS w
ON CONFLICT (node, organization_id, subject, kind, period, period_start) DO UPDATE SET amount = l.amount + excluded.amount`

	// ofNode are the leases of a node: of one of its processes, if that is
	// named, or of all that there were under its id.
	ofNode = `(node = $1 OR node > $1 || '.' AND node < $1 || '/')`

	selectLeases = `
SELECT organization_id, subject, kind, period, period_start, sum(amount)::bigint FROM leases
WHERE ` + ofNode + ` GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`

	// A lease is either deleted or made smaller, never both.
	releaseLeases = `
WITH cut AS (
	SELECT l.*, least(l.amount, w.amount) AS back
	FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[])
		AS w (organization_id, subject, kind, period, period_start, amount)
	JOIN leases l USING (organization_id, subject, kind, period, period_start)
	WHERE l.node = $7
),
deleted AS (
	DELETE FROM leases l USING cut
	WHERE l.node = cut.node AND l.organization_id = cut.organization_id AND l.subject = cut.subject
		AND l.kind = cut.kind AND l.period = cut.period AND l.period_start = cut.period_start
		AND cut.back = cut.amount
),
shrunk AS (
	UPDATE leases l SET amount = l.amount - cut.back FROM cut
	WHERE l.node = cut.node AND l.organization_id = cut.organization_id AND l.subject = cut.subject
		AND l.kind = cut.kind AND l.period = cut.period AND l.period_start = cut.period_start
		AND cut.back < cut.amount
)
UPDATE allowances a SET leased = a.leased - cut.back FROM cut
WHERE a.organization_id = cut.organization_id AND a.subject = cut.subject
	AND a.kind = cut.kind AND a.period = cut.period AND a.period_start = cut.period_start`

	selectLeaseOrganizations = `SELECT DISTINCT organization_id FROM leases WHERE ` + ofNode + ` ORDER BY organization_id`

	releaseAllLeases = `
WITH deleted AS (
	DELETE FROM leases WHERE ` + ofNode + ` AND organization_id = ANY ($2::text[]) RETURNING *
),
sums AS (
	SELECT organization_id, subject, kind, period, period_start, sum(amount)::bigint AS amount
	FROM deleted GROUP BY 1, 2, 3, 4, 5
)
UPDATE allowances a SET leased = a.leased - d.amount FROM sums d
WHERE a.organization_id = d.organization_id AND a.subject = d.subject
	AND a.kind = d.kind AND a.period = d.period AND a.period_start = d.period_start`
)

// lockAccounts locks the ledgers of organizations, which are sorted, and
// returns their states. All changes of an organization's allowances, leases,
// ledger, rollups, budget and key limits are made under this lock; since each
// transaction takes its locks at once and in the same order, none can wait for
// another in a circle.
func lockAccounts(ctx context.Context, tx pgx.Tx, orgs []string) (map[string]books.Account, error) {
	accounts := make(map[string]books.Account, len(orgs))
	var batch pgx.Batch
	queueAccounts(&batch, orgs, accounts)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("lock accounts: %w", err)
	}
	return accounts, nil
}

func queueAccounts(batch *pgx.Batch, orgs []string, accounts map[string]books.Account) {
	batch.Queue(insertAccounts, orgs)
	batch.Queue(selectAccounts, orgs).Query(func(rows pgx.Rows) error {
		var (
			org string
			a   books.Account
		)
		_, err := pgx.ForEachRow(rows, []any{&org, &a.Balance, &a.Entries}, func() error {
			accounts[org] = a
			return nil
		})
		return err
	})
}

// Lease implements billing.Leases. What is granted of an allowance without a
// limit is recorded like any other lease.
func (s *Store) Lease(ctx context.Context, node string, want []billing.Want) ([]billing.Grant, error) {
	want, err := books.CheckWants(want)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	var granted []billing.Grant
	err = s.write(ctx, func(tx pgx.Tx) error {
		states, leases, err := allowanceStates(ctx, tx, node, want)
		if err != nil {
			return err
		}
		granted = books.Grants(want, states, leases)
		merged := books.Merge(books.LeasesIn(granted))
		if len(merged) == 0 {
			return nil
		}
		args := leaseArrays(merged)
		var batch pgx.Batch
		batch.Queue(addLeased, args...)
		batch.Queue(addLeases, append(args, node)...)
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return granted, nil
}

// Return implements billing.Leases.
func (s *Store) Return(ctx context.Context, node string, leases []billing.Lease) error {
	leases, err := books.CheckLeases(leases)
	if err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	err = s.write(ctx, func(tx pgx.Tx) error {
		if _, err := lockAccounts(ctx, tx, books.OrganizationsOf(leases, allowanceOfLease)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, releaseLeases, append(leaseArrays(books.Merge(leases)), node)...)
		return err
	})
	if err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}

// ReturnAll implements billing.Leases.
func (s *Store) ReturnAll(ctx context.Context, node string) error {
	err := s.write(ctx, func(tx pgx.Tx) error { return returnAll(ctx, tx, node) })
	if err != nil {
		return fmt.Errorf("return all leases: %w", err)
	}
	return nil
}

func returnAll(ctx context.Context, tx pgx.Tx, node string) error {
	orgs, err := lockLeases(ctx, tx, node)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, releaseAllLeases, node, orgs)
	return err
}

// LeasesOf implements billing.Leases. It waits for what is changing them: a
// change whose outcome the node does not know may be about to be committed.
func (s *Store) LeasesOf(ctx context.Context, node string) (leases []billing.Lease, err error) {
	err = s.write(ctx, func(tx pgx.Tx) error {
		if _, err := lockLeases(ctx, tx, node); err != nil {
			return err
		}
		leases, err = list(ctx, tx, columns.ScanLease, selectLeases, node)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return leases, nil
}

// lockLeases locks the accounts of all that a node has leased, and returns
// their organizations.
func lockLeases(ctx context.Context, tx pgx.Tx, node string) ([]string, error) {
	rows, err := tx.Query(ctx, selectLeaseOrganizations, node)
	if err != nil {
		return nil, err
	}
	orgs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	_, err = lockAccounts(ctx, tx, orgs)
	return orgs, err
}

// allowanceStates locks the accounts of the wanted leases and returns what
// there is of their allowances, and what is leased of the spend that they limit.
func allowanceStates(ctx context.Context, tx pgx.Tx, node string, want []billing.Want) ([]books.State, []books.Leased, error) {
	var (
		states []books.State
		leases []books.Leased
		batch  pgx.Batch
	)
	queueAccounts(&batch, books.OrganizationsOf(want, allowanceOfWant), make(map[string]books.Account))
	wanted := allowanceArrays(want, allowanceOfWant)
	payers := append(slices.Clone(wanted[:3]), node)
	batch.Queue(selectAllowances, append(wanted, keptArrays(want, allowanceOfWant)...)...).Query(func(rows pgx.Rows) (err error) {
		states, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (books.State, error) { return scanState(row) })
		return err
	})
	batch.Queue(selectLeased, payers...).Query(func(rows pgx.Rows) (err error) {
		leases, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (books.Leased, error) { return columns.ScanLeased(row) })
		return err
	})
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, fmt.Errorf("read allowances: %w", err)
	}
	return states, leases, nil
}

func scanState(row columns.Row) (books.State, error) {
	var (
		s     books.State
		known bool
		key   books.PeriodLimit
	)
	err := row.Scan(&s.Credited, &s.Settled, &s.Budget.Limit, &s.Budget.Reset, &s.WeekStart,
		&s.Project.Limit, &s.Project.Reset, &known, &key.Limit, &key.Reset)
	if known {
		s.Key = &key
	}
	return s, err
}

// column returns one field of all rows, as an array parameter.
func column[R, T any](rows []R, field func(*R) T) []T {
	values := make([]T, len(rows))
	for i := range rows {
		values[i] = field(&rows[i])
	}
	return values
}

func allowanceArrays[T any](list []T, of func(*T) *billing.Allowance) []any {
	return []any{
		column(list, func(v *T) string { return of(v).OrganizationID }),
		column(list, func(v *T) string { return of(v).Subject }),
		column(list, func(v *T) string { return string(of(v).Kind) }),
		column(list, func(v *T) string { return string(of(v).Period) }),
		column(list, func(v *T) time.Time { return of(v).Start }),
	}
}

// keptArrays are where to find what is settled in allowances.
func keptArrays[T any](list []T, of func(*T) *billing.Allowance) []any {
	kept := make([]books.Kept, len(list))
	for i := range list {
		kept[i] = books.KeptOf(*of(&list[i]))
	}
	return []any{
		column(kept, func(k *books.Kept) string { return string(k.Period) }),
		column(kept, func(k *books.Kept) time.Time { return k.From }),
		column(kept, func(k *books.Kept) time.Time { return k.To }),
	}
}

func allowanceOfWant(w *billing.Want) *billing.Allowance   { return &w.Allowance }
func allowanceOfLease(l *billing.Lease) *billing.Allowance { return &l.Allowance }

func leaseArrays(leases []billing.Lease) []any {
	return append(allowanceArrays(leases, allowanceOfLease), column(leases, func(l *billing.Lease) int64 { return int64(l.Amount) }))
}
