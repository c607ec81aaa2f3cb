package admin

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// sessionRotation is how old the value of a session's cookie gets.
	sessionRotation = 15 * time.Minute
	// sessionGrace is how long the value before is accepted: a page makes several
	// requests at once, of which one is answered with the new value.
	sessionGrace = time.Minute
	// sessionTouch is how exactly a session's last use is known.
	sessionTouch = time.Minute

	csrfHeader = "X-CSRF-Token"
)

// cookies are the gateway's, and what they are called at the caller's address.
type cookies struct {
	secure bool
	// session and login are their values, "" for one that is not there.
	session, login string
}

// The names of cookies, on https with the prefix that keeps other hosts from
// setting them.
const (
	sessionCookie = "llm_gateway_session"
	loginCookie   = "llm_gateway_login"
	hostPrefix    = "__Host-"
)

func (a *api) cookiesOf(r *http.Request) cookies {
	c := cookies{secure: r.TLS != nil}
	if settings := a.gateway.OIDC(); settings != nil && strings.HasPrefix(settings.RedirectURL, "https:") {
		c.secure = true // whatever is in between takes care of TLS
	}
	c.session, c.login = c.read(r, sessionCookie), c.read(r, loginCookie)
	return c
}

func (c cookies) read(r *http.Request, name string) string {
	cookie, err := r.Cookie(c.name(name))
	if err != nil || !billing.IsNonce(cookie.Value) {
		return ""
	}
	return cookie.Value
}

func (c cookies) name(name string) string {
	if c.secure {
		return hostPrefix + name
	}
	return name
}

// set is the header that sets a cookie; one without a value is removed.
func (c cookies) set(name, value string, age time.Duration) string {
	cookie := http.Cookie{
		Name: c.name(name), Value: value, Path: "/", MaxAge: int(age.Seconds()),
		Secure: c.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		cookie.MaxAge = -1
	}
	return cookie.String()
}

var errSessionEnded = unauthorized("your session has ended: log in again at " + loginPath)

// resume finds out who a session's browser belongs to.
func (a *api) resume(w http.ResponseWriter, r *http.Request, c *caller) error {
	s, err := a.findSession(r.Context(), c.cookies.session)
	if err != nil {
		return err
	}
	if err := checkOrigin(r, s); err != nil {
		return err
	}
	if s, err = a.useSession(w, r, s, c.cookies); err != nil {
		return err
	}
	c.session = &s
	err = a.recognize(r.Context(), c, s.Identity)
	if len(c.members)+len(c.invitations) == 0 && c.identity != (billing.Identity{}) {
		if ended := a.gateway.Store().DeleteSession(r.Context(), s.ID); ended != nil {
			return fmt.Errorf("ending the session of a former member: %w", ended)
		}
	}
	return err
}

// findSession returns the session whose cookie has the value.
func (a *api) findSession(ctx context.Context, value string) (billing.Session, error) {
	hash := billing.HashSecret(value)
	s, err := again(ctx, func() (billing.Session, error) { return a.gateway.Store().SessionByHash(ctx, hash) })
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Session{}, errSessionEnded
	}
	if err != nil {
		return billing.Session{}, fmt.Errorf("reading a session: %w", err)
	}
	now := a.now()
	switch {
	case !now.Before(s.ExpiresAt), now.Sub(s.LastSeenAt) >= billing.SessionIdle,
		s.Hash != hash && !now.Before(s.PreviousUntil),
		s.Identity.Issuer != a.gateway.OIDC().Issuer:
		return billing.Session{}, errSessionEnded
	}
	return s, nil
}

// checkOrigin refuses a change that a page of another site has sent the browser
// to make.
func checkOrigin(r *http.Request, s billing.Session) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return &problem{status: http.StatusForbidden, Message: "the request comes from a page of another site"}
	}
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(csrfHeader)), []byte(s.CSRFToken)) != 1 {
		return &problem{
			status:  http.StatusForbidden,
			Message: "the " + csrfHeader + " header is missing or wrong: send the csrf_token of GET " + sessionPath,
		}
	}
	return nil
}

// errRotated: another request of the browser has rotated the session.
var errRotated = errors.New("rotated by another request")

// useSession records that the session is used, and gives its cookie another
// value from time to time: one that was stolen ends early.
func (a *api) useSession(w http.ResponseWriter, r *http.Request, s billing.Session, c cookies) (billing.Session, error) {
	now, hash := a.now().UTC().Truncate(timeUnit), billing.HashSecret(c.session)
	rotate := s.Hash == hash && now.Sub(s.RotatedAt) >= sessionRotation
	if !rotate && now.Sub(s.LastSeenAt) < sessionTouch {
		return s, nil
	}
	value := billing.NewNonce()
	changed, err := a.gateway.Store().UpdateSession(r.Context(), s.ID, func(v *billing.Session) error {
		v.LastSeenAt = now
		if !rotate {
			return nil
		}
		if v.Hash != hash {
			return errRotated
		}
		v.PreviousHash, v.PreviousUntil = hash, now.Add(sessionGrace)
		v.Hash, v.RotatedAt = billing.HashSecret(value), now
		return nil
	})
	switch {
	case errors.Is(err, errRotated):
		return s, nil
	case errors.Is(err, billing.ErrNotFound):
		return s, errSessionEnded
	case err != nil:
		return s, fmt.Errorf("changing a session: %w", err)
	}
	if rotate {
		a.accepted.add(changed.Hash, false)
		w.Header().Add("Set-Cookie", c.set(sessionCookie, value, s.ExpiresAt.Sub(now)))
	}
	return changed, nil
}
