package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	selectAllowance = `
SELECT coalesce(a.credited, 0), (
		SELECT coalesce(sum(settled), 0) FROM allowances
		WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3
			AND period = ?6 AND period_start >= ?7 AND period_start < ?8
	),
	o.budget, coalesce(o.budget_period, ''), coalesce(o.week_start, ''), p.budget, coalesce(p.budget_period, ''),
	k.id IS NOT NULL, k.usage_limit, coalesce(k.usage_limit_reset, '')
FROM (SELECT 1)
LEFT JOIN allowances a ON a.organization_id = ?1 AND a.subject = ?2 AND a.kind = ?3
	AND a.period = ?4 AND a.period_start = ?5
LEFT JOIN organizations o ON o.id = ?1
LEFT JOIN projects p ON p.organization_id = ?1 AND p.name = ?2 AND ?3 = 'project'
LEFT JOIN keys k ON k.organization_id = ?1 AND k.id = ?2 AND ?3 = 'key'`

	selectLeased = `
SELECT organization_id, subject, kind, period, period_start, sum(amount), coalesce(sum(amount) FILTER (WHERE node = ?4), 0)
FROM leases WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3 GROUP BY 1, 2, 3, 4, 5`

	addLeased = `
INSERT INTO allowances (organization_id, subject, kind, period, period_start, leased)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET leased = leased + excluded.leased`

	addLease = `
INSERT INTO leases (organization_id, subject, kind, period, period_start, amount, node)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT DO UPDATE SET amount = amount + excluded.amount`

	leaseColumns = `organization_id, subject, kind, period, period_start, amount`

	// ofNode are the leases of a node: of one of its processes, if that is
	// named, or of all that there were under its id.
	ofNode = `(node = ?1 OR node > ?1 || '.' AND node < ?1 || '/')`

	selectLeases = `
SELECT organization_id, subject, kind, period, period_start, sum(amount) FROM leases
WHERE ` + ofNode + ` GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`

	selectLeasesOfSubject = `SELECT ` + leaseColumns + ` FROM leases
WHERE node = ?1 AND organization_id = ?2 AND subject = ?3`

	subtractLeased = `
UPDATE allowances SET leased = leased - ?6
WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3 AND period = ?4 AND period_start = ?5`

	subtractLease = `
UPDATE leases SET amount = amount - ?6
WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3 AND period = ?4 AND period_start = ?5
	AND node = ?7`

	deleteLease = `
DELETE FROM leases
WHERE organization_id = ?1 AND subject = ?2 AND kind = ?3 AND period = ?4 AND period_start = ?5
	AND amount = ?6 AND node = ?7`

	subtractAllLeased = `
UPDATE allowances AS a SET leased = a.leased - l.amount
FROM (
	SELECT organization_id, subject, kind, period, period_start, sum(amount) AS amount FROM leases
	WHERE ` + ofNode + ` GROUP BY 1, 2, 3, 4, 5
) AS l
WHERE a.organization_id = l.organization_id AND a.subject = l.subject
	AND a.kind = l.kind AND a.period = l.period AND a.period_start = l.period_start`

	deleteLeases = `DELETE FROM leases WHERE ` + ofNode
)

// Lease implements billing.Leases. What is granted of an allowance without a
// limit is recorded like any other lease.
func (s *Store) Lease(ctx context.Context, node string, want []billing.Want) ([]billing.Grant, error) {
	want, err := books.CheckWants(want)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	var granted []billing.Grant
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		states, leases, err := allowanceStates(ctx, tx, node, want)
		if err != nil {
			return err
		}
		granted = books.Grants(want, states, leases)
		for _, l := range books.Merge(books.LeasesIn(granted)) {
			if _, err := tx.ExecContext(ctx, addLeased, leaseArgs(l)...); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, addLease, append(leaseArgs(l), node)...); err != nil {
				return err
			}
		}
		return nil
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
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return s.release(ctx, tx, node, books.Merge(leases))
	})
	if err != nil {
		return fmt.Errorf("return leases: %w", err)
	}
	return nil
}

// ReturnAll implements billing.Leases.
func (s *Store) ReturnAll(ctx context.Context, node string) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error { return returnAll(ctx, tx, node) })
	if err != nil {
		return fmt.Errorf("return all leases: %w", err)
	}
	return nil
}

func returnAll(ctx context.Context, tx *sql.Tx, node string) error {
	if _, err := tx.ExecContext(ctx, subtractAllLeased, node); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, deleteLeases, node)
	return err
}

