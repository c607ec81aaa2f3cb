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

const (
	sessionPath = "/v1/auth/session"
	logoutPath  = "/v1/auth/logout"
)

// session is who the caller is, in answers.
type session struct {
	Kind          string       `json:"kind" enum:"operator,bearer,session" doc:"What the caller has shown: an operator token, a bearer token of the identity provider, or the cookie of a session."`
	Issuer        *string      `json:"issuer" doc:"The identity provider; null for an operator, as the next three."`
	Subject       *string      `json:"subject" doc:"What the provider calls the caller."`
	Email         *string      `json:"email" doc:"As the provider has verified it; null also where it has not."`
	Name          *string      `json:"name"`
	Organizations []membership `json:"organizations" nullable:"false" doc:"Those that the caller is a member of; empty for an operator, who may act on all."`
	CSRFToken     *string      `json:"csrf_token" doc:"What to send as X-CSRF-Token with every POST, PUT, PATCH and DELETE of the session; null without one."`
	ExpiresAt     *time.Time   `json:"expires_at" doc:"When the session ends however it is used; null without one."`
}

// membership is an organization and what the caller may do in it.
type membership struct {
	ID   string       `json:"id"`
	Name string       `json:"name"`
	Role billing.Role `json:"role" enum:"owner,admin,developer,finance,viewer"`
}

// loggedOut is the answer to a logout.
type loggedOut struct {
	SetCookie []string `header:"Set-Cookie"`
	Body      struct {
		LogoutURL *string `json:"logout_url" doc:"Where to send the browser to end its session at the identity provider, too; null if there is no such place."`
	}
}

func (a *api) registerSession() {
	tags := []string{"Access"}
	registerIdentified(a, huma.Operation{
		OperationID: "get-session", Method: http.MethodGet, Path: sessionPath, Tags: tags,
		Summary:     "Who the caller is, and in which organizations",
		Description: "It names no organization to act on, so it needs no X-Organization.",
	}, a.getSession)
	registerIdentified(a, huma.Operation{
		OperationID: "logout", Method: http.MethodPost, Path: logoutPath, Tags: tags,
		Summary:     "End the session of this browser",
		Description: "The session ends at once, on every node. The one at the identity provider does not: see logout_url.",
	}, a.logout)
}

func (a *api) getSession(ctx context.Context, _ *struct{}) (*body[session], error) {
	c := callerOf(ctx)
	answer := session{Kind: "operator", Organizations: []membership{}}
	if c.role == billing.RoleOperator {
		return &body[session]{answer}, nil
	}
	answer.Kind = "bearer"
	answer.Issuer, answer.Subject = &c.identity.Issuer, &c.identity.Subject
	answer.Email, answer.Name = orNil(c.identity.Email), orNil(c.identity.Name)
	if c.session != nil {
		answer.Kind = "session"
		answer.CSRFToken, answer.ExpiresAt = &c.session.CSRFToken, timeOrNil(c.session.ExpiresAt)
	}
	for _, m := range c.members {
		org, err := a.gateway.Store().Organization(ctx, m.OrganizationID)
		if errors.Is(err, billing.ErrNotFound) {
			continue // it was deleted just now
		}
		if err != nil {
			return nil, fmt.Errorf("reading an organization: %w", err)
		}
		answer.Organizations = append(answer.Organizations, membership{ID: org.ID, Name: org.Name, Role: m.Role})
	}
	return &body[session]{answer}, nil
}

func (a *api) logout(ctx context.Context, _ *struct{}) (*loggedOut, error) {
	c := callerOf(ctx)
	if c.session == nil {
		return nil, &problem{
			status: http.StatusBadRequest, Message: "there is no session to end: a token ends when it expires or is revoked",
		}
	}
	if err := a.gateway.Store().DeleteSession(ctx, c.session.ID); err != nil {
		return nil, fmt.Errorf("ending a session: %w", err)
	}
	out := &loggedOut{SetCookie: []string{c.cookies.set(sessionCookie, "", 0)}}
	place, err := a.oidc.LogoutURL(ctx)
	if err != nil {
		// The gateway's own session has ended all the same.
		a.gateway.Logger().Warn("logout: where to log out at the identity provider is not known", "error", err)
	}
	out.Body.LogoutURL = orNil(place)
	return out, nil
}
