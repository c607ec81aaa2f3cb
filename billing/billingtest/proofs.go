package billingtest

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// RunProofs tests what can only be seen past the store: that the ledger is
// append-only, that the limits hold at each commit, and that Imbalance finds
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
	t.Run("imbalance finds a nano-dollar", func(t *testing.T) {
		t.Parallel()
		s := start(t, open)
		findsTampering(t, s, raw(t), unlock)
	})
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

// tampering is a change to the books and its undoing.
type tampering struct{ do, undo string }

// plusOne adds one to a column of all rows, and takes it away again.
func plusOne(table, column, where string) tampering {
	const update = "UPDATE %s SET %s = %[2]s %s 1 WHERE %s"
	return tampering{
		do:   fmt.Sprintf(update, table, column, "+", where),
		undo: fmt.Sprintf(update, table, column, "-", where),
	}
}

func tamperings() map[string]tampering {
	const all = "1 = 1"
	list := map[string]tampering{
		"balance":              plusOne("accounts", "balance", all),
		"number of entries":    plusOne("accounts", "entries", all),
		"balance after":        plusOne("entries", "balance_after", "seq = 2"),
		"amount of a purchase": plusOne("entries", "amount", "seq = 1"),
		"amount of a debit":    plusOne("entries", "amount", "seq = 2"),
		"number of an entry":   {"UPDATE entries SET seq = 5 WHERE seq = 4", "UPDATE entries SET seq = 4 WHERE seq = 5"},
		"cost of a request":    plusOne("requests", "cost", "request_id = '"+requestID(1)+"'"),
		"cost of a free one":   plusOne("requests", "cost", "request_id = '"+requestID(2)+"'"),
		"market cost":          plusOne("requests", "market_cost", "request_id = '"+requestID(2)+"'"),
		"tokens":               plusOne("requests", "input_audio_tokens", "request_id = '"+requestID(2)+"'"),
		"credited":             plusOne("allowances", "credited", "kind = 'credits'"),
		"settled credits":      plusOne("allowances", "settled", "kind = 'credits'"),
		"leased":               plusOne("allowances", "leased", "kind = 'credits'"),
		"leased budget":        plusOne("allowances", "leased", "kind = 'budget' AND period = 'daily'"),
		"leased without lease": plusOne("allowances", "leased", "kind = 'key' AND period = 'weekly'"),
		"lease":                plusOne("leases", "amount", "kind = 'credits'"),
		"missing lease": {
			"DELETE FROM leases WHERE kind = 'budget'",
			"INSERT INTO leases SELECT * FROM saved_leases WHERE kind = 'budget'",
		},
		"missing entry": {
			"DELETE FROM entries WHERE seq = 2",
			"INSERT INTO entries SELECT * FROM saved_entries WHERE seq = 2",
		},
		"missing last entry": {
			"DELETE FROM entries WHERE seq = 4",
			"INSERT INTO entries SELECT * FROM saved_entries WHERE seq = 4",
		},
		"missing account": {
			"DELETE FROM accounts WHERE organization_id = '" + org + "'",
			"INSERT INTO accounts SELECT * FROM saved_accounts WHERE organization_id = '" + org + "'",
		},
		"missing rollup": {
			"DELETE FROM rollups_hourly",
			"INSERT INTO rollups_hourly SELECT * FROM saved_rollups",
		},
	}
	for _, column := range []string{
		"requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost", "market_cost",
	} {
		list["rolled up "+column] = plusOne("rollups_hourly", column, all)
	}
	for _, kind := range []billing.AllowanceKind{billing.Budget, billing.KeySpend} {
		for _, p := range billing.Periods {
			where := fmt.Sprintf("kind = '%s' AND period = '%s'", kind, p)
			list[fmt.Sprintf("settled %s %s", p, kind)] = plusOne("allowances", "settled", where)
		}
	}
	return list
}

func findsTampering(t *testing.T, s billing.Store, db *sql.DB, unlock []string) {
	populate(t, s)
	exec := func(query string) {
		t.Helper()
		res, err := db.ExecContext(t.Context(), query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if n, err := res.RowsAffected(); err == nil && n > 1 {
			t.Errorf("%s: changed %d rows, one is meant", query, n)
		}
	}
	for _, query := range unlock {
		exec(query)
	}
	for table, saved := range map[string]string{
		"leases": "saved_leases", "entries": "saved_entries", "accounts": "saved_accounts", "rollups_hourly": "saved_rollups",
	} {
		if _, err := db.ExecContext(t.Context(), "CREATE TABLE "+saved+" AS SELECT * FROM "+table); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range tamperings() {
		balanced(t, s)
		exec(change.do)
		imbalance, err := s.Imbalance(t.Context())
		check(t, err)
		if imbalance < 1 {
			t.Errorf("%s: imbalance is %d", name, imbalance)
		}
		exec(change.undo)
	}
	balanced(t, s)
	exec("DELETE FROM requests WHERE request_id = '" + requestID(2) + "'") // a free one
	imbalance, err := s.Imbalance(t.Context())
	check(t, err)
	if imbalance < 1 {
		t.Errorf("missing request: imbalance is %d", imbalance)
	}
}
