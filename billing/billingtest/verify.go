package billingtest

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// verifications are tests of Verify on books that were tampered with.
var verifications = map[string]func(t *testing.T, b *tampered){
	"a full verification finds a nano-dollar":               findsTampering,
	"an incremental verification finds it in what is new":   findsNewTampering,
	"history cannot be rewritten, consistently or not":      findsRewriting,
	"an incremental verification does not read old rows":    leavesOldRows,
	"differences are named":                                 namesDifferences,
	"late rows and rows with odd ids are no imbalance":      toleratesOddRows,
	"an unknown mode is refused":                            refusesUnknownModes,
	"what is wrong stays wrong until it is put right again": staysWrong,
}

// tampered are books that can be changed past the store.
type tampered struct {
	billing.Store
	db *sql.DB
	// settlements posted so far.
	n int
	// entries so far.
	seq int64
}

func newTampered(t *testing.T, s billing.Store, db *sql.DB, unlock []string) *tampered {
	b := &tampered{Store: s, db: db}
	b.exec(t, unlock...)
	populate(t, s)
	b.n, b.seq = 3, 4
	return b
}

func (b *tampered) exec(t *testing.T, queries ...string) {
	t.Helper()
	for _, query := range queries {
		if _, err := b.db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

// change changes one row.
func (b *tampered) change(t *testing.T, query string) {
	t.Helper()
	res, err := b.db.ExecContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Errorf("%s: changed %d rows (%v), one is meant", query, n, err)
	}
}

// targets are rows to tamper with.
type targets struct {
	debit, purchase int64  // numbers of entries, the second of the last
	paid, free      string // ids of requests
}

// targets of populate.
func (b *tampered) first() targets {
	return targets{debit: 2, purchase: 4, paid: requestID(1), free: requestID(2)}
}

// fresh leases, posts and buys once more.
func (b *tampered) fresh(t *testing.T) targets {
	t.Helper()
	lease(t, b.Store, node, credits(2*usd))
	paid, free := settlement(b.n+1, usd), settlement(b.n+2, 0)
	post(t, b.Store, node, paid, free)
	_, err := b.Append(t.Context(), purchase(usd, fmt.Sprintf("purchase %d", b.n)))
	check(t, err)
	b.n, b.seq = b.n+2, b.seq+2
	return targets{debit: b.seq - 1, purchase: b.seq, paid: paid.RequestID, free: free.RequestID}
}

// save copies the tables, to undo changes from.
func (b *tampered) save(t *testing.T) {
	t.Helper()
	for _, table := range []string{"requests", "entries", "accounts", "allowances", "leases", "rollups"} {
		b.exec(t, "DROP TABLE IF EXISTS saved_"+table, "CREATE TABLE saved_"+table+" AS SELECT * FROM "+table)
	}
}

// tampering is a change to the books, its undoing, and a check that fails in
// between.
type tampering struct{ do, undo, check string }

// plusOne adds one to a column, and takes it away again.
func plusOne(check, table, column, where string) tampering {
	const update = "UPDATE %s SET %s = %[2]s %s 1 WHERE %s"
	return tampering{
		do:    fmt.Sprintf(update, table, column, "+", where),
		undo:  fmt.Sprintf(update, table, column, "-", where),
		check: check,
	}
}

// remove deletes a row, and puts it back.
func remove(check, table, where string) tampering {
	return tampering{
		do:    fmt.Sprintf("DELETE FROM %s WHERE %s", table, where),
		undo:  fmt.Sprintf("INSERT INTO %s SELECT * FROM saved_%[1]s WHERE %s", table, where),
		check: check,
	}
}

// set changes a column of the row that has a value in another, and puts back
// what was there.
func set(check, table, column, value, where string) tampering {
	return tampering{
		do:    fmt.Sprintf("UPDATE %s SET %s = %s WHERE %s", table, column, value, where),
		undo:  fmt.Sprintf("UPDATE %s SET %s = (SELECT %[2]s FROM saved_%[1]s WHERE %[3]s) WHERE %[3]s", table, column, where),
		check: check,
	}
}

func tamperings(on targets) map[string]tampering {
	const (
		all     = "organization_id = '" + org + "'"
		credits = all + " AND kind = 'credits'"
	)
	var (
		debit    = fmt.Sprintf("seq = %d", on.debit)
		purchase = fmt.Sprintf("seq = %d", on.purchase)
		paid     = fmt.Sprintf("request_id = '%s'", on.paid)
		free     = fmt.Sprintf("request_id = '%s'", on.free)
	)
	list := map[string]tampering{
		"balance":            plusOne(billing.CheckBalances, "accounts", "balance", all),
		"number of entries":  plusOne(billing.CheckBalances, "accounts", "entries", all),
		"missing account":    remove(billing.CheckBalances, "accounts", all),
		"balance after":      plusOne(billing.CheckBalances, "entries", "balance_after", debit),
		"balance at the end": plusOne(billing.CheckBalances, "entries", "balance_after", purchase),
		"number of an entry": {
			do:    fmt.Sprintf("UPDATE entries SET seq = seq + 1 WHERE seq = %d", on.purchase),
			undo:  fmt.Sprintf("UPDATE entries SET seq = seq - 1 WHERE seq = %d", on.purchase+1),
			check: billing.CheckBalances,
		},
		"missing entry":        remove(billing.CheckBalances, "entries", debit),
		"missing last entry":   remove(billing.CheckBalances, "entries", purchase),
		"amount of a purchase": plusOne(billing.CheckContent, "entries", "amount", purchase),
		"payment":              set(billing.CheckContent, "entries", "payment_id", "'pay'", purchase),
		"reason":               set(billing.CheckContent, "entries", "reason", "'better'", purchase),
		"actor":                set(billing.CheckContent, "entries", "actor", "'somebody'", purchase),
		"type":                 set(billing.CheckContent, "entries", "type", "'refund'", purchase),
		"request of purchase":  set(billing.CheckContent, "entries", "request_id", "'"+on.paid+"'", purchase),
		"hash of a purchase":   set(billing.CheckContent, "entries", "hash", "(SELECT hash FROM requests WHERE "+paid+")", purchase),

		"amount of a debit": plusOne(billing.CheckDebits, "entries", "amount", debit),
		"time of a debit":   set(billing.CheckDebits, "entries", "created_at", "(SELECT max(created_at) FROM organizations)", debit),
		"actor of a debit":  set(billing.CheckDebits, "entries", "actor", "'somebody'", debit),
		"hash of a debit":   set(billing.CheckContent, "entries", "hash", "(SELECT hash FROM requests WHERE "+free+")", debit),
		"type of a debit":   set(billing.CheckContent, "entries", "type", "'adjustment'", debit),
		"cost of a request": plusOne(billing.CheckDebits, "requests", "cost", paid),

		"cost of a free request": plusOne(billing.CheckRollups, "requests", "cost", free),
		"market cost":            plusOne(billing.CheckRollups, "requests", "market_cost", free),
		"tokens":                 plusOne(billing.CheckRollups, "requests", "input_audio_tokens", free),
		"model":                  set(billing.CheckRollups, "requests", "model", "'other'", free),

		"credited":        plusOne(billing.CheckAllowances, "allowances", "credited", credits),
		"settled credits": plusOne(billing.CheckAllowances, "allowances", "settled", credits),

		"leased":               plusOne(billing.CheckLeases, "allowances", "leased", credits),
		"leased budget":        plusOne(billing.CheckLeases, "allowances", "leased", all+" AND kind = 'budget' AND period = 'daily'"),
		"leased without lease": plusOne(billing.CheckLeases, "allowances", "leased", all+" AND kind = 'key' AND period = 'daily'"),
		"lease":                plusOne(billing.CheckLeases, "leases", "amount", credits),
		"missing lease":        remove(billing.CheckLeases, "leases", credits),
	}
	for of, where := range map[string]string{"a request": paid, "a free request": free} {
		for _, column := range []string{
			"key_name", "endpoint", "usage_source", "service_tier", "price_rule_id", "error", "client_ip", "user_agent",
		} {
			list[column+" of "+of] = set(billing.CheckContent, "requests", column, "'other'", where)
		}
		for _, column := range []string{"web_searches", "latency_ns", "ttfb_ns", "status", "attempts"} {
			list[column+" of "+of] = plusOne(billing.CheckContent, "requests", column, where)
		}
		for _, column := range []string{"usage_mismatch", "streaming"} {
			list[column+" of "+of] = set(billing.CheckContent, "requests", column, "false", where)
		}
		list["changes of "+of] = set(billing.CheckContent, "requests", "changes", `'["other"]'`, where)
		list["no list of changes of "+of] = set(billing.CheckContent, "requests", "changes", `'{"other":1}'`, where)
		list["time of "+of] = set(billing.CheckContent, "requests", "arrived_at", "(SELECT max(created_at) FROM organizations)", where)
		list["hash of "+of] = set(billing.CheckContent, "requests", "hash", "(SELECT hash FROM entries WHERE seq = 1)", where)
	}
	for _, series := range []string{
		"key_15m", "key_30m", "key_1h", "key_3h", "key_6h", "key_1d",
		"all_15m", "all_30m", "all_1h", "all_3h", "all_6h", "all_1d",
	} {
		where := "series = '" + series + "'"
		for _, column := range []string{
			"requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost", "market_cost",
		} {
			list[column+" of "+series] = plusOne(billing.CheckRollups, "rollups", column, where)
		}
		list["project of "+series] = set(billing.CheckRollups, "rollups", "project", "'other'", where)
		list["missing "+series] = remove(billing.CheckRollups, "rollups", where)
	}
	for _, kind := range []billing.AllowanceKind{billing.Budget, billing.ProjectBudget, billing.KeySpend} {
		for _, p := range []billing.Period{billing.Daily, billing.Never} {
			where := fmt.Sprintf("kind = '%s' AND period = '%s'", kind, p)
			list[fmt.Sprintf("settled %s %s", p, kind)] = plusOne(billing.CheckAllowances, "allowances", "settled", where)
			list[fmt.Sprintf("missing %s %s", p, kind)] = remove(billing.CheckAllowances, "allowances", where)
		}
	}
	// A week is the sum of its days, and has none of its own.
	const weekly = "kind = 'budget' AND period = 'weekly'"
	list["settled weekly budget"] = tampering{
		do: "INSERT INTO allowances (organization_id, subject, kind, period, period_start, settled) " +
			"SELECT organization_id, subject, kind, 'weekly', period_start, 1 FROM allowances WHERE kind = 'budget' AND period = 'daily'",
		undo:  "DELETE FROM allowances WHERE " + weekly,
		check: billing.CheckAllowances,
	}
	return list
}

// fails checks that the check is among those that fail.
func (b *tampered) fails(t *testing.T, what string, mode billing.VerifyMode, check string) {
	t.Helper()
	failed := verify(t, b.Store, mode).Failed()
	if !slices.ContainsFunc(failed, func(c billing.Check) bool { return c.Name == check }) {
		t.Errorf("%s: %s verification fails in %+v, want %s among them", what, mode, failed, check)
	}
}

func findsTampering(t *testing.T, b *tampered) {
	b.save(t)
	for name, change := range tamperings(b.first()) {
		b.change(t, change.do)
		b.fails(t, name, billing.Full, change.check)
		b.change(t, change.undo)
		equal(t, "failed checks after "+name, verify(t, b.Store, billing.Full).Failed(), nil)
	}
	for name, id := range map[string]string{"free request": b.first().free, "request": b.first().paid} {
		b.change(t, "DELETE FROM requests WHERE request_id = '"+id+"'")
		b.fails(t, "missing "+name, billing.Full, billing.CheckRollups)
	}
	b.fails(t, "missing request", billing.Full, billing.CheckDebits)
}

func findsNewTampering(t *testing.T, b *tampered) {
	names := tamperings(targets{})
	for name := range names {
		equal(t, "failed checks before "+name, verify(t, b.Store, billing.Incremental).Failed(), nil)
		on := b.fresh(t)
		b.save(t)
		change := tamperings(on)[name]
		b.change(t, change.do)
		b.fails(t, name, billing.Incremental, change.check)
		b.change(t, change.undo)
	}
	balanced(t, b.Store)
	on := b.fresh(t)
	b.change(t, "DELETE FROM requests WHERE request_id = '"+on.paid+"'")
	b.fails(t, "missing request", billing.Incremental, billing.CheckDebits)
	b.change(t, "DELETE FROM requests WHERE request_id = '"+b.fresh(t).free+"'")
	b.fails(t, "missing free request", billing.Incremental, billing.CheckRollups)
}

// What no sum and no hash of the books is about is still remembered.
func findsRewriting(t *testing.T, b *tampered) {
	on := b.first()
	b.save(t)
	purchase := fmt.Sprintf("seq = %d", on.purchase)
	for name, change := range map[string]tampering{
		"time of a purchase":            set("", "entries", "created_at", "(SELECT max(arrived_at) FROM requests)", purchase),
		"idempotency key of a purchase": set("", "entries", "idempotency_key", "'other'", purchase),
	} {
		b.change(t, change.do)
		b.fails(t, name, billing.Full, billing.CheckHistory)
		b.change(t, change.undo)
	}
	balanced(t, b.Store)

	b.change(t, "DELETE FROM entries WHERE "+purchase)
	b.exec(t, fmt.Sprintf("UPDATE accounts SET entries = entries - 1, balance = balance - %d", usd),
		fmt.Sprintf("UPDATE allowances SET credited = credited - %d WHERE kind = 'credits'", usd))
	for _, mode := range []billing.VerifyMode{billing.Incremental, billing.Full} {
		b.fails(t, "withdrawn purchase", mode, billing.CheckHistory)
	}

	of := func(column string) string {
		return fmt.Sprintf("%s = %[1]s - (SELECT %[1]s FROM saved_requests WHERE request_id = '%s')", column, on.free)
	}
	b.change(t, "DELETE FROM requests WHERE request_id = '"+on.free+"'")
	b.exec(t, "UPDATE rollups SET requests = requests - 1, "+of("prompt_tokens")+", "+of("completion_tokens")+", "+
		of("cached_tokens")+", "+of("reasoning_tokens")+", "+of("market_cost"))
	for _, mode := range []billing.VerifyMode{billing.Incremental, billing.Full} {
		failed := verify(t, b.Store, mode).Failed()
		if !slices.ContainsFunc(failed, func(c billing.Check) bool {
			return slices.ContainsFunc(c.Examples, func(d billing.Difference) bool { return d.Subject == "hour 2026-11-18T12Z" })
		}) {
			t.Errorf("a request that vanished with its sums: %s verification fails in %+v", mode, failed)
		}
	}
}

func leavesOldRows(t *testing.T, b *tampered) {
	b.change(t, "UPDATE requests SET user_agent = 'other' WHERE request_id = '"+b.first().paid+"'")
	v := verify(t, b.Store, billing.Incremental)
	equal(t, "failed checks of what is new", v.Failed(), nil)
	equal(t, "entries read", v.Entries, 0)
	equal(t, "requests read", v.Requests, 0)
	v = verify(t, b.Store, billing.Full)
	equal(t, "imbalance of all", v.Imbalance(), 1)
	equal(t, "entries read", v.Entries, 4)
	equal(t, "requests read", v.Requests, 3)
}

func namesDifferences(t *testing.T, b *tampered) {
	b.change(t, "UPDATE requests SET user_agent = 'other' WHERE request_id = '"+b.first().free+"'")
	b.change(t, "UPDATE entries SET balance_after = balance_after + 7 WHERE seq = 3")
	b.change(t, "UPDATE allowances SET settled = settled + 5 WHERE kind = 'key' AND period = 'daily'")
	v, err := b.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full, Examples: 1})
	check(t, err)
	failed := v.Failed()
	content := &failed[slices.IndexFunc(failed, func(c billing.Check) bool { return c.Name == billing.CheckContent })]
	for _, hash := range []*string{&content.Examples[0].Expected, &content.Examples[0].Found} {
		equal(t, "length of hash "+*hash, len(*hash), 16)
		*hash = ""
	}
	equal(t, "failed checks", failed, []billing.Check{
		{Name: billing.CheckBalances, Imbalance: 14, Examples: []billing.Difference{{
			OrganizationID: org, Subject: "entry 3", Field: "balance_after",
			Expected: "7000000000", Found: "7000000007",
		}}},
		{Name: billing.CheckContent, Imbalance: 1, Examples: []billing.Difference{{
			OrganizationID: org, Subject: "request " + b.first().free, Field: "hash",
		}}},
		{Name: billing.CheckHistory, Imbalance: 1, Examples: failed[2].Examples},
		{Name: billing.CheckAllowances, Imbalance: 5, Examples: []billing.Difference{{
			OrganizationID: org, Subject: "allowance key key_1 daily from 2026-11-18", Field: "settled",
			Expected: "3000000000", Found: "3000000005",
		}}},
	})
	equal(t, "imbalance", v.Imbalance(), 21)
}

