package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// Whom access names.
var (
	members = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleDeveloper, billing.RoleFinance, billing.RoleViewer}
	readers = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleFinance, billing.RoleViewer}
	admins  = []billing.Role{billing.RoleOwner, billing.RoleAdmin}
	keepers = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleDeveloper}
	payers  = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleFinance}
)

// everybody may do what is about themselves.
var everybody = append([]billing.Role{billing.RoleOperator}, members...)

// access says who but the operator may do what, by operation. What is not
// listed is the operator's alone. Where a developer may, they may with keys of
// their own: see ownOnly.
var access = map[string][]billing.Role{
	"get-account": members,

	"list-keys":     members,
	"get-key":       members,
	"get-key-usage": members,
	"create-key":    keepers,
	"update-key":    keepers,
	"delete-key":    keepers,
	"revoke-key":    keepers,
	"rotate-key":    keepers,

	"list-members":  readers,
	"get-member":    readers,
	"invite-member": admins,
	"update-member": admins,
	"delete-member": admins,

	"list-invitations":   members,
	"accept-invitation":  members,
	"decline-invitation": members,

	"get-usage":  members,
	"list-audit": members,
	"get-audit":  members,

	"export-audit": members,

	"list-changes":   admins,
	"export-changes": admins,

	"list-packages":     readers,
	"list-transactions": readers,

	"export-transactions": readers,
	"purchase-package":    payers,

	"get-budget":     readers,
	"put-budget":     admins,
	"list-projects":  members,
	"get-project":    members,
	"put-project":    admins,
	"delete-project": admins,
}

// rolesOf are those who may do an operation.
func rolesOf(operation string) []billing.Role {
	return append([]billing.Role{billing.RoleOperator}, access[operation]...)
}

// describeRoles documents who may do an operation, for people and for programs.
func describeRoles(op *huma.Operation) {
	roles := rolesOf(op.OperationID)
	op.Security = securityOf(roles)
	op.Extensions = map[string]any{"x-roles": roles}
	who := "Roles: " + joinRoles(roles) + "."
	if slices.Contains(roles, billing.RoleDeveloper) && isOwnOnly[op.OperationID] {
		who += " A developer: own keys only."
	}
	if op.Description != "" {
		op.Description += "\n\n"
	}
	op.Description += who
}

func joinRoles(roles []billing.Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// isOwnOnly are the operations in which a developer sees and changes own keys
// alone, and what these have used.
var isOwnOnly = map[string]bool{
	"list-keys": true, "get-key": true, "get-key-usage": true, "create-key": true, "update-key": true,
	"delete-key": true, "revoke-key": true, "rotate-key": true,
	"get-usage": true, "list-audit": true, "get-audit": true, "export-audit": true,
}

// ownOnly is the member whose keys, and what they have used, are all that the
// caller may see; restricted is false, and there is none, for those who see all
// of the organization's.
func ownOnly(ctx context.Context) (memberID string, restricted bool) {
	c := callerOf(ctx)
	if c.role != billing.RoleDeveloper {
		return "", false
	}
	return c.member.ID, true
}

// ownFilter leaves of keys, or of requests with them, those that the caller may
// see, by the member whose the keys are: the one asked for, "" for all.
func ownFilter(ctx context.Context, owner *string) error {
	own, restricted := ownOnly(ctx)
	switch {
	case !restricted || *owner == own:
		return nil
	case *owner != "":
		return &problem{status: http.StatusForbidden, Message: "your role, developer, shows you your own keys, and no others"}
	}
	*owner = own
	return nil
}

// checkOwn is the error for a key that the caller may not know of.
func checkOwn(ctx context.Context, k billing.Key) error {
	if owner, restricted := ownOnly(ctx); restricted && k.Owner != owner {
		return notFound("key")
	}
	return nil
}

// allow tells whether the caller may do an operation.
func allow(c caller, operation string) error {
	if c.role == billing.RoleOperator || slices.Contains(access[operation], c.role) {
		return nil
	}
	who := "ask an owner of the organization"
	if len(access[operation]) == 0 {
		who = "only the operator of the gateway may"
	}
	return &problem{
		status:  http.StatusForbidden,
		Message: "your role, " + string(c.role) + ", does not allow this: " + who,
	}
}
