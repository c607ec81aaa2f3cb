package billingtest

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// BeforeDays is the version of the schema that kept what is settled for each
// period, and not by day.
const BeforeDays = 7

// RunMigration tests that books of that schema are converted. db has it, and
// open opens the same database; literal writes a time in its SQL, and hash is an
// expression of 32 bytes in it.
func RunMigration(t *testing.T, open Open, db *sql.DB, literal func(time.Time) string, hash string) {
	yesterday, today := settlementAt(1, noon.AddDate(0, 0, -1), usd), settlementAt(2, noon, 2*usd)
	leased := map[billing.Allowance]billing.Money{
		billing.CreditsOf(org): 3 * usd,
		billing.BudgetOf(org, billing.Weekly, noon, billing.Sunday): 5 * usd,
		billing.BudgetOf(org, billing.Daily, noon, billing.Sunday):  7 * usd,
		keySpend(key, billing.Monthly, 0).Allowance:                 9 * usd,
	}
	run := func(format string, args ...any) {
		t.Helper()
		query := fmt.Sprintf(format, args...)
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	settled := make(map[billing.Allowance]billing.Money)
	for _, s := range []billing.Settlement{yesterday, today} {
		for _, p := range billing.Periods {
			b := billing.BudgetOf(org, p, s.At, billing.Sunday)
			settled[b] += s.Cost
			b.Kind, b.Subject = billing.KeySpend, key
			settled[b] += s.Cost
		}
		settled[billing.CreditsOf(org)] += s.Cost
		run("INSERT INTO rollups_hourly (organization_id, hour, key_id, provider, model, requests, prompt_tokens, "+
			"completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost) "+
			"VALUES ('%s', %s, '%s', 'openai', 'gpt-4o', 1, 0, 0, 0, 0, %d, 0)", org, literal(s.At.Truncate(time.Hour)), key, s.Cost)
		run("INSERT INTO requests (organization_id, request_id, key_id, key_name, arrived_at, provider, model, endpoint, "+
			"input_tokens, input_audio_tokens, input_image_tokens, cache_read_tokens, cache_read_audio_tokens, "+
			"cache_write_tokens, cache_write_long_tokens, output_tokens, output_audio_tokens, output_image_tokens, "+
			"web_searches, reasoning_tokens, usage_source, usage_mismatch, service_tier, cost, market_cost, price_rule_id, "+
			"latency_ns, ttfb_ns, status, error, client_ip, user_agent, streaming, attempts, changes, recovered, hash) "+
			"VALUES ('%s', '%s', '%s', '', %s, 'openai', 'gpt-4o', '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', false, '', %d, 0, '', "+
			"0, 0, 200, '', '', '', false, 1, '[]', false, %s)", org, s.RequestID, key, literal(s.At), s.Cost, hash)
	}
	for a, amount := range settled {
		run("INSERT INTO allowances (organization_id, key_id, kind, period, period_start, settled, leased) "+
			"VALUES ('%s', '%s', '%s', '%s', %s, %d, %d)", org, a.Subject, a.Kind, a.Period, literal(a.Start), amount, leased[a])
	}
	for a, amount := range leased {
		run("INSERT INTO leases (node, organization_id, key_id, kind, period, period_start, amount) "+
			"VALUES ('%s', '%s', '%s', '%s', '%s', %s, %d)", node, org, a.Subject, a.Kind, a.Period, literal(a.Start), amount)
	}

	s := start(t, open)
	for a, amount := range settled {
		spend, err := s.Spend(t.Context(), []billing.Allowance{a})
		check(t, err)
		equal(t, fmt.Sprintf("spend of %+v", a), spend[0], amount)
	}
	monday, err := s.Spend(t.Context(), []billing.Allowance{billing.BudgetOf(org, billing.Weekly, noon, billing.Monday)})
	check(t, err)
	equal(t, "spend of a week from Monday", monday[0], 3*usd)
	held := make(map[billing.Allowance]billing.Money)
	for _, l := range leasesOf(t, s, node) {
		held[l.Allowance] = l.Amount
	}
	equal(t, "leases", held, leased)
	for _, c := range verify(t, s, billing.Full).Failed() {
		for _, d := range c.Examples {
			// There are no entries that credits could have been settled by.
			if (c.Name == billing.CheckAllowances || c.Name == billing.CheckLeases || c.Name == billing.CheckRollups) && !strings.HasPrefix(d.Subject, "allowance credits") {
				t.Errorf("after the migration: %s: %+v", c.Name, d)
			}
		}
	}
	usage, err := s.Usage(t.Context(), org, billing.Filter{From: noon.AddDate(0, 0, -2).Truncate(time.Hour), To: noon.Add(time.Hour).Truncate(time.Hour)}, billing.Grouping{})
	check(t, err)
	equal(t, "usage", usage.Cost, 3*usd)
	var rows int
	check(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM allowances WHERE period IN ('weekly', 'monthly')").Scan(&rows))
	equal(t, "rows of weeks and months, which have leases", rows, 2)

	check(t, s.ReturnAll(t.Context(), node))
	post(t, s, node, settlement(3, usd))
	equal(t, "leases of nobody", leasesOf(t, s, node), nil)
}
