package admin

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/oauth2"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	loginPath    = "/v1/auth/login"
	callbackPath = "/v1/auth/callback"

	// loginTimeout is how long somebody may take to log in.
	loginTimeout = 10 * time.Minute
)

type loginInput struct {
	ReturnTo string `query:"return_to" maxLength:"2000" doc:"The path on the gateway to go on at; /v1/auth/session by default." example:"/usage"`
}

type callbackInput struct {
	State            string `query:"state" maxLength:"200"`
	Code             string `query:"code" maxLength:"4000"`
	Error            string `query:"error" maxLength:"200"`
	ErrorDescription string `query:"error_description" maxLength:"2000"`
	ErrorURI         string `query:"error_uri" maxLength:"2000"`
	Issuer           string `query:"iss" maxLength:"2000"`
	SessionState     string `query:"session_state" maxLength:"2000"`
	Scope            string `query:"scope" maxLength:"2000"`
}

// redirect sends a browser elsewhere.
type redirect struct {
	Location  string   `header:"Location"`
	SetCookie []string `header:"Set-Cookie"`
}

func (a *api) registerLogin() {
	tags := []string{"Access"}
	registerOpen(a, huma.Operation{
		OperationID: "login", Method: http.MethodGet, Path: loginPath, Tags: tags, DefaultStatus: http.StatusFound,
		Summary:     "Begin a login in a browser",
		Description: "For a browser to navigate to: it goes on at the identity provider, and from there to /v1/auth/callback.",
	}, a.beginLogin)
	registerOpen(a, huma.Operation{
		OperationID: "login-callback", Method: http.MethodGet, Path: callbackPath, Tags: tags, DefaultStatus: http.StatusFound,
		Summary:     "Finish a login in a browser",
		Description: "Where the identity provider sends the browser back to. It sets the session's cookie and goes on at return_to.",
	}, a.finishLogin)
}

// checkLogin fails where nobody can log in, or this client not now.
func (a *api) checkLogin(v visitor) error {
	settings := a.gateway.OIDC()
	if settings == nil || settings.ClientID == "" {
		return &problem{
			status:  http.StatusNotFound,
			Message: "no login in a browser: set issuer and client_id in oidc of llm_gateway",
		}
	}
	return a.logins.take(v.clientIP)
}

func (a *api) beginLogin(ctx context.Context, in *loginInput) (*redirect, error) {
	v := callerOf(ctx).visitor
	if err := a.checkLogin(v); err != nil {
		return nil, err
	}
	if in.ReturnTo == "" {
		in.ReturnTo = sessionPath
	}
	if !isOwnPath(in.ReturnTo) {
		var f faults
		f.add("query.return_to", "expected a path on this gateway, such as /usage")
		return nil, f.err()
	}
	browser, state := v.cookies.login, billing.NewNonce()
	if browser == "" { // else a login in another tab may go on
		browser = billing.NewNonce()
	}
	l := billing.Login{
		State: billing.HashSecret(state), Browser: billing.HashSecret(browser),
		Nonce: billing.NewNonce(), Verifier: oauth2.GenerateVerifier(), ReturnTo: in.ReturnTo,
		ExpiresAt: a.now().UTC().Truncate(timeUnit).Add(loginTimeout),
	}
	place, err := a.oidc.AuthURL(ctx, l, state, a.redirectURL(v))
	if err != nil {
		return nil, fmt.Errorf("beginning a login: %w", err)
	}
	if err := a.gateway.Store().CreateLogin(ctx, l); err != nil {
		return nil, fmt.Errorf("beginning a login: %w", err)
	}
	return &redirect{Location: place, SetCookie: []string{v.cookies.set(loginCookie, browser, loginTimeout)}}, nil
}

