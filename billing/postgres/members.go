package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	selectMember = `SELECT ` + columns.Member + ` FROM members WHERE organization_id = $1 AND id = $2`

	selectMembers = `SELECT ` + columns.Member + ` FROM members
WHERE organization_id = $1 AND ($2 = '' OR id < $2) AND ($3 = '' OR role = $3)
ORDER BY id DESC LIMIT $4`

	selectMembersByIdentity = `SELECT ` + columns.Member + ` FROM members
WHERE issuer = $1 AND subject = $2 AND subject <> '' ORDER BY organization_id`

	selectMemberByIdentity = `SELECT 1 FROM members
WHERE issuer = $1 AND subject = $2 AND subject <> '' AND organization_id = $3`

	selectInvitations = `SELECT ` + columns.Member + ` FROM members
WHERE email = $1 AND subject = '' AND organization_id > $2 ORDER BY organization_id LIMIT $3`

	selectInvitation = `SELECT ` + columns.Member + ` FROM members WHERE email = $1 AND subject = '' AND id = $2`

	insertMember = `
INSERT INTO members (` + columns.Member + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT DO NOTHING`

	updateMember = `
UPDATE members SET name = $4, role = $5, issuer = $6, subject = $7, joined_at = $10
WHERE organization_id = $1 AND id = $2 AND email = $3 AND invited_by = $8 AND created_at = $9`

	deleteMember = `DELETE FROM members WHERE organization_id = $1 AND id = $2`

	selectOtherOwner = `SELECT 1 FROM members
WHERE organization_id = $1 AND role = 'owner' AND joined_at IS NOT NULL AND id <> $2 LIMIT 1`

	// An organization's members change one transaction after the other: whether an
	// owner is the last one depends on all of them. Keys and projects go on to refer
	// to the row.
	lockOrganization = `SELECT 1 FROM organizations WHERE id = $1 FOR NO KEY UPDATE`
)

// CreateMember implements billing.Members.
func (s *Store) CreateMember(ctx context.Context, m billing.Member) error {
	err := s.writeFor(ctx, m.OrganizationID, func(tx pgx.Tx) error {
		if err := lockMembers(ctx, tx, m.OrganizationID); err != nil {
			return err
		}
		return createMember(ctx, tx, m)
	})
	if err != nil {
		return fmt.Errorf("create member %q: %w", m.ID, err)
	}
	return nil
}

func createMember(ctx context.Context, tx pgx.Tx, m billing.Member) error {
	m, err := books.NewMember(m)
	if err != nil {
		return err
	}
	done, err := tx.Exec(ctx, insertMember, memberArgs(m)...)
	if err != nil {
		return err
	}
	if done.RowsAffected() == 0 {
		return billing.ErrExists
	}
	return recordChange(ctx, tx, books.MemberCreated(ctx, m))
}

// ListMembers implements billing.Members.
func (s *Store) ListMembers(ctx context.Context, org string, f billing.MemberFilter, page billing.Page) ([]billing.Member, error) {
	members, err := list(ctx, s.of(org), columns.ScanMember, selectMembers, org, page.After, string(f.Role), books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return members, nil
}

// Member implements billing.Members.
func (s *Store) Member(ctx context.Context, org, id string) (billing.Member, error) {
	m, err := columns.ScanMember(s.of(org).QueryRow(ctx, selectMember, org, id))
	if err != nil {
		return billing.Member{}, fmt.Errorf("read member %q: %w", id, notFound(err))
	}
	return m, nil
}

// UpdateMember implements billing.Members.
func (s *Store) UpdateMember(ctx context.Context, org, id string, change func(*billing.Member) error) (billing.Member, error) {
	var m billing.Member
	err := s.writeFor(ctx, org, func(tx pgx.Tx) error {
		before, err := memberToChange(ctx, tx, org, id)
		if err != nil {
			return err
		}
		if m, err = books.ChangeMember(before, change); err != nil {
			return err
		}
		if err := keepOwner(ctx, tx, before, m); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, updateMember, memberArgs(m)...); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.MemberUpdated(ctx, before, m))
	})
	if err != nil {
		return billing.Member{}, fmt.Errorf("update member %q: %w", id, err)
	}
	return m, nil
}

// DeleteMember implements billing.Members.
func (s *Store) DeleteMember(ctx context.Context, org, id string, check func(billing.Member) error) error {
	err := s.writeFor(ctx, org, func(tx pgx.Tx) error {
		m, err := memberToChange(ctx, tx, org, id)
		if err != nil {
			return err
		}
		if err := check(m); err != nil {
			return err
		}
		if err := keepOwner(ctx, tx, m, billing.Member{}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, deleteMember, org, id); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.MemberDeleted(ctx, m))
	})
	if err != nil {
		return fmt.Errorf("delete member %q: %w", id, err)
	}
	return nil
}

func lockMembers(ctx context.Context, tx pgx.Tx, org string) error {
	var one int
	if err := tx.QueryRow(ctx, lockOrganization, org).Scan(&one); err != nil {
		return fmt.Errorf("organization %q: %w", org, notFound(err))
	}
	return nil
}

func memberToChange(ctx context.Context, tx pgx.Tx, org, id string) (billing.Member, error) {
	if err := lockMembers(ctx, tx, org); err != nil {
		return billing.Member{}, err
	}
	m, err := columns.ScanMember(tx.QueryRow(ctx, selectMember, org, id))
	return m, notFound(err)
}

// keepOwner refuses what would take the last owner from an organization.
func keepOwner(ctx context.Context, tx pgx.Tx, before, after billing.Member) error {
	if !books.OwnerLeaves(before, after) {
		return nil
	}
	var one int
	err := tx.QueryRow(ctx, selectOtherOwner, before.OrganizationID, before.ID).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return billing.ErrLastOwner
	}
	return err
}

func memberArgs(m billing.Member) []any {
	return []any{
		m.OrganizationID, m.ID, m.Email, m.Name, string(m.Role), m.Issuer, m.Subject, m.InvitedBy,
		m.CreatedAt, optionalTime(m.JoinedAt),
	}
}
