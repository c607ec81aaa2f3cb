package billingtest

import (
	"database/sql"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// RunProofs tests what can only be seen past the store: that the ledger is
// append-only, that the limits hold at each commit, and that Verify finds
// what was tampered with. raw opens the test's own database, as open does;
// unlock are the statements that drop the triggers of the ledger.
func RunProofs(t *testing.T, open func(t *testing.T) billing.Store, raw func(t *testing.T) *sql.DB, unlock ...string) {
	t.Run("the ledger is append-only", func(t *testing.T) {
		t.Parallel()
		refusesChanges(t, start(t, open), raw(t))
	})
	t.Run("settled and leased stay within limits at each commit", func(t *testing.T) {
		t.Parallel()
		stores := openNodes(t, open)
		db := raw(t)
		spendsExactly(t, stores, func(t *testing.T) { withinLimits(t, db) })
	})
	for name, test := range verifications {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, open)
			test(t, newTampered(t, s, raw(t), unlock))
		})
	}
}

// populate fills all tables.
func populate(t *testing.T, s billing.Store) {
	t.Helper()
	buy(t, s, 10*usd)
	lease(t, s, node, credits(5*usd), budget(billing.Daily, 5*usd))
	post(t, s, node, settlement(1, usd), settlement(2, 0), settlement(3, 2*usd))
	_, err := s.Append(t.Context(), purchase(usd, "second"))
	check(t, err)
	balanced(t, s)
}

func refusesChanges(t *testing.T, s billing.Store, db *sql.DB) {
	populate(t, s)
	for _, query := range []string{
		"UPDATE entries SET amount = amount + 1",
		"UPDATE entries SET reason = 'better' WHERE seq = 1",
		"DELETE FROM entries WHERE seq = 1",
		"DELETE FROM entries",
		"UPDATE requests SET cost = 0",
		"UPDATE requests SET user_agent = ''",
		"DELETE FROM requests",
	} {
		if _, err := db.ExecContext(t.Context(), query); err == nil {
			t.Errorf("%s: was done", query)
		}
	}
	balanced(t, s)
}

const exceeded = `
SELECT
	(SELECT count(*) FROM allowances WHERE kind = 'credits' AND settled + leased > credited) +
	(SELECT count(*) FROM allowances a JOIN keys k ON k.id = a.key_id AND k.usage_limit_reset = a.period
		WHERE a.kind = 'key' AND a.settled + a.leased > k.usage_limit) +
	(SELECT count(*) FROM allowances a JOIN organizations o ON o.id = a.organization_id AND o.budget_period = a.period
		WHERE a.kind = 'budget' AND a.settled + a.leased > o.budget)`

func withinLimits(t *testing.T, db *sql.DB) {
	var n int
	if err := db.QueryRowContext(t.Context(), exceeded).Scan(&n); err != nil || n > 0 {
		t.Errorf("%d limits are exceeded, error %v", n, err)
	}
}
