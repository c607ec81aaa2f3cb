package billingtest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

func testAppend(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"all fields are kept":                  keepsAllFieldsOfEntries,
		"the same again returns the first":     replaysAppend,
		"a balance stays in its range":         keepsBalanceInRange,
		"every type moves balance and credits": appendsTypes,
		"what is no entry is refused":          refusesEntries,
		"entries are listed page by page":      listsEntries,
		"filters select entries":               filtersEntries,
		"whoever follows misses no entry":      followsEntries,
		"idempotency keys are an organization's own": func(t *testing.T, s billing.Store) {
			buy(t, s, usd)
			e := purchase(2*usd, "purchase")
			e.OrganizationID = other
			_, err := s.Append(t.Context(), e)
			check(t, err)
			equal(t, "balances", []billing.Money{balanceOf(t, s, org), balanceOf(t, s, other)}, []billing.Money{usd, 2 * usd})
		},
	})
}

func keepsBalanceInRange(t *testing.T, s billing.Store) {
	for in, amount := range map[string]billing.Money{org: math.MaxInt64, other: math.MinInt64} {
		e := purchase(amount, "most")
		e.OrganizationID, e.Type = in, billing.Adjustment
		first, err := s.Append(t.Context(), e)
		check(t, err)
		again, err := s.Append(t.Context(), e)
		check(t, err)
		equal(t, "repeated entry", again, first)
		e.IdempotencyKey, e.Amount = "more", amount/math.MaxInt32
		_, err = s.Append(t.Context(), e)
		equal(t, "error of more", err, billing.ErrBalanceRange)
		equal(t, "balance", balanceOf(t, s, in), amount)
	}
}

func keepsAllFieldsOfEntries(t *testing.T, s billing.Store) {
	want := billing.Entry{
		OrganizationID: org, Type: billing.Adjustment, Amount: -3 * usd, CreatedAt: noon, RequestID: requestID(1),
		PaymentID: "pay_1", Reason: "wrong price", Actor: "operator", IdempotencyKey: "fix",
	}
	got, err := s.Append(t.Context(), want)
	check(t, err)
	if got.ID == "" {
		t.Error("entry has no id")
	}
	want.ID, want.BalanceAfter = got.ID, -3*usd
	equal(t, "returned entry", got, want)
	entries, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, billing.Page{})
	check(t, err)
	equal(t, "stored entries", entries, []billing.Entry{want})

	post(t, s, node, settlement(1, usd)) // the linked request's own debit is another entry
	balanced(t, s)
}

func replaysAppend(t *testing.T, s billing.Store) {
	e := purchase(10*usd, "event")
	first, err := s.Append(t.Context(), e)
	check(t, err)
	post(t, s, node, settlement(1, usd))

	e.CreatedAt = noon.AddDate(0, 0, 1) // delivered again, later
	again, err := s.Append(t.Context(), e)
	check(t, err)
	equal(t, "entry", again, first)

	for name, change := range map[string]func(*billing.Entry){
		"amount":  func(e *billing.Entry) { e.Amount++ },
		"type":    func(e *billing.Entry) { e.Type = billing.Adjustment },
		"request": func(e *billing.Entry) { e.RequestID = "x" },
		"payment": func(e *billing.Entry) { e.PaymentID = "x" },
		"reason":  func(e *billing.Entry) { e.Reason = "x" },
		"actor":   func(e *billing.Entry) { e.Actor = "x" },
	} {
		changed := e
		change(&changed)
		_, err := s.Append(t.Context(), changed)
		equal(t, "error for another "+name, err, billing.ErrConflict)
	}
	equal(t, "balance", balanceOf(t, s, org), 9*usd)
	balanced(t, s)
}

func appendsTypes(t *testing.T, s billing.Store) {
	steps := []struct {
		entry   billing.EntryType
		amount  billing.Money
		balance billing.Money
	}{
		{billing.Purchase, 10 * usd, 10 * usd},
		{billing.Adjustment, 2 * usd, 12 * usd},
		{billing.Refund, -5 * usd, 7 * usd},
		{billing.Dispute, -9 * usd, -2 * usd},
		{billing.Purchase, 3 * usd, usd},
	}
	for i, step := range steps {
		e, err := s.Append(t.Context(), billing.Entry{
			OrganizationID: org, Type: step.entry, Amount: step.amount, IdempotencyKey: fmt.Sprint(i),
		})
		check(t, err)
		equal(t, "balance after "+string(step.entry), e.BalanceAfter, step.balance)
		if e.CreatedAt.IsZero() {
			t.Errorf("%s has no time", step.entry)
		}
		granted := lease(t, s, node, credits(100*usd))
		equal(t, "room after "+string(step.entry), granted, []billing.Lease{credits(max(0, step.balance))})
		check(t, s.Return(t.Context(), node, granted))
	}
	balanced(t, s)
}

