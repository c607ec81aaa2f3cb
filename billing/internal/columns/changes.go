package columns

import "github.com/caddy-llm-gateway/gateway/billing"

// Change are the columns of changes, but for their order.
const Change = `id, organization_id, at, actor_kind, actor_id, actor_name, client_ip, user_agent,
	action, subject_kind, subject_id, before, after`

// ScanChange scans Change.
func ScanChange(row Row) (billing.ChangeRecord, error) {
	var c billing.ChangeRecord
	err := row.Scan(&c.ID, &c.Subject.OrganizationID, Time{&c.At},
		&c.Actor.Kind, &c.Actor.ID, &c.Actor.Name, &c.Actor.ClientIP, &c.Actor.UserAgent,
		&c.Action, &c.Subject.Kind, &c.Subject.ID, (*[]byte)(&c.Before), (*[]byte)(&c.After))
	return c, err
}
