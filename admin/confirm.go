package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/admin/oidc"
	"github.com/caddy-llm-gateway/gateway/billing"
)

// authority is for how long a caller may what they might a moment ago.
const authority = time.Second

// confirm fails if the caller may not do the operation any more. Who they are
// was found out before the body of the request was read, which they may have
// taken half a minute to send, or before a file was, which may take hours: since
// then somebody may have removed them, or their credential has ended. The context
// that it returns has the role of now.
func (a *api) confirm(ctx context.Context, operation string) (context.Context, error) {
	c := callerOf(ctx)
	if !a.isOld(c) {
		return ctx, nil
	}
	c.known = a.now()
	if err := a.confirmCredential(ctx, &c); err != nil {
		return ctx, err
	}
	if c.role != billing.RoleOperator {
		if err := a.recognize(ctx, &c, c.identity); err != nil {
			return ctx, err
		}
		i, err := c.membership(c.member.OrganizationID)
		if err != nil {
			return ctx, err
		}
		c.member, c.role = c.members[i], c.members[i].Role
	}
	return context.WithValue(ctx, callerKey{}, c), allow(c, operation)
}

// confirmCredential fails if what the caller has shown has ended.
func (a *api) confirmCredential(ctx context.Context, c *caller) error {
	switch {
	case c.session != nil:
		s, err := a.confirmSession(ctx, c.session.ID)
		c.session = &s
		return err
	case !c.until.IsZero() && !a.now().Before(c.until):
		return oidc.ErrExpired
	case c.operator.ID != "":
		if err := a.identifyOperator(ctx, c, c.credential); err != nil {
			return fmt.Errorf("confirming an operator: %w", err)
		}
	}
	return nil
}

// confirmSession finds a session whose cookie may have had other values in the
// meantime. It is in use for as long as its request goes on.
func (a *api) confirmSession(ctx context.Context, id string) (billing.Session, error) {
	s, err := again(ctx, func() (billing.Session, error) { return a.gateway.Store().Session(ctx, id) })
	now := a.now().UTC().Truncate(timeUnit)
	switch {
	case err == nil && !now.Before(s.ExpiresAt), errors.Is(err, billing.ErrNotFound):
		return s, errSessionEnded
	case err == nil && now.Sub(s.LastSeenAt) >= sessionTouch:
		s, err = a.gateway.Store().UpdateSession(ctx, id, func(v *billing.Session) error {
			v.LastSeenAt = now
			return nil
		})
		if errors.Is(err, billing.ErrNotFound) {
			return s, errSessionEnded
		}
	}
	if err != nil {
		return s, fmt.Errorf("confirming a session: %w", err)
	}
	return s, nil
}

func (a *api) isOld(c caller) bool {
	return !c.known.IsZero() && a.now().Sub(c.known) >= authority
}
