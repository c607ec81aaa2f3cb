package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-llm-gateway/gateway/admin/oidc"
	"github.com/caddy-llm-gateway/gateway/billing"
)

// organizationHeader names the organization that the caller acts on.
const organizationHeader = "X-Organization"

// caller is who makes a request, and on whose books.
type caller struct {
	role billing.Role
	// member is set for a role in an organization, and not for the operator's.
	member  billing.Member
	account billing.Account
	// identity is who somebody is that an identity provider knows, and members
	// what they are in organizations. Operators have neither.
	identity billing.Identity
	members  []billing.Member
	// invitations are those of somebody who is no member yet.
	invitations []billing.Member
	// session is the browser's, for one who has logged in.
	session *billing.Session
	// operator is the name of the operator's token.
	operator billing.Actor
	// credential is what the caller has shown to be who it is. It is not kept.
	credential string
	// known is when that was found out, and until the end of a bearer token; zero
	// for other credentials.
	known, until time.Time
	visitor
}

// visitor is what is known of a caller before it has shown who it is.
type visitor struct {
	clientIP  string
	userAgent string
	// origin is the gateway's address as the caller wrote it.
	origin url.URL
	// cookies are the gateway's that came with the request.
	cookies cookies
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

// actor is who makes the changes that the caller makes.
func (c caller) actor() billing.Actor {
	who := c.operator
	if c.role != billing.RoleOperator {
		who = billing.Actor{Kind: billing.ActorMember, ID: c.member.ID, Name: c.member.Email}
	}
	who.ClientIP, who.UserAgent = c.clientIP, c.userAgent
	return who
}

// isOpen tells whether a path needs no credential: the document is open to all,
// a webhook carries its own signature, and who logs in has none yet.
func isOpen(path string) bool {
	return path == openAPIPath || path == webhookPath || path == loginPath || path == callbackPath
}

// isPersonal tells whether a path is about the caller, in whatever organizations.
func isPersonal(path string) bool {
	return path == sessionPath || path == logoutPath || path == invitationsPath || strings.HasPrefix(path, invitationsPath+"/")
}

// authorize returns the request's context with its caller.
func (a *api) authorize(w http.ResponseWriter, r *http.Request) (context.Context, error) {
	ctx := r.Context()
	visitor := a.visitorOf(r)
	if isOpen(r.URL.Path) {
		return context.WithValue(ctx, callerKey{}, caller{visitor: visitor}), nil
	}
	c, err := a.authenticate(w, r, visitor)
	if err != nil {
		return nil, err
	}
	if !isPersonal(r.URL.Path) {
		if err := a.enter(ctx, &c, r.Header.Get(organizationHeader)); err != nil {
			return nil, err
		}
	}
	ctx = billing.WithActor(ctx, c.actor())
	return context.WithValue(ctx, callerKey{}, c), nil
}

func (a *api) visitorOf(r *http.Request) visitor {
	v := visitor{userAgent: r.UserAgent(), origin: url.URL{Scheme: "http", Host: r.Host, Path: "/"}}
	v.clientIP, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if r.TLS != nil {
		v.origin.Scheme = "https"
	}
	v.cookies = a.cookiesOf(r)
	return v
}

// authenticate finds out who makes the request: by the Authorization header, or
// if there is none by the cookie of a session.
func (a *api) authenticate(w http.ResponseWriter, r *http.Request, v visitor) (caller, error) {
	c := caller{visitor: v, known: a.now()}
	if a.oidc != nil && v.cookies.session != "" && r.Header.Get("Authorization") == "" {
		err := a.admit(a.strays, &c, v.cookies.session, func() error { return a.resume(w, r, &c) })
		return c, err
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") {
		token = ""
	}
	err := a.admit(a.wrong, &c, token, func() error { return a.identify(r.Context(), &c, token) })
	return c, err
}

// isRefused tells whether a credential was wrong, be it one of the gateway's or
// one of the identity provider's.
func isRefused(err error) bool {
	if _, refused := errors.AsType[*oidc.Refusal](err); refused {
		return true
	}
	p, ok := errors.AsType[*problem](err)
	return ok && p.status == http.StatusUnauthorized
}

// identify finds out whose credential a token is.
func (a *api) identify(ctx context.Context, c *caller, token string) error {
	want := a.gateway.AdminToken()
	switch {
	case token == "":
		return a.missingCredential()
	case want != "" && sameToken(token, want):
		c.role, c.credential = billing.RoleOperator, token
		c.operator = billing.Actor{Kind: billing.ActorOperator, Name: bootstrapToken}
		return nil
	case billing.IsOperatorSecret(token):
		return a.identifyOperator(ctx, c, token)
	case billing.IsSecret(token):
		return unauthorized("a proxy key does not open the management API: use an operator token, or sign in")
	case a.oidc != nil && oidc.IsToken(token):
		return a.identifyBearer(ctx, c, token)
	case want == "" && a.oidc == nil:
		return unauthorized(noAccess)
	default:
		return unauthorized(a.wrongToken())
	}
}

func (a *api) wrongToken() string {
	const message = "wrong operator token: send the admin_token of llm_gateway, or one that was made with it"
	if a.oidc == nil {
		return message
	}
	return message + ", or a signed JWT of your identity provider"
}

const noAccess = "no operator access: set admin_token in llm_gateway"

func (a *api) missingCredential() error {
	switch {
	case a.oidc != nil:
		return unauthorized("missing operator token or sign-on: send Authorization: Bearer <token>, or log in at " + loginPath)
	case a.gateway.AdminToken() == "":
		return unauthorized(noAccess)
	}
	return unauthorized("missing operator token: send Authorization: Bearer <admin_token>")
}

// sameToken compares in a time that tells neither content nor length.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func (a *api) identifyBearer(ctx context.Context, c *caller, token string) error {
	who, until, err := a.oidc.Identify(ctx, token)
	if err != nil {
		return fmt.Errorf("checking a token: %w", err)
	}
	c.until = until
	return a.recognize(ctx, c, who)
}