// LeasesOf implements billing.Leases.
func (s *Store) LeasesOf(ctx context.Context, node string) ([]billing.Lease, error) {
	leases, err := list(ctx, s.reader, columns.ScanLease, selectLeases, node)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return leases, nil
}

// allowanceStates returns what there is of the wanted allowances, and what is
// leased of the spend that they limit.
func allowanceStates(ctx context.Context, tx *sql.Tx, node string, want []billing.Want) ([]books.State, []books.Leased, error) {
	states := make([]books.State, len(want))
	var leases []books.Leased
	for i, w := range want {
		var err error
		if states[i], err = allowanceState(ctx, tx, w.Allowance); err != nil {
			return nil, nil, fmt.Errorf("read allowance: %w", err)
		}
		if slices.ContainsFunc(want[:i], func(other billing.Want) bool { return sameSpend(other.Allowance, w.Allowance) }) {
			continue
		}
		of, err := list(ctx, tx, columns.ScanLeased, selectLeased, append(allowanceArgs(w.Allowance)[:3], node)...)
		if err != nil {
			return nil, nil, fmt.Errorf("read leases: %w", err)
		}
		leases = append(leases, of...)
	}
	return states, leases, nil
}

func allowanceState(ctx context.Context, tx *sql.Tx, a billing.Allowance) (books.State, error) {
	var (
		s     books.State
		known bool
		key   books.PeriodLimit
	)
	err := tx.QueryRowContext(ctx, selectAllowance, append(allowanceArgs(a), keptArgs(a)...)...).Scan(
		&s.Credited, &s.Settled, &s.Budget.Limit, &s.Budget.Reset, &s.WeekStart,
		&s.Project.Limit, &s.Project.Reset, &known, &key.Limit, &key.Reset)
	if known {
		s.Key = &key
	}
	return s, err
}

// release takes amounts, which are merged, out of the node's leases as far as
// it has them.
func (s *Store) release(ctx context.Context, tx *sql.Tx, node string, amounts []billing.Lease) error {
	var held map[billing.Allowance]billing.Money
	for i, l := range amounts {
		if i == 0 || !sameSubject(amounts[i-1].Allowance, l.Allowance) {
			var err error
			if held, err = s.leasesOfSubject(ctx, tx, node, l.Allowance); err != nil {
				return err
			}
		}
		has := held[l.Allowance]
		l.Amount = min(l.Amount, has)
		if l.Amount == 0 {
			continue
		}
		if _, err := tx.StmtContext(ctx, s.posts.subtractLeased).ExecContext(ctx, leaseArgs(l)...); err != nil {
			return fmt.Errorf("release lease: %w", err)
		}
		shrink := s.posts.subtractLease
		if l.Amount == has {
			shrink = s.posts.deleteLease
		}
		if _, err := tx.StmtContext(ctx, shrink).ExecContext(ctx, append(leaseArgs(l), node)...); err != nil {
			return fmt.Errorf("release lease: %w", err)
		}
	}
	return nil
}

func sameSubject(a, b billing.Allowance) bool {
	return a.OrganizationID == b.OrganizationID && a.Subject == b.Subject
}

// sameSpend tells whether two allowances limit the same spend, in whatever period.
func sameSpend(a, b billing.Allowance) bool { return sameSubject(a, b) && a.Kind == b.Kind }

func (s *Store) leasesOfSubject(ctx context.Context, tx *sql.Tx, node string, a billing.Allowance) (map[billing.Allowance]billing.Money, error) {
	rows, err := tx.StmtContext(ctx, s.posts.selectLeasesOfSubject).QueryContext(ctx, node, a.OrganizationID, a.Subject)
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	defer rows.Close()
	held := make(map[billing.Allowance]billing.Money)
	for rows.Next() {
		l, err := columns.ScanLease(rows)
		if err != nil {
			return nil, fmt.Errorf("read leases: %w", err)
		}
		held[l.Allowance] = l.Amount
	}
	return held, rows.Err()
}

func allowanceArgs(a billing.Allowance) []any {
	return []any{a.OrganizationID, a.Subject, string(a.Kind), string(a.Period), micros(a.Start)}
}

// keptArgs are where to find what is settled in an allowance.
func keptArgs(a billing.Allowance) []any {
	kept := books.KeptOf(a)
	return []any{string(kept.Period), micros(kept.From), micros(kept.To)}
}

func leaseArgs(l billing.Lease) []any {
	return append(allowanceArgs(l.Allowance), int64(l.Amount))
}
