package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// bootstrapToken is what the operator's token of the configuration is called.
const bootstrapToken = "admin_token"

// operatorToken is an operator token in answers.
type operatorToken struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix" doc:"The start of the token, for display."`
	Status     string     `json:"status" enum:"active,expired,revoked"`
	CreatedBy  string     `json:"created_by" doc:"The name of the operator token that made it."`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at" doc:"From when on it is refused; null is never."`
	RevokedAt  *time.Time `json:"revoked_at"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"To the minute."`
}

func newOperatorToken(t billing.OperatorToken, now time.Time) operatorToken {
	return operatorToken{
		ID: t.ID, Name: t.Name, Prefix: t.Prefix, Status: string(t.Status(now)), CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt.UTC(),
		ExpiresAt: timeOrNil(t.ExpiresAt), RevokedAt: timeOrNil(t.RevokedAt), LastUsedAt: timeOrNil(t.LastUsedAt),
	}
}

// createOperatorToken is the body that creates an operator token.
type createOperatorToken struct {
	Name      string              `json:"name" minLength:"1" maxLength:"200" doc:"Who or what it is for."`
	ExpiresAt optional[time.Time] `json:"expires_at,omitzero" doc:"From when on it is refused, in the future; null is never."`
}

// createdOperatorToken is the answer to a creation: none other ever holds a
// token.
type createdOperatorToken struct {
	Token         string        `json:"token" doc:"The operator token. It is shown this once, and only its hash is stored."`
	ID            string        `json:"id"`
	OperatorToken operatorToken `json:"operator_token"`
}

type createOperatorTokenInput struct {
	Body createOperatorToken
}

type operatorTokenInput struct {
	ID string `path:"id" doc:"The operator token's id."`
}

func (a *api) registerOperatorTokens() {
	tags := []string{"Access"}
	register(a, huma.Operation{
		OperationID: "list-operator-tokens", Method: http.MethodGet, Path: "/v1/operator-tokens", Tags: tags,
		Summary:     "Operator tokens, newest first",
		Description: "The admin_token of the configuration is not among them, and always works.",
	}, a.listOperatorTokens)
	register(a, huma.Operation{
		OperationID: "create-operator-token", Method: http.MethodPost, Path: "/v1/operator-tokens", Tags: tags,
		Summary: "Create an operator token", DefaultStatus: http.StatusCreated,
	}, a.createOperatorToken)
	register(a, huma.Operation{
		OperationID: "revoke-operator-token", Method: http.MethodPost, Path: "/v1/operator-tokens/{id}/revoke", Tags: tags,
		Summary:     "Revoke an operator token",
		Description: "It is refused at once, on every node. This cannot be undone; revoking a revoked token changes nothing.",
	}, a.revokeOperatorToken)
}

func (a *api) listOperatorTokens(ctx context.Context, in *Paging) (*body[list[operatorToken]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListOperatorTokens(ctx, page)
	if err != nil {
		return nil, listError("operator tokens", err)
	}
	now := a.now()
	tokens, next := cut(*in, found, func(t billing.OperatorToken) string { return t.ID })
	return &body[list[operatorToken]]{list[operatorToken]{
		Data:       mapped(tokens, func(t billing.OperatorToken) operatorToken { return newOperatorToken(t, now) }),
		NextCursor: next,
	}}, nil
}

func (a *api) createOperatorToken(ctx context.Context, in *createOperatorTokenInput) (*body[createdOperatorToken], error) {
	now, secret := a.now().UTC().Truncate(timeUnit), billing.NewOperatorSecret()
	t := billing.OperatorToken{
		ID: billing.NewID("token", now), Hash: billing.HashSecret(secret), Prefix: billing.DisplayOperatorPrefix(secret),
		CreatedBy: billing.ActorOf(ctx).Name, CreatedAt: now,
	}
	var f faults
	if t.Name = checkName(&f, in.Body.Name); looksLikeBootstrapToken(t.Name) {
		f.add("body.name", "expected another name than "+bootstrapToken+": that is the token of the configuration")
	}
	if in.Body.ExpiresAt.Set && !in.Body.ExpiresAt.Null {
		t.ExpiresAt = in.Body.ExpiresAt.Value.UTC().Truncate(timeUnit)
		if !isRecordable(t.ExpiresAt) || !t.ExpiresAt.After(now) {
			f.add("body.expires_at", "expected a time in the future, to 9999")
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := a.gateway.Store().CreateOperatorToken(ctx, t); err != nil {
		return nil, fmt.Errorf("creating an operator token: %w", err)
	}
	return &body[createdOperatorToken]{createdOperatorToken{Token: secret, ID: t.ID, OperatorToken: newOperatorToken(t, now)}}, nil
}

// looksLikeBootstrapToken tells whether people may take a name in the ledger, or
// in the record of changes, for that of the configuration's token: whatever its
// case, and what they cannot see in it.
func looksLikeBootstrapToken(name string) bool {
	visible := strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return r
	}, name)
	return strings.EqualFold(visible, bootstrapToken)
}

func (a *api) revokeOperatorToken(ctx context.Context, in *operatorTokenInput) (*body[operatorToken], error) {
	if !billing.IsPlainText(in.ID) {
		return nil, notFound("operator token")
	}
	now := a.now().UTC().Truncate(timeUnit)
	t, err := a.gateway.Store().RevokeOperatorToken(ctx, in.ID, now)
	if errors.Is(err, billing.ErrNotFound) {
		return nil, notFound("operator token")
	}
	if err != nil {
		return nil, fmt.Errorf("revoking an operator token: %w", err)
	}
	return &body[operatorToken]{newOperatorToken(t, now)}, nil
}

// tokenUse is how exactly the last use of an operator token is known.
const tokenUse = time.Minute

// identifyOperator finds the operator token in the store, at every request: one
// that is revoked is refused at once, whichever node that was asked of.
func (a *api) identifyOperator(ctx context.Context, c *caller, secret string) error {
	store, now := a.gateway.Store(), a.now().UTC().Truncate(timeUnit)
	t, err := again(ctx, func() (billing.OperatorToken, error) {
		return store.OperatorTokenByHash(ctx, billing.HashSecret(secret))
	})
	switch {
	case errors.Is(err, billing.ErrNotFound):
		return unauthorized("wrong operator token: there is none like it")
	case err != nil:
		return fmt.Errorf("reading an operator token: %w", err)
	case t.Status(now) != billing.KeyActive:
		return unauthorized("the operator token has been revoked, or has expired: ask for another one")
	}
	if now.Sub(t.LastUsedAt) >= tokenUse {
		if err := store.UseOperatorToken(ctx, t.ID, now); err != nil {
			a.gateway.Logger().Warn("the use of an operator token is not recorded", "token", t.Name, "error", err)
		}
	}
	c.role, c.credential = billing.RoleOperator, secret
	c.operator = billing.Actor{Kind: billing.ActorOperator, ID: t.ID, Name: t.Name}
	return nil
}
