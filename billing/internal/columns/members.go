package columns

import "github.com/caddy-llm-gateway/gateway/billing"

// Member are the columns of members.
const Member = `organization_id, id, email, name, role, issuer, subject, invited_by, created_at, joined_at`

// ScanMember scans Member.
func ScanMember(row Row) (billing.Member, error) {
	var m billing.Member
	err := row.Scan(&m.OrganizationID, &m.ID, &m.Email, &m.Name, &m.Role, &m.Issuer, &m.Subject, &m.InvitedBy,
		Time{&m.CreatedAt}, Time{&m.JoinedAt})
	return m, err
}
