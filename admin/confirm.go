package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// authority is for how long a caller may what they might a moment ago.
const authority = time.Second

// confirm fails if the caller may not do the operation any more. Who they are
// was found out before the body of the request was read, which they may have
// taken half a minute to send: somebody may have removed them since. The context
// that it returns has the role of now.
func (a *api) confirm(ctx context.Context, operation string) (context.Context, error) {
	c := callerOf(ctx)
	if !a.isOld(c) {
		return ctx, nil
	}
	if c.session != nil {
		if _, err := a.findSession(ctx, c.cookies.session); err != nil {
			return ctx, err
		}
	}
	return a.confirmRole(ctx, operation)
}

// confirmRole is confirm without regard to a session, whose cookie may have had
// other values in the meantime.
func (a *api) confirmRole(ctx context.Context, operation string) (context.Context, error) {
	c := callerOf(ctx)
	if !a.isOld(c) {
		return ctx, nil
	}
	c.known = a.now()
	switch {
	case c.role != billing.RoleOperator:
		if err := a.recognize(ctx, &c, c.identity); err != nil {
			return ctx, err
		}
		i, err := c.membership(c.member.OrganizationID)
		if err != nil {
			return ctx, err
		}
		c.member, c.role = c.members[i], c.members[i].Role
	case c.operator.ID != "":
		if err := a.identifyOperator(ctx, &c, c.credential); err != nil {
			return ctx, fmt.Errorf("confirming an operator: %w", err)
		}
	}
	return context.WithValue(ctx, callerKey{}, c), allow(c, operation)
}

func (a *api) isOld(c caller) bool {
	return !c.known.IsZero() && a.now().Sub(c.known) >= authority
}
