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
	selectAccount = `
SELECT ` + columns.Organization + `, coalesce(a.balance, 0)
FROM organizations o LEFT JOIN accounts a ON a.organization_id = o.id
WHERE o.id = ?1`

	selectAccountsPage = `
SELECT ` + columns.Organization + `, coalesce(a.balance, 0)
FROM organizations o LEFT JOIN accounts a ON a.organization_id = o.id
WHERE o.id > ?1 ORDER BY o.id LIMIT ?2`

	selectOrganization = `SELECT ` + columns.Organization + ` FROM organizations o WHERE o.id = ?1`

	insertOrganization = `
INSERT INTO organizations (id, name, created_at, budget, budget_period, hold_strict,
	budget_soft, week_start, rate_limit_rpm)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (id) DO NOTHING`

	updateOrganization = `
UPDATE organizations SET name = ?2, budget = ?4, budget_period = ?5, hold_strict = ?6,
	budget_soft = ?7, week_start = ?8, rate_limit_rpm = ?9
WHERE id = ?1 AND created_at = ?3`

	selectOrganizationExists = `SELECT 1 FROM organizations WHERE id = ?1`
)

// Account implements billing.Organizations.
func (s *Store) Account(ctx context.Context, org string) (billing.Account, error) {
	a, err := columns.ScanAccount(s.reader.QueryRowContext(ctx, selectAccount, org))
	if err != nil {
		return billing.Account{}, fmt.Errorf("read account %q: %w", org, notFound(err))
	}
	return a, nil
}

// Organization implements billing.Organizations.
func (s *Store) Organization(ctx context.Context, id string) (billing.Organization, error) {
	o, err := columns.ScanOrganization(s.reader.QueryRowContext(ctx, selectOrganization, id))
	if err != nil {
		return billing.Organization{}, fmt.Errorf("read organization %q: %w", id, notFound(err))
	}
	return o, nil
}

// EnsureOrganization implements billing.Organizations.
func (s *Store) EnsureOrganization(ctx context.Context, org billing.Organization) error {
	org, err := books.NewOrganization(org)
	if err != nil {
		return fmt.Errorf("create organization: %w", err)
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, insertOrganization, organizationArgs(org)...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return recordChange(ctx, tx, books.OrganizationCreated(ctx, org))
	})
	if err != nil {
		return fmt.Errorf("create organization %q: %w", org.ID, err)
	}
	return nil
}

// CreateOrganization implements billing.Organizations.
func (s *Store) CreateOrganization(ctx context.Context, org billing.Organization, members ...billing.Member) error {
	org, err := books.NewOrganization(org)
	if err != nil {
		return fmt.Errorf("create organization: %w", err)
	}
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, insertOrganization, organizationArgs(org)...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, billing.ErrExists)
		}
		if err := recordChange(ctx, tx, books.OrganizationCreated(ctx, org)); err != nil {
			return err
		}
		for _, m := range members {
			m.OrganizationID = org.ID
			if err := createMember(ctx, tx, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("create organization %q: %w", org.ID, err)
	}
	return nil
}

// ListOrganizations implements billing.Organizations.
func (s *Store) ListOrganizations(ctx context.Context, page billing.Page) ([]billing.Account, error) {
	accounts, err := list(ctx, s.reader, columns.ScanAccount, selectAccountsPage, page.After, books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("list organizations: %w", err)
	}
	return accounts, nil
}

// UpdateOrganization implements billing.Organizations.
func (s *Store) UpdateOrganization(ctx context.Context, id string, change func(*billing.Organization) error) (billing.Organization, error) {
	var o billing.Organization
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if o, err = columns.ScanOrganization(tx.QueryRowContext(ctx, selectOrganization, id)); err != nil {
			return notFound(err)
		}
		before := books.OrganizationFields(o)
		if o, err = books.ChangeOrganization(o, change); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, updateOrganization, organizationArgs(o)...); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, books.OrganizationUpdated(ctx, before, o)); err != nil {
			return err
		}
		return organizationChanged(ctx, tx, o.ID)
	})
	if err != nil {
		return billing.Organization{}, fmt.Errorf("update organization %q: %w", id, err)
	}
	return o, nil
}

func organizationExists(ctx context.Context, tx *sql.Tx, org string) error {
	var one int
	if err := tx.QueryRowContext(ctx, selectOrganizationExists, org).Scan(&one); err != nil {
		return fmt.Errorf("organization %q: %w", org, notFound(err))
	}
	return nil
}

func organizationArgs(o billing.Organization) []any {
	return []any{o.ID, o.Name, micros(o.CreatedAt), columns.OptionalAmount(o.Budget), string(o.BudgetPeriod), o.HoldStrict,
		columns.OptionalAmount(o.BudgetSoft), string(o.WeekStart), o.RateLimitRPM}
}
