package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

// Memberships implements billing.Members. An identity may be a member of
// whatever organizations, so it reads on behalf of none.
func (s *Store) Memberships(ctx context.Context, who billing.Identity) ([]billing.Member, error) {
	who, err := books.NewIdentity(who)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	members, err := list(ctx, s.pool, columns.ScanMember, selectMembersByIdentity, who.Issuer, who.Subject)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	return members, nil
}

// Invitations implements billing.Members. Whatever organization may invite
// somebody, so it reads on behalf of none.
func (s *Store) Invitations(ctx context.Context, who billing.Identity, page billing.Page) ([]billing.Member, error) {
	who, err := books.NewIdentity(who)
	if err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	invitations, err := list(ctx, s.pool, columns.ScanMember, selectInvitations, who.Email, page.After, books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	return invitations, nil
}

// AcceptInvitation implements billing.Members.
func (s *Store) AcceptInvitation(ctx context.Context, who billing.Identity, id string, at time.Time) (billing.Member, error) {
	var m billing.Member
	err := s.writeInvitation(ctx, who, id, func(tx pgx.Tx, who billing.Identity, invited billing.Member) error {
		var one int
		err := tx.QueryRow(ctx, selectMemberByIdentity, who.Issuer, who.Subject, invited.OrganizationID).Scan(&one)
		switch {
		case err == nil:
			return billing.ErrExists
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		m = books.Join(who, invited, at)
		if _, err := tx.Exec(ctx, updateMember, memberArgs(m)...); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.MemberJoined(ctx, invited, m))
	})
	if err != nil {
		return billing.Member{}, fmt.Errorf("accept invitation %q: %w", id, err)
	}
	return m, nil
}

// DeclineInvitation implements billing.Members.
func (s *Store) DeclineInvitation(ctx context.Context, who billing.Identity, id string) error {
	err := s.writeInvitation(ctx, who, id, func(tx pgx.Tx, _ billing.Identity, invited billing.Member) error {
		if _, err := tx.Exec(ctx, deleteMember, invited.OrganizationID, invited.ID); err != nil {
			return err
		}
		return recordChange(ctx, tx, books.MemberDeclined(ctx, invited))
	})
	if err != nil {
		return fmt.Errorf("decline invitation %q: %w", id, err)
	}
	return nil
}

// writeInvitation runs f in a transaction with an invitation to the identity's
// address, on behalf of the organization that has invited, which is not known
// before.
func (s *Store) writeInvitation(
	ctx context.Context, who billing.Identity, id string, f func(tx pgx.Tx, who billing.Identity, invited billing.Member) error,
) error {
	who, err := books.NewIdentity(who)
	if err != nil {
		return err
	}
	found, err := columns.ScanMember(s.pool.QueryRow(ctx, selectInvitation, who.Email, id))
	if err != nil {
		return notFound(err)
	}
	return s.writeFor(ctx, found.OrganizationID, func(tx pgx.Tx) error {
		if err := lockMembers(ctx, tx, found.OrganizationID); err != nil {
			return err
		}
		invited, err := columns.ScanMember(tx.QueryRow(ctx, selectInvitation, who.Email, id))
		if err != nil {
			return notFound(err)
		}
		return f(tx, who, invited)
	})
}
