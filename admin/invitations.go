package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

const invitationsPath = "/v1/invitations"

// invitation is what the caller is asked to become, in answers. Its id is that of
// the member they would be.
type invitation struct {
	ID           string       `json:"id"`
	Organization invitingOrg  `json:"organization"`
	Role         billing.Role `json:"role" enum:"owner,admin,developer,finance,viewer"`
	InvitedBy    *string      `json:"invited_by"`
	CreatedAt    time.Time    `json:"created_at"`
}

// invitingOrg is what somebody who is invited may know of an organization.
type invitingOrg struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type invitationInput struct {
	ID string `path:"id" doc:"The invitation's id."`
}

func (a *api) registerInvitations() {
	tags := []string{"Members"}
	registerPersonal(a, huma.Operation{
		OperationID: "list-invitations", Method: http.MethodGet, Path: invitationsPath, Tags: tags,
		Summary: "The invitations of the caller, by organization",
		Description: "Those to the e-mail address that the caller's identity provider has verified, in all organizations: they are " +
			"accepted or declined, or wait. An operator has none.",
	}, a.listInvitations)
	registerPersonal(a, huma.Operation{
		OperationID: "accept-invitation", Method: http.MethodPost, Path: invitationsPath + "/{id}/accept", Tags: tags,
		Summary:     "Join the organization",
		Description: "Who is a member of the organization already, by another address, gets a 409.",
	}, a.acceptInvitation)
	registerPersonal(a, huma.Operation{
		OperationID: "decline-invitation", Method: http.MethodPost, Path: invitationsPath + "/{id}/decline", Tags: tags,
		Summary:     "Turn an invitation down",
		Description: "It is gone. The organization may invite again.",
	}, a.declineInvitation)
}

// registerPersonal adds an operation of a caller who is known, and who may be a
// member of no organization yet.
func registerPersonal[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	describeRoles(&op)
	op.Description += " Those who are a member of no organization, too. It needs no " + organizationHeader + "."
	registerOpen(a, op, handle)
}

// invitationsOf are those to the address of somebody. Operators are nobody that
// could be invited.
func (a *api) invitationsOf(ctx context.Context, who billing.Identity, page billing.Page) ([]billing.Member, error) {
	if who.Email == "" {
		return nil, nil
	}
	found, err := again(ctx, func() ([]billing.Member, error) { return a.gateway.Store().Invitations(ctx, who, page) })
	if err != nil {
		return nil, fmt.Errorf("reading invitations: %w", err)
	}
	return found, nil
}

func (a *api) listInvitations(ctx context.Context, in *Paging) (*body[list[invitation]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	found, err := a.invitationsOf(ctx, callerOf(ctx).identity, page)
	if err != nil {
		return nil, err
	}
	found, next := cut(*in, found, func(m billing.Member) string { return m.OrganizationID })
	answer := list[invitation]{Data: []invitation{}, NextCursor: next}
	for _, m := range found {
		org, err := a.gateway.Store().Organization(ctx, m.OrganizationID)
		if err != nil {
			return nil, fmt.Errorf("reading an organization: %w", err)
		}
		answer.Data = append(answer.Data, invitation{
			ID: m.ID, Organization: invitingOrg{ID: org.ID, Name: org.Name}, Role: m.Role,
			InvitedBy: orNil(m.InvitedBy), CreatedAt: m.CreatedAt.UTC(),
		})
	}
	return &body[list[invitation]]{answer}, nil
}

func (a *api) acceptInvitation(ctx context.Context, in *invitationInput) (*body[member], error) {
	who := callerOf(ctx).identity
	if who.Email == "" || !billing.IsPlainText(in.ID) {
		return nil, notFound("invitation")
	}
	m, err := a.gateway.Store().AcceptInvitation(ctx, who, in.ID, a.now().UTC().Truncate(timeUnit))
	if err := invitationError("accepting", err); err != nil {
		return nil, err
	}
	return &body[member]{newMember(m)}, nil
}

func (a *api) declineInvitation(ctx context.Context, in *invitationInput) (*struct{}, error) {
	who := callerOf(ctx).identity
	if who.Email == "" || !billing.IsPlainText(in.ID) {
		return nil, notFound("invitation")
	}
	return nil, invitationError("declining", a.gateway.Store().DeclineInvitation(ctx, who, in.ID))
}

func invitationError(doing string, err error) error {
	switch {
	case errors.Is(err, billing.ErrNotFound):
		return notFound("invitation")
	case errors.Is(err, billing.ErrExists):
		return &problem{
			status: http.StatusConflict, Message: "you are a member of this organization already, by another address: decline the invitation",
		}
	case err != nil:
		return fmt.Errorf("%s an invitation: %w", doing, err)
	}
	return nil
}

// joinFirst accepts, for who has logged in and is a member nowhere, their only
// invitation: that is what they came for. Whoever is a member somewhere, or has a
// choice, chooses; and a token, which programs send all day, accepts nothing.
func (a *api) joinFirst(ctx context.Context, c caller) error {
	if len(c.members) > 0 || len(c.invitations) != 1 {
		return nil
	}
	ctx = billing.WithActor(ctx, billing.Actor{ClientIP: callerOf(ctx).clientIP, UserAgent: callerOf(ctx).userAgent})
	_, err := a.gateway.Store().AcceptInvitation(ctx, c.identity, c.invitations[0].ID, a.now().UTC().Truncate(timeUnit))
	if errors.Is(err, billing.ErrNotFound) {
		return a.recognize(ctx, &c, c.identity) // another login was faster, or it was withdrawn just now
	}
	if err != nil {
		return fmt.Errorf("accepting an invitation: %w", err)
	}
	return nil
}
