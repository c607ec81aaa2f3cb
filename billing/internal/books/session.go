package books

import "github.com/caddy-llm-gateway/gateway/billing"

// ChangeSession returns the session as change alters it, but for what does not
// change.
func ChangeSession(before billing.Session, change func(*billing.Session) error) (billing.Session, error) {
	after := before
	if err := change(&after); err != nil {
		return billing.Session{}, err
	}
	after.ID, after.Identity = before.ID, before.Identity
	after.CreatedAt, after.ExpiresAt = before.CreatedAt, before.ExpiresAt
	return after, nil
}
