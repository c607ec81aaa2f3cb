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

// tenant is an organization and its money, in answers.
type tenant struct {
	ID           string        `json:"id"`
	Name         string        `json:"name"`
	BalanceNanos billing.Money `json:"balance_nanos" doc:"The sum of all ledger entries."`
	CreatedAt    time.Time     `json:"created_at"`
	Warning      string        `json:"warning,omitempty" doc:"Why the invited owner cannot join yet; of the answer that creates it alone."`
}

func newTenant(a billing.Account) tenant {
	o := a.Organization
	return tenant{ID: o.ID, Name: o.Name, BalanceNanos: a.Balance, CreatedAt: o.CreatedAt.UTC()}
}

type organizationInput struct {
	ID string `path:"id" doc:"The organization's id."`
}

type createOrganizationInput struct {
	Body createOrganization
}

// createOrganization is the body that creates an organization.
type createOrganization struct {
	ID         optional[string] `json:"id,omitzero" minLength:"1" maxLength:"64" pattern:"^[a-z0-9][a-z0-9_-]*$" patternDescription:"of a-z, 0-9, _ and -, and to begin with a letter or a digit" doc:"Your own short name for it, for good; null is a made-up one." example:"acme"`
	Name       string           `json:"name" minLength:"1" maxLength:"200" doc:"For people; need not be unique."`
	OwnerEmail optional[string] `json:"owner_email,omitzero" minLength:"3" maxLength:"320" doc:"Who is invited to be its first owner; null is nobody."`
}

type updateOrganizationInput struct {
	ID   string `path:"id" doc:"The organization's id."`
	Body struct {
		Name optional[string] `json:"name,omitzero" nullable:"false" minLength:"1" maxLength:"200"`
	}
}

func (a *api) registerOrganizations() {
	tags := []string{"Organizations"}
	register(a, huma.Operation{
		OperationID: "list-organizations", Method: http.MethodGet, Path: "/v1/organizations", Tags: tags,
		Summary: "Organizations and their balances, by id",
	}, a.listOrganizations)
	registerTagged(a, huma.Operation{
		OperationID: "create-organization", Method: http.MethodPost, Path: "/v1/organizations", Tags: tags,
		Summary: "Create an organization", DefaultStatus: http.StatusCreated,
		Description: "With owner_email, its first owner is invited along with it: see POST /v1/members.",
	}, a.createOrganization)
	registerTagged(a, huma.Operation{
		OperationID: "get-organization", Method: http.MethodGet, Path: "/v1/organizations/{id}", Tags: tags,
		Summary: "One organization and its balance",
	}, a.getOrganization)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "update-organization", Method: http.MethodPatch, Path: "/v1/organizations/{id}", Tags: tags,
		Summary: "Rename an organization",
	}), a.updateOrganization)
	a.registerAdjustments(tags)
}

func (a *api) listOrganizations(ctx context.Context, in *Paging) (*body[list[tenant]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListOrganizations(ctx, page)
	if err != nil {
		return nil, fmt.Errorf("listing organizations: %w", err)
	}
	found, next := cut(*in, found, func(a billing.Account) string { return a.Organization.ID })
	return &body[list[tenant]]{list[tenant]{Data: mapped(found, newTenant), NextCursor: next}}, nil
}

func (a *api) createOrganization(ctx context.Context, in *createOrganizationInput) (*tagged[tenant], error) {
	now := time.Now().UTC().Truncate(timeUnit)
	o := billing.Organization{ID: billing.NewID("org", now), CreatedAt: now}
	var f faults
	if id := in.Body.ID; id.Set && !id.Null {
		o.ID = id.Value
	}
	o.Name = checkName(&f, in.Body.Name)
	var owners []billing.Member
	if email := in.Body.OwnerEmail; email.Set && !email.Null {
		owner := newInvitation(ctx, now)
		owner.Email, owner.Role = checkEmail(&f, "body.owner_email", email.Value), billing.RoleOwner
		owners = append(owners, owner)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	err := a.gateway.Store().CreateOrganization(ctx, o, owners...)
	if errors.Is(err, billing.ErrExists) {
		return nil, taken("body.id", "an organization has this id already: choose another one")
	}
	if err != nil {
		return nil, fmt.Errorf("creating an organization: %w", err)
	}
	created := newTenant(billing.Account{Organization: o})
	if len(owners) > 0 {
		created.Warning = a.invitationWarning()
	}
	return &tagged[tenant]{organizationTag(o), created}, nil
}

func (a *api) getOrganization(ctx context.Context, in *organizationInput) (*tagged[tenant], error) {
	account, err := a.findOrganization(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &tagged[tenant]{organizationTag(account.Organization), newTenant(account)}, nil
}

func (a *api) updateOrganization(ctx context.Context, in *updateOrganizationInput) (*tagged[tenant], error) {
	var f faults
	name := in.Body.Name
	switch {
	case name.Null:
		f.add("body.name", "expected string, an organization cannot be without a name")
	case name.Set:
		checkName(&f, name.Value)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if !billing.IsPlainText(in.ID) {
		return nil, notFound("organization")
	}
	o, err := a.gateway.Store().UpdateOrganization(ctx, in.ID, func(o *billing.Organization) error {
		if err := checkMatch(ctx, organizationTag(*o)); err != nil {
			return err
		}
		if name.Set {
			o.Name = name.Value
		}
		return nil
	})
	if errors.Is(err, billing.ErrNotFound) {
		return nil, notFound("organization")
	}
	if err != nil {
		return nil, fmt.Errorf("changing an organization: %w", err)
	}
	a.gateway.OrganizationChanged(o)
	return a.getOrganization(ctx, &organizationInput{ID: o.ID})
}

func (a *api) findOrganization(ctx context.Context, id string) (billing.Account, error) {
	if !billing.IsPlainText(id) {
		return billing.Account{}, notFound("organization")
	}
	account, err := a.gateway.Store().Account(ctx, id)
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Account{}, notFound("organization")
	}
	if err != nil {
		return billing.Account{}, fmt.Errorf("reading an organization: %w", err)
	}
	return account, nil
}
