package billingtest

import (
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testIdentity(t *testing.T, open Open) {
	identity := func(t *testing.T, s billing.Store) string {
		id, err := s.Identity(t.Context())
		check(t, err)
		if digits, ok := strings.CutPrefix(id, "db_"); !ok || len(digits) != 32 {
			t.Errorf("identity is %q", id)
		}
		return id
	}
	id := identity(t, reopen(t, open))
	equal(t, "identity after reopening", identity(t, reopen(t, open)), id)
	t.Run("another database", func(t *testing.T) {
		if another := identity(t, reopen(t, open)); another == id {
			t.Errorf("it has the same identity, %s", id)
		}
	})
}
