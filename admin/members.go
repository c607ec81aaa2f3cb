package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// member is a person in an organization, in answers.
type member struct {
	ID        string     `json:"id"`
	Email     string     `json:"email"`
	Name      *string    `json:"name"`
	Role      memberRole `json:"role"`
	Status    string     `json:"status" enum:"invited,joined"`
	InvitedBy *string    `json:"invited_by"`
	CreatedAt time.Time  `json:"created_at"`
	JoinedAt  *time.Time `json:"joined_at" doc:"When the invitation was accepted; null until then."`
	Warning   string     `json:"warning,omitempty" doc:"Why nobody can accept the invitation yet; of the answer to it alone."`
}

func newMember(m billing.Member) member {
	status := "joined"
	if m.JoinedAt.IsZero() {
		status = "invited"
	}
	return member{
		ID: m.ID, Email: m.Email, Name: orNil(m.Name), Role: memberRole(m.Role), Status: status,
		InvitedBy: orNil(m.InvitedBy), CreatedAt: m.CreatedAt.UTC(), JoinedAt: timeOrNil(m.JoinedAt),
	}
}

// memberRole is a billing.Role that members can have.
type memberRole billing.Role

// Schema lists the roles.
func (memberRole) Schema(huma.Registry) *huma.Schema {
	return enumOf(billing.Roles...)
}

type listMembersInput struct {
	Paging
	Role string `query:"role" enum:"owner,admin,developer,finance,viewer" doc:"Members with this role."`
}

type memberInput struct {
	ID string `path:"id" doc:"The member's id."`
}

type inviteInput struct {
	Body struct {
		Email string           `json:"email" minLength:"3" maxLength:"320" doc:"An address that the identity provider of this person has verified: whoever first accepts the invitation with it joins."`
		Role  memberRole       `json:"role"`
		Name  optional[string] `json:"name,omitzero" minLength:"1" maxLength:"200" doc:"That of the identity provider, once the person joins, if null."`
	}
}

type updateMemberInput struct {
	ID   string `path:"id" doc:"The member's id."`
	Body updateMember
}

// updateMember is the merge patch that changes a member.
type updateMember struct {
	Name optional[string]     `json:"name,omitzero" minLength:"1" maxLength:"200"`
	Role optional[memberRole] `json:"role,omitzero" nullable:"false"`
}

func (a *api) registerMembers() {
	tags := []string{"Members"}
	register(a, huma.Operation{
		OperationID: "list-members", Method: http.MethodGet, Path: "/v1/members", Tags: tags,
		Summary: "The people in the organization, newest first",
	}, a.listMembers)
	registerTagged(a, huma.Operation{
		OperationID: "invite-member", Method: http.MethodPost, Path: "/v1/members", Tags: tags,
		Summary: "Invite somebody", DefaultStatus: http.StatusCreated,
		Description: "Nothing is sent. Who signs in with this address, verified by the identity provider, accepts the invitation or " +
			"declines it: see GET /v1/invitations.",
	}, a.inviteMember)
	registerTagged(a, huma.Operation{
		OperationID: "get-member", Method: http.MethodGet, Path: "/v1/members/{id}", Tags: tags,
		Summary: "One member",
	}, a.getMember)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "update-member", Method: http.MethodPatch, Path: "/v1/members/{id}", Tags: tags,
		Summary:     "Change a member's role or name",
		Description: "The next request of the member is of the new role. Only owners make, change and remove owners.",
	}), a.updateMember)
	register(a, ifMatch(huma.Operation{
		OperationID: "delete-member", Method: http.MethodDelete, Path: "/v1/members/{id}", Tags: tags,
		Summary:     "Remove a member, or take an invitation back",
		Description: "The member's next request is refused. The keys they own go on to work, and to name them: revoke those that must not.",
	}), a.deleteMember)
}

