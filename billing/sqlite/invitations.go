package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

// Memberships implements billing.Members.
func (s *Store) Memberships(ctx context.Context, who billing.Identity) ([]billing.Member, error) {
	who, err := books.NewIdentity(who)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	members, err := list(ctx, s.reader, columns.ScanMember, selectMembersByIdentity, who.Issuer, who.Subject)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	return members, nil
}

// Invitations implements billing.Members.
func (s *Store) Invitations(ctx context.Context, who billing.Identity, page billing.Page) ([]billing.Member, error) {
	who, err := books.NewIdentity(who)
	if err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	invitations, err := list(ctx, s.reader, columns.ScanMember, selectInvitations, who.Email, page.After, books.PageLimit(page))
	if err != nil {
		return nil, fmt.Errorf("read invitations: %w", err)
	}
	return invitations, nil
}

// AcceptInvitation implements billing.Members.
func (s *Store) AcceptInvitation(ctx context.Context, who billing.Identity, id string, at time.Time) (billing.Member, error) {
	var m billing.Member
	err := s.writeInvitation(ctx, who, id, func(ctx context.Context, tx *sql.Tx, who billing.Identity, invited billing.Member) error {
		var one int
		err := tx.QueryRowContext(ctx, selectMemberByIdentity, who.Issuer, who.Subject, invited.OrganizationID).Scan(&one)
		switch {
		case err == nil:
			return billing.ErrExists
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		m = books.Join(who, invited, at)
		if _, err := tx.ExecContext(ctx, updateMember, memberArgs(m)...); err != nil {
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
	err := s.writeInvitation(ctx, who, id, func(ctx context.Context, tx *sql.Tx, _ billing.Identity, invited billing.Member) error {
		if _, err := tx.ExecContext(ctx, deleteMember, invited.OrganizationID, invited.ID); err != nil {
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
// address.
func (s *Store) writeInvitation(
	ctx context.Context, who billing.Identity, id string,
	f func(ctx context.Context, tx *sql.Tx, who billing.Identity, invited billing.Member) error,
) error {
	who, err := books.NewIdentity(who)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		invited, err := columns.ScanMember(tx.QueryRowContext(ctx, selectInvitation, who.Email, id))
		if err != nil {
			return notFound(err)
		}
		return f(ctx, tx, who, invited)
	})
}