func refusesEntries(t *testing.T, s billing.Store) {
	buy(t, s, usd)
	for name, change := range map[string]func(*billing.Entry){
		"no amount":              func(e *billing.Entry) { e.Amount = 0 },
		"a debit":                func(e *billing.Entry) { e.Type = billing.UsageDebit },
		"unknown type":           func(e *billing.Entry) { e.Type = "gift" },
		"no organization":        func(e *billing.Entry) { e.OrganizationID = "" },
		"no idempotency key":     func(e *billing.Entry) { e.IdempotencyKey = "" },
		"a request's key":        func(e *billing.Entry) { e.IdempotencyKey = "req:" + requestID(1) },
		"more than there can be": func(e *billing.Entry) { e.Amount = math.MaxInt64 },
	} {
		e := purchase(usd, "bad")
		change(&e)
		if _, err := s.Append(t.Context(), e); err == nil {
			t.Errorf("%s: was appended", name)
		}
	}
	least := purchase(math.MinInt64, "least")
	least.Type, least.OrganizationID = billing.Dispute, other
	_, err := s.Append(t.Context(), least)
	check(t, err)
	least.IdempotencyKey, least.Amount = "less", -1
	if _, err := s.Append(t.Context(), least); err == nil {
		t.Error("less than there can be: was appended")
	}
	nobody := purchase(usd, "bad")
	nobody.OrganizationID = "nobody"
	_, err = s.Append(t.Context(), nobody)
	equal(t, "error for an unknown organization", err, billing.ErrNotFound)
	equal(t, "balance", balanceOf(t, s, org), usd)
}

func listsEntries(t *testing.T, s billing.Store) {
	const entries = 12
	var want []billing.Entry
	for i := range entries {
		e, err := s.Append(t.Context(), purchase(usd, fmt.Sprint(i)))
		check(t, err)
		want = append([]billing.Entry{e}, want...)
	}
	var got []billing.Entry
	page := billing.Page{Limit: 5}
	for {
		part, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, page)
		check(t, err)
		got = append(got, part...)
		if len(part) < page.Limit {
			break
		}
		page.After = part[len(part)-1].ID
		// New entries do not move a page.
		_, err = s.Append(t.Context(), purchase(usd, "new"+page.After))
		check(t, err)
	}
	equal(t, "entries", got, want)
	for i := 1; i < len(got); i++ {
		if got[i-1].ID <= got[i].ID {
			t.Errorf("ids %s and %s do not grow with time", got[i].ID, got[i-1].ID)
		}
	}
	_, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, billing.Page{After: "ent_x"})
	equal(t, "error for a bad cursor", err, billing.ErrNotFound)
}

func filtersEntries(t *testing.T, s billing.Store) {
	bought, adjusted := purchase(usd, "a"), purchase(usd, "b")
	adjusted.Type, adjusted.CreatedAt = billing.Adjustment, noon.Add(time.Hour)
	for _, e := range []billing.Entry{bought, adjusted} {
		_, err := s.Append(t.Context(), e)
		check(t, err)
	}
	post(t, s, node, settlementAt(1, noon.Add(2*time.Hour), usd), settlementAt(2, noon.Add(-time.Hour), usd))
	const first, second, third, fourth = 1, 2, 3, 4
	for name, test := range map[string]struct {
		filter billing.EntryFilter
		page   billing.Page
		want   []int
	}{
		"all":             {want: []int{fourth, third, second, first}},
		"from":            {filter: billing.EntryFilter{From: noon}, want: []int{third, second, first}},
		"to":              {filter: billing.EntryFilter{To: noon.Add(time.Hour)}, want: []int{fourth, first}},
		"type":            {filter: billing.EntryFilter{Types: []billing.EntryType{billing.Purchase}}, want: []int{first}},
		"types":           {filter: billing.EntryFilter{Types: []billing.EntryType{billing.UsageDebit, billing.Adjustment}}, want: []int{fourth, third, second}},
		"no such type":    {filter: billing.EntryFilter{Types: []billing.EntryType{"'; --"}}},
		"id":              {filter: billing.EntryFilter{ID: books.EntryID(second)}, want: []int{second}},
		"id of another":   {filter: billing.EntryFilter{ID: books.EntryID(second), Types: []billing.EntryType{billing.Purchase}}},
		"id, after it":    {filter: billing.EntryFilter{ID: books.EntryID(second)}, page: billing.Page{After: books.EntryID(second)}},
		"oldest first":    {page: billing.Page{OldestFirst: true}, want: []int{first, second, third, fourth}},
		"after the first": {page: billing.Page{OldestFirst: true, After: books.EntryID(first), Limit: 2}, want: []int{second, third}},
	} {
		entries, err := s.Transactions(t.Context(), org, test.filter, test.page)
		check(t, err)
		var want, got []string
		for _, n := range test.want {
			want = append(want, books.EntryID(int64(n)))
		}
		for _, e := range entries {
			got = append(got, e.ID)
		}
		equal(t, "entries of "+name, got, want)
	}
}
