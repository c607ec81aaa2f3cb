package billing

import (
	"context"
	"time"
)

// Role is what somebody may do in an organization.
type Role string

const (
	// RoleOwner may do everything in the organization, members and their roles
	// included.
	RoleOwner Role = "owner"
	// RoleAdmin is an owner who cannot make, change or remove owners.
	RoleAdmin Role = "admin"
	// RoleDeveloper has proxy keys of their own, and sees what these use.
	RoleDeveloper Role = "developer"
	// RoleFinance sees everything about money, and buys credits.
	RoleFinance Role = "finance"
	// RoleViewer sees everything and changes nothing.
	RoleViewer Role = "viewer"
	// RoleOperator runs the gateway: it may do everything, in every
	// organization. No member has it.
	RoleOperator Role = "operator"
)

// Roles are those that members have.
var Roles = []Role{RoleOwner, RoleAdmin, RoleDeveloper, RoleFinance, RoleViewer}

// Member is a person in an organization. One who has not joined yet is invited.
type Member struct {
	ID             string
	OrganizationID string
	// Email is as of NormalizeEmail, and unique in the organization.
	Email string
	Name  string
	Role  Role
	// Issuer and Subject are the identity that has joined; "" until then.
	Issuer, Subject string
	// InvitedBy names who did.
	InvitedBy string
	CreatedAt time.Time
	// JoinedAt is the zero time for a member who is invited.
	JoinedAt time.Time
}

// Identity is who an identity provider says that somebody is.
type Identity struct {
	Issuer, Subject string
	// Email is "" unless the provider has verified it.
	Email string
	Name  string
}

// NormalizeEmail returns an address in the form that it is compared in: with
// ASCII letters in lower case, and no others, which may be those of another
// person's address.
func NormalizeEmail(address string) string { return LowerASCII(address) }

// MemberFilter selects members. Its zero value selects all.
type MemberFilter struct{ Role Role }

// Members are the people in organizations.
type Members interface {
	// CreateMember adds a member; ErrExists says that the organization has one
	// with this e-mail address or identity, and ErrNotFound that it does not exist.
	CreateMember(ctx context.Context, m Member) error
	// ListMembers returns members in the order of their ids, newest first.
	ListMembers(ctx context.Context, org string, f MemberFilter, page Page) ([]Member, error)
	// Member returns one member of the organization, or ErrNotFound.
	Member(ctx context.Context, org, id string) (Member, error)
	// UpdateMember reads the member, lets change alter it, and writes it back, all
	// in one transaction; an error from change is returned and nothing is written.
	// Only name and role change. ErrLastOwner says that the organization would lose
	// its last owner who has joined.
	UpdateMember(ctx context.Context, org, id string, change func(*Member) error) (Member, error)
	// DeleteMember removes a member, or is ErrNotFound or ErrLastOwner; an error
	// from check, in the same transaction, is returned and nothing is removed. The
	// keys they own stay.
	DeleteMember(ctx context.Context, org, id string, check func(Member) error) error
	// Memberships returns the members that an identity is, by organization.
	Memberships(ctx context.Context, who Identity) ([]Member, error)
	// Invitations returns those who are invited by the identity's e-mail address
	// and have not joined, by organization, whose id a page is After: none without
	// an address.
	Invitations(ctx context.Context, who Identity, page Page) ([]Member, error)
	// AcceptInvitation makes an identity the member that its e-mail address is
	// invited to be, for good, or is ErrNotFound. ErrExists says that it is
	// another member of that organization already: it is one at most.
	AcceptInvitation(ctx context.Context, who Identity, id string, at time.Time) (Member, error)
	// DeclineInvitation removes an invitation to the identity's e-mail address, or
	// is ErrNotFound.
	DeclineInvitation(ctx context.Context, who Identity, id string) error
}
