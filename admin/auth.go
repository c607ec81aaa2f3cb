package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// organizationHeader names the organization that the operator acts on.
const organizationHeader = "X-Organization"

// caller is who makes a request, and on whose books.
type caller struct {
	role billing.Role
	// member is set for a role in an organization, and not for the operator's.
	member  billing.Member
	account billing.Account
	// credential is what the caller has shown to be who it is. It is not kept.
	credential string
	// origin is the gateway's address as the caller wrote it.
	origin url.URL
}

type callerKey struct{}

// callerOf returns the caller that authorize put into the context.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// organizationOf is the id of the organization that the caller acts on.
func organizationOf(ctx context.Context) string {
	return callerOf(ctx).account.Organization.ID
}

// authorize returns the request's context with its caller. The OpenAPI
// document is open to all, and a webhook carries its own signature.
func (a *api) authorize(r *http.Request) (context.Context, error) {
	ctx := r.Context()
	if r.URL.Path == openAPIPath || r.URL.Path == webhookPath {
		return ctx, nil
	}
	if err := a.authenticate(r); err != nil {
		return nil, err
	}
	org := r.Header.Get(organizationHeader)
	if org == "" {
		org = billing.DefaultOrganization
	}
	account, err := a.account(ctx, org)
	if err != nil {
		return nil, err
	}
	_, token := credentialOf(r)
	c := caller{role: billing.RoleOperator, account: account, credential: token, origin: originOf(r)}
	clientIP, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	ctx = billing.WithActor(ctx, billing.Actor{
		Kind: billing.ActorOperator, Name: "admin_token", ClientIP: clientIP, UserAgent: r.UserAgent(),
	})
	return context.WithValue(ctx, callerKey{}, c), nil
}

func originOf(r *http.Request) url.URL {
	origin := url.URL{Scheme: "http", Host: r.Host, Path: "/"}
	if r.TLS != nil {
		origin.Scheme = "https"
	}
	return origin
}

func credentialOf(r *http.Request) (scheme, token string) {
	scheme, token, _ = strings.Cut(r.Header.Get("Authorization"), " ")
	return scheme, strings.TrimSpace(token)
}

// authenticate checks the operator's token.
func (a *api) authenticate(r *http.Request) error {
	scheme, token := credentialOf(r)
	want := a.gateway.AdminToken()
	switch {
	case want == "":
		return unauthorized("no operator access: set admin_token in llm_gateway")
	case token == "" || !strings.EqualFold(scheme, "Bearer"):
		return unauthorized("missing operator token: send Authorization: Bearer <admin_token>")
	case sameToken(token, want):
		return nil
	case billing.IsSecret(token):
		return unauthorized("a proxy key does not open the management API: use the operator token")
	default:
		return unauthorized("wrong operator token: send the admin_token of llm_gateway")
	}
}

// sameToken compares in a time that tells neither content nor length.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func (a *api) account(ctx context.Context, org string) (billing.Account, error) {
	unknown := &problem{status: http.StatusNotFound, Message: "no such organization: check the " + organizationHeader + " header"}
	if !isPlainText(org) {
		return billing.Account{}, unknown
	}
	// Connections that were reset while idle fail once each.
	again := backoff.NewExponentialBackOff()
	again.InitialInterval = 10 * time.Millisecond
	account, err := backoff.Retry(ctx, func() (billing.Account, error) {
		account, err := a.gateway.Store().Account(ctx, org)
		if errors.Is(err, billing.ErrNotFound) {
			err = backoff.Permanent(err)
		}
		return account, err
	}, backoff.WithBackOff(again), backoff.WithMaxElapsedTime(time.Second))
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Account{}, unknown
	}
	if err != nil {
		return billing.Account{}, fmt.Errorf("reading the account: %w", err)
	}
	return account, nil
}
