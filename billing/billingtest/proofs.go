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
		"UPDATE changes SET actor_name = 'nobody'",
		"DELETE FROM changes",
	} {
		if _, err := db.ExecContext(t.Context(), query); err == nil {
			t.Errorf("%s: was done", query)
		}
	}
	balanced(t, s)
}

// exceeded counts the allowances of which more is settled and leased than their
// limits. What is settled in a period here is so on all days since its start.
const exceeded = `
WITH spent AS (
	SELECT a.organization_id, a.subject, a.kind, a.period, a.leased + (
		SELECT coalesce(sum(d.settled), 0) FROM allowances d
		WHERE d.organization_id = a.organization_id AND d.subject = a.subject AND d.kind = a.kind
			AND d.period = 'daily' AND d.period_start >= a.period_start
	) AS amount
	FROM allowances a
)
SELECT
	(SELECT count(*) FROM allowances WHERE kind = 'credits' AND settled + leased > credited) +
	(SELECT count(*) FROM spent s JOIN keys k ON k.id = s.subject AND k.usage_limit_reset = s.period
		WHERE s.kind = 'key' AND s.amount > k.usage_limit) +
	(SELECT count(*) FROM spent s JOIN projects p ON p.organization_id = s.organization_id AND p.name = s.subject
		AND p.budget_period = s.period WHERE s.kind = 'project' AND s.amount > p.budget) +
	(SELECT count(*) FROM spent s JOIN organizations o ON o.id = s.organization_id AND o.budget_period = s.period
		WHERE s.kind = 'budget' AND s.amount > o.budget)`

func withinLimits(t *testing.T, db *sql.DB) {
	var n int
	if err := db.QueryRowContext(t.Context(), exceeded).Scan(&n); err != nil || n > 0 {
		t.Errorf("%d limits are exceeded, error %v", n, err)
	}
}