// recognize finds the members that somebody is, and if they are none, what they
// are invited to.
func (a *api) recognize(ctx context.Context, c *caller, who billing.Identity) error {
	members, err := again(ctx, func() ([]billing.Member, error) { return a.gateway.Store().Memberships(ctx, who) })
	if err != nil {
		return fmt.Errorf("reading memberships: %w", err)
	}
	// The credential of somebody who is known elsewhere changes all the time.
	c.identity, c.members, c.credential = who, members, who.Issuer+"\x00"+who.Subject
	if len(c.members) > 0 {
		return nil
	}
	if c.invitations, err = a.invitationsOf(ctx, who, billing.Page{Limit: maxDetails}); err != nil {
		return err
	}
	if len(c.invitations) == 0 {
		return notInvited(who)
	}
	return nil
}

func notInvited(who billing.Identity) error {
	message := "you are not a member of any organization: ask for an invitation"
	if who.Email != "" {
		message += " to " + clip(who.Email)
	} else {
		message += "; and have your identity provider verify your e-mail address, which invitations are accepted by. " +
			"If this token has no e-mail address, sign in once at " + loginPath + ", or have email and email_verified put into ID tokens"
	}
	return &problem{status: http.StatusForbidden, Message: message}
}

// enter chooses the organization that the caller acts on.
func (a *api) enter(ctx context.Context, c *caller, org string) error {
	if c.role != billing.RoleOperator {
		i, err := c.membership(org)
		if err != nil {
			return err
		}
		c.member = c.members[i]
		c.role, org = c.member.Role, c.member.OrganizationID
	}
	if org == "" {
		org = billing.DefaultOrganization
	}
	var err error
	c.account, err = a.account(ctx, org)
	return err
}

// membership is the index of the member that the caller is in an organization;
// in the only one if none is named.
func (c caller) membership(org string) (int, error) {
	switch {
	case len(c.members) == 0:
		return 0, &problem{
			status: http.StatusForbidden,
			Message: "you are not a member of any organization, but invited to " + organizationsOf(c.invitations) +
				": see GET " + invitationsPath + ", and accept with POST " + invitationsPath + "/{id}/accept",
		}
	case org == "" && len(c.members) > 1:
		return 0, &problem{
			status: http.StatusBadRequest,
			Message: "you are a member of several organizations: name one in the " + organizationHeader + " header: " +
				organizationsOf(c.members),
		}
	}
	i := slices.IndexFunc(c.members, func(m billing.Member) bool { return org == "" || m.OrganizationID == org })
	if i < 0 {
		return 0, errNoOrganization
	}
	return i, nil
}

func organizationsOf(members []billing.Member) string {
	var names []string
	for _, m := range members[:min(len(members), maxDetails)] {
		names = append(names, m.OrganizationID)
	}
	return strings.Join(names, ", ")
}

// errNoOrganization does not tell whether there is one that is another's.
var errNoOrganization = &problem{
	status:  http.StatusNotFound,
	Message: "no such organization: check the " + organizationHeader + " header",
}

func (a *api) account(ctx context.Context, org string) (billing.Account, error) {
	if !billing.IsPlainText(org) {
		return billing.Account{}, errNoOrganization
	}
	account, err := again(ctx, func() (billing.Account, error) { return a.gateway.Store().Account(ctx, org) })
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Account{}, errNoOrganization
	}
	if err != nil {
		return billing.Account{}, fmt.Errorf("reading the account: %w", err)
	}
	return account, nil
}

// again reads from the store, and for a second again and again where it fails:
// connections that were reset while idle do so once each.
func again[T any](ctx context.Context, read func() (T, error)) (T, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 10 * time.Millisecond
	return backoff.Retry(ctx, func() (T, error) {
		v, err := read()
		if errors.Is(err, billing.ErrNotFound) {
			err = backoff.Permanent(err)
		}
		return v, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(time.Second))
}
