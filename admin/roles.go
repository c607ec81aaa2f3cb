package admin

import (
	"net/http"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Whom access names.
var (
	members = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleDeveloper, billing.RoleFinance, billing.RoleViewer}
	readers = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleFinance, billing.RoleViewer}
	admins  = []billing.Role{billing.RoleOwner, billing.RoleAdmin}
	keepers = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleDeveloper}
	payers  = []billing.Role{billing.RoleOwner, billing.RoleAdmin, billing.RoleFinance}
)

// access says who but the operator may do what, by operation. What is not
// listed is the operator's alone. Where a developer may, they may with keys of
// their own: see own.
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

	"get-usage":  members,
	"list-audit": members,
	"get-audit":  members,

	"list-packages":     readers,
	"list-transactions": readers,
	"purchase-package":  payers,

	"get-budget":     readers,
	"put-budget":     admins,
	"list-projects":  members,
	"get-project":    members,
	"put-project":    admins,
	"delete-project": admins,
}

// allow tells whether the caller may do an operation.
func allow(c caller, operation string) error {
	if c.role == billing.RoleOperator || slices.Contains(access[operation], c.role) {
		return nil
	}
	return &problem{
		status:  http.StatusForbidden,
		Message: "your role, " + string(c.role) + ", does not allow this: ask an owner of the organization",
	}
}