func (a *api) listMembers(ctx context.Context, in *listMembersInput) (*body[list[member]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListMembers(ctx, organizationOf(ctx), billing.MemberFilter{Role: billing.Role(in.Role)}, page)
	if err != nil {
		return nil, fmt.Errorf("listing members: %w", err)
	}
	found, next := cut(in.Paging, found, func(m billing.Member) string { return m.ID })
	return &body[list[member]]{list[member]{Data: mapped(found, newMember), NextCursor: next}}, nil
}

func (a *api) inviteMember(ctx context.Context, in *inviteInput) (*tagged[member], error) {
	var f faults
	m := newInvitation(ctx, time.Now().UTC().Truncate(timeUnit))
	m.OrganizationID, m.Role = organizationOf(ctx), billing.Role(in.Body.Role)
	m.Email = checkEmail(&f, "body.email", in.Body.Email)
	if name := in.Body.Name; name.Set && !name.Null {
		m.Name = checkName(&f, name.Value)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := mayAppoint(callerOf(ctx), m.Role); err != nil {
		return nil, err
	}
	err := a.gateway.Store().CreateMember(ctx, m)
	if errors.Is(err, billing.ErrExists) {
		return nil, taken("body.email", "the organization has a member with this address already")
	}
	if err != nil {
		return nil, fmt.Errorf("inviting a member: %w", err)
	}
	invited := newMember(m)
	invited.Warning = a.invitationWarning()
	return &tagged[member]{memberTag(m), invited}, nil
}

// invitationWarning says what keeps everybody from accepting an invitation; "" if
// nothing does.
func (a *api) invitationWarning() string {
	if a.oidc != nil {
		return ""
	}
	return "nobody can sign in to accept it: set oidc in llm_gateway"
}

// newInvitation returns somebody whom the caller invites.
func newInvitation(ctx context.Context, now time.Time) billing.Member {
	return billing.Member{ID: billing.NewID("mem", now), InvitedBy: actorText(billing.ActorOf(ctx)), CreatedAt: now}
}

func (a *api) getMember(ctx context.Context, in *memberInput) (*tagged[member], error) {
	m, err := a.findMember(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &tagged[member]{memberTag(m), newMember(m)}, nil
}

func (a *api) findMember(ctx context.Context, id string) (billing.Member, error) {
	if !billing.IsPlainText(id) {
		return billing.Member{}, notFound("member")
	}
	m, err := a.gateway.Store().Member(ctx, organizationOf(ctx), id)
	return m, memberError("reading", err)
}

func (a *api) updateMember(ctx context.Context, in *updateMemberInput) (*tagged[member], error) {
	if err := in.Body.check(); err != nil {
		return nil, err
	}
	if !billing.IsPlainText(in.ID) {
		return nil, notFound("member")
	}
	m, err := a.gateway.Store().UpdateMember(ctx, organizationOf(ctx), in.ID, func(m *billing.Member) error {
		if err := mayAppoint(callerOf(ctx), m.Role); err != nil {
			return err
		}
		if err := checkMatch(ctx, memberTag(*m)); err != nil {
			return err
		}
		if in.Body.Name.Set {
			m.Name = in.Body.Name.Value
		}
		if in.Body.Role.Set {
			m.Role = billing.Role(in.Body.Role.Value)
		}
		return mayAppoint(callerOf(ctx), m.Role)
	})
	if err := memberError("changing", err); err != nil {
		return nil, err
	}
	return &tagged[member]{memberTag(m), newMember(m)}, nil
}

func (u updateMember) check() error {
	var f faults
	if u.Name.Set && !u.Name.Null {
		checkName(&f, u.Name.Value)
	}
	if u.Role.Null {
		f.add("body.role", "expected string, a member cannot be without a role")
	}
	return f.err()
}

func (a *api) deleteMember(ctx context.Context, in *memberInput) (*struct{}, error) {
	if !billing.IsPlainText(in.ID) {
		return nil, notFound("member")
	}
	err := a.gateway.Store().DeleteMember(ctx, organizationOf(ctx), in.ID, func(m billing.Member) error {
		if err := mayAppoint(callerOf(ctx), m.Role); err != nil {
			return err
		}
		return checkMatch(ctx, memberTag(m))
	})
	return nil, memberError("removing", err)
}

// mayAppoint tells whether the caller may make, change or remove a member with
// this role. So nobody raises their own: access lets in owners and admins alone,
// and above an admin there are owners only.
func mayAppoint(c caller, role billing.Role) error {
	if role != billing.RoleOwner || c.role == billing.RoleOwner || c.role == billing.RoleOperator {
		return nil
	}
	return &problem{status: http.StatusForbidden, Message: "only owners make, change and remove owners: ask one"}
}

func memberError(doing string, err error) error {
	switch {
	case errors.Is(err, billing.ErrNotFound):
		return notFound("member")
	case errors.Is(err, billing.ErrLastOwner):
		return &problem{
			status:  http.StatusConflict,
			Message: "the organization would be without an owner: make somebody else who has joined an owner first",
		}
	case err != nil:
		return fmt.Errorf("%s a member: %w", doing, err)
	}
	return nil
}

// maxEmail is in bytes.
const maxEmail = 320

// checkEmail accepts a bare address, and returns it as it is compared.
func checkEmail(f *faults, location, text string) string {
	parsed, err := mail.ParseAddress(text)
	if err != nil || parsed.Address != text || len(text) > maxEmail || strings.ContainsFunc(text, invisible) {
		f.add(location, "expected an e-mail address and nothing else, such as ann@example.com")
	}
	return billing.NormalizeEmail(text)
}

// invisible finds what people cannot see.
func invisible(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }

// checkOwner tells whether the caller may give a key the owner that is wanted.
func (a *api) checkOwner(ctx context.Context, owner optional[string]) error {
	c := callerOf(ctx)
	switch {
	case !owner.Set:
		return nil
	case c.role == billing.RoleDeveloper && owner.Value != c.member.ID:
		return errOthersKeys
	case owner.Null:
		return nil
	}
	_, err := a.findMember(ctx, owner.Value)
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusNotFound {
		var f faults
		f.add("body.owner_id", "expected the id of a member of the organization")
		return f.err()
	}
	return err
}