func toleratesOddRows(t *testing.T, b *tampered) {
	day := 24 * time.Hour
	late := settlementAt(100, noon.Add(-40*day), usd)
	free := settlementAt(101, noon.Add(-41*day), 0)
	post(t, b.Store, node, late, free)
	balanced(t, b.Store)
	misnamed := settlementAt(102, noon.Add(-42*day), usd)
	misnamed.At = noon.Add(-3 * day)
	strange := settlementAt(103, noon.Add(-4*day), 0)
	strange.RequestID = "~ any \"text\""
	unknown := settlementAt(104, noon, usd)
	unknown.OrganizationID, unknown.KeyID, unknown.Changes = "nobody's", "", nil
	unknown.UserAgent = "\xff\x00<é>"
	before1970 := settlementAt(105, time.Date(1969, 12, 31, 23, 59, 59, 999, time.UTC), usd)
	post(t, b.Store, node, misnamed, strange, unknown, before1970)
	balanced(t, b.Store)
	balanced(t, b.Store)
}

func refusesUnknownModes(t *testing.T, b *tampered) {
	if v, err := b.Verify(t.Context(), billing.VerifyOptions{Mode: "some"}); err == nil {
		t.Errorf("an unknown mode is taken: %+v", v)
	}
}

func staysWrong(t *testing.T, b *tampered) {
	on := b.fresh(t)
	b.change(t, fmt.Sprintf("UPDATE entries SET balance_after = balance_after + 1 WHERE seq = %d", on.debit))
	b.change(t, "UPDATE requests SET market_cost = market_cost + 1 WHERE request_id = '"+on.free+"'")
	for range 3 {
		b.fails(t, "balance after", billing.Incremental, billing.CheckBalances)
		b.fails(t, "market cost", billing.Incremental, billing.CheckRollups)
		b.fails(t, "market cost", billing.Full, billing.CheckRollups)
		b.fresh(t)
	}
	b.change(t, fmt.Sprintf("UPDATE entries SET balance_after = balance_after - 1 WHERE seq = %d", on.debit))
	b.change(t, "UPDATE requests SET market_cost = market_cost - 1 WHERE request_id = '"+on.free+"'")
	balanced(t, b.Store)
}
