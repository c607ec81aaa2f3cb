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
	selectProject = `SELECT ` + columns.Project + ` FROM projects WHERE organization_id = ?1 AND name = ?2`

	selectProjects = `SELECT ` + columns.Project + ` FROM projects
WHERE organization_id = ?1 AND name > ?2 ORDER BY name LIMIT ?3`

	putProject = `
INSERT INTO projects (` + columns.Project + `) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT DO UPDATE SET
	budget = excluded.budget,
	budget_period = excluded.budget_period,
	budget_soft = excluded.budget_soft`

	deleteProject = `DELETE FROM projects WHERE organization_id = ?1 AND name = ?2`
)

// ListProjects implements billing.Projects.
func (s *Store) ListProjects(ctx context.Context, org string, page billing.Page) ([]billing.Project, error) {
	projects, err := list(ctx, s.reader, columns.ScanProject, selectProjects, org, page.After, books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("list projects: %w", err)
	}
	return projects, nil
}

// Project implements billing.Projects.
func (s *Store) Project(ctx context.Context, org, name string) (billing.Project, error) {
	p, err := columns.ScanProject(s.reader.QueryRowContext(ctx, selectProject, org, name))
	if err != nil {
		return billing.Project{}, fmt.Errorf("read project %q: %w", name, notFound(err))
	}
	return p, nil
}

// PutProject implements billing.Projects.
func (s *Store) PutProject(ctx context.Context, org, name string, change func(*billing.Project) error) (billing.Project, error) {
	var p billing.Project
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := organizationExists(ctx, tx, org); err != nil {
			return err
		}
		var (
			before books.Fields
			err    error
		)
		p, err = columns.ScanProject(tx.QueryRowContext(ctx, selectProject, org, name))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			p = billing.Project{OrganizationID: org, Name: name}
		case err != nil:
			return err
		default:
			before = books.ProjectFields(p)
		}
		if p, err = books.ChangeProject(p, change); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, putProject, org, name, micros(p.CreatedAt),
			columns.OptionalAmount(p.Budget), string(p.BudgetPeriod), columns.OptionalAmount(p.BudgetSoft)); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, books.ProjectPut(ctx, before, p)); err != nil {
			return err
		}
		return organizationChanged(ctx, tx, org)
	})
	if err != nil {
		return billing.Project{}, fmt.Errorf("put project %q: %w", name, err)
	}
	return p, nil
}

// DeleteProject implements billing.Projects.
func (s *Store) DeleteProject(ctx context.Context, org, name string, check func(billing.Project) error) error {
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		p, err := columns.ScanProject(tx.QueryRowContext(ctx, selectProject, org, name))
		if err != nil {
			return notFound(err)
		}
		if err := check(p); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, deleteProject, org, name); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, books.ProjectDeleted(ctx, p)); err != nil {
			return err
		}
		return organizationChanged(ctx, tx, org)
	})
	if err != nil {
		return fmt.Errorf("delete project %q: %w", name, err)
	}
	return nil
}