// isOwnPath tells whether a browser that is sent there stays on the gateway.
func isOwnPath(path string) bool {
	u, err := url.Parse(path)
	return err == nil && billing.IsPlainText(path) && !strings.Contains(path, `\`) && u.Scheme == "" && u.Host == "" && u.User == nil &&
		strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//")
}

func (a *api) redirectURL(v visitor) string {
	if configured := a.gateway.OIDC().RedirectURL; configured != "" {
		return configured
	}
	place := v.origin
	place.Path = callbackPath
	return place.String()
}

// errStrayLogin does not tell which of the three it is: the login is over, or of
// another browser, or was never begun.
var errStrayLogin = &problem{
	status:  http.StatusBadRequest,
	Message: "this login is over, or was begun in another browser: log in again at " + loginPath,
}

func (a *api) finishLogin(ctx context.Context, in *callbackInput) (*redirect, error) {
	v := callerOf(ctx).visitor
	if err := a.checkLogin(v); err != nil {
		return nil, err
	}
	l, err := a.takeLogin(ctx, in.State, v)
	if err != nil {
		return nil, err
	}
	switch {
	case in.Error != "":
		return nil, unauthorized("the identity provider did not log you in: " + clip(strings.ToValidUTF8(in.Error, "?")))
	case in.Issuer != "" && in.Issuer != a.gateway.OIDC().Issuer:
		return nil, unauthorized("the login was answered by another identity provider than the one that was asked")
	}
	if in.Code == "" {
		return nil, unauthorized("the identity provider did not log you in: it has sent no code")
	}
	who, err := a.oidc.Finish(ctx, l, in.Code, a.redirectURL(v))
	if err != nil {
		return nil, fmt.Errorf("finishing a login: %w", err)
	}
	var c caller
	if err := a.recognize(ctx, &c, who); err != nil {
		return nil, err
	}
	if err := a.joinFirst(ctx, c); err != nil {
		return nil, err
	}
	cookie, err := a.startSession(ctx, v, who)
	if err != nil {
		return nil, err
	}
	return &redirect{Location: l.ReturnTo, SetCookie: []string{cookie, v.cookies.set(loginCookie, "", 0)}}, nil
}

// takeLogin returns the login that the browser has begun, which is over now.
func (a *api) takeLogin(ctx context.Context, state string, v visitor) (billing.Login, error) {
	if !billing.IsNonce(state) || v.cookies.login == "" {
		return billing.Login{}, errStrayLogin
	}
	l, err := a.gateway.Store().TakeLogin(ctx, billing.HashSecret(state))
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Login{}, errStrayLogin
	}
	if err != nil {
		return billing.Login{}, fmt.Errorf("finishing a login: %w", err)
	}
	browser := billing.HashSecret(v.cookies.login)
	if subtle.ConstantTimeCompare(l.Browser[:], browser[:]) != 1 || !a.now().Before(l.ExpiresAt) {
		return billing.Login{}, errStrayLogin
	}
	return l, nil
}

// startSession ends the browser's session, if it has one, and returns the cookie
// of a new one.
func (a *api) startSession(ctx context.Context, v visitor, who billing.Identity) (cookie string, err error) {
	if v.cookies.session != "" {
		switch old, err := a.findSession(ctx, v.cookies.session); {
		case err == nil:
			if err := a.gateway.Store().DeleteSession(ctx, old.ID); err != nil {
				return "", fmt.Errorf("ending the session before: %w", err)
			}
		case !errors.Is(err, errSessionEnded):
			return "", err
		}
	}
	now, value := a.now().UTC().Truncate(timeUnit), billing.NewNonce()
	s := billing.Session{
		ID: billing.NewID("session", now), Hash: billing.HashSecret(value), Identity: who, CSRFToken: billing.NewNonce(),
		CreatedAt: now, RotatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(billing.SessionLifetime),
	}
	if err := a.gateway.Store().CreateSession(ctx, s); err != nil {
		return "", fmt.Errorf("starting a session: %w", err)
	}
	a.accepted.add(s.Hash, false)
	return v.cookies.set(sessionCookie, value, billing.SessionLifetime), nil
}
