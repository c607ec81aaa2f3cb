package billingtest

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testPost(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"all fields are kept":                             keepsAllFieldsOfSettlements,
		"each cost is debited, in order":                  debits,
		"a request without a cost has no debit":           postsZeroCost,
		"an empty batch is nothing":                       func(t *testing.T, s billing.Store) { post(t, s, node) },
		"the same settlement again changes nothing":       repeats,
		"other content is a conflict and changes nothing": conflicts,
		"request ids are an organization's own":           keepsIDsApart,
		"known settlements are found among many":          findsKnown,
		"a recovered settlement never conflicts":          recovers,
		"unknown organizations and keys are booked":       postsUnknown,
		"bytes that are no text do not block a batch":     postsAnyBytes,
		"a batch that cannot be booked is refused whole":  refusesBatches,
		"sums that overflow are refused":                  refusesOverflow,
		"what may pass is no fault of a settlement":       errorsThatPass,
		"a poster gets past what cannot be booked":        postsAround,
		"times decide the period":                         booksPeriods,
	})
}

func keepsAllFieldsOfSettlements(t *testing.T, s billing.Store) {
	want := settlement(1, 5*usd)
	want.Recovered = true
	v := reflect.ValueOf(want)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("the test's settlement has no %s", v.Type().Field(i).Name)
		}
	}
	want.At = want.At.Add(999 * time.Nanosecond).In(time.FixedZone("somewhere", 3600))
	post(t, s, node, want)
	got, err := s.Request(t.Context(), org, want.RequestID)
	check(t, err)
	want.At = want.At.UTC().Truncate(time.Microsecond)
	equal(t, "settlement", got, want)
	equal(t, "zone", got.At.Location().String(), "UTC")
	post(t, s, node, want) // what was read is what was written: no conflict

	bare := billing.Settlement{RequestID: requestID(2), OrganizationID: org, At: noon}
	post(t, s, node, bare)
	got, err = s.Request(t.Context(), org, bare.RequestID)
	check(t, err)
	equal(t, "bare settlement", got, bare)
	balanced(t, s)
}

func debits(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	foreign := settlement(2, 4*usd)
	foreign.OrganizationID = other
	post(t, s, node, settlement(3, usd), foreign, settlement(1, 2*usd))

	entries, err := s.Transactions(t.Context(), org, billing.Page{})
	check(t, err)
	debit := func(n int, amount, balance billing.Money) billing.Entry {
		return billing.Entry{
			OrganizationID: org, Type: billing.UsageDebit, Amount: -amount, BalanceAfter: balance,
			CreatedAt: settlement(n, 0).At, RequestID: requestID(n), IdempotencyKey: "req:" + requestID(n),
		}
	}
	first := purchase(10*usd, "purchase")
	first.BalanceAfter = 10 * usd
	want := []billing.Entry{debit(1, 2*usd, 7*usd), debit(3, usd, 9*usd), first}
	for i := range want {
		want[i].ID = entries[i].ID
	}
	equal(t, "entries, newest first", entries, want)
	equal(t, "balance", balanceOf(t, s, org), 7*usd)
	equal(t, "balance of the other", balanceOf(t, s, other), -4*usd)
	balanced(t, s)
}

func postsZeroCost(t *testing.T, s billing.Store) {
	free := settlement(1, 0)
	post(t, s, node, free)
	entries, err := s.Transactions(t.Context(), org, billing.Page{})
	check(t, err)
	equal(t, "entries", entries, nil)
	usage, err := s.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{})
	check(t, err)
	equal(t, "usage", usage.Totals, billing.TotalsOf(free))
	post(t, s, node, free)
	balanced(t, s)
}

func repeats(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	lease(t, s, node, credits(9*usd), keySpend(key, billing.Daily, 9*usd))
	a, b, c := settlement(1, usd), settlement(2, 2*usd), settlement(3, 3*usd)
	post(t, s, node, a, b, a)
	before := leasesOf(t, s, node)
	equal(t, "leases", before, []billing.Lease{credits(6 * usd), keySpend(key, billing.Daily, 6*usd)})

	post(t, s, node, b, a)
	post(t, s, "node_2", a, b)
	equal(t, "leases after a replay", leasesOf(t, s, node), before)
	post(t, s, node, a, c, b)
	equal(t, "leases after a new one among old ones", leasesOf(t, s, node),
		[]billing.Lease{credits(3 * usd), keySpend(key, billing.Daily, 3*usd)})
	equal(t, "balance", balanceOf(t, s, org), 4*usd)
	balanced(t, s)
}

func conflicts(t *testing.T, s billing.Store) {
	first := settlement(1, usd)
	changed := first
	changed.UserAgent = "another"
	post(t, s, node, first)

	got, err := s.Post(t.Context(), node, []billing.Settlement{changed, settlement(2, 2*usd), changed})
	check(t, err)
	equal(t, "conflicts", got, []string{first.RequestID, first.RequestID})

	twice := settlement(3, usd)
	twice.Status = 500
	got, err = s.Post(t.Context(), node, []billing.Settlement{settlement(3, usd), twice})
	check(t, err)
	equal(t, "conflict within a batch", got, []string{twice.RequestID})

	stored, err := s.Request(t.Context(), org, first.RequestID)
	check(t, err)
	equal(t, "first settlement", stored, first)
	equal(t, "balance", balanceOf(t, s, org), -4*usd)
	balanced(t, s)
}

func keepsIDsApart(t *testing.T, s billing.Store) {
	foreign := settlement(1, 2*usd)
	foreign.OrganizationID = other
	post(t, s, node, settlement(1, usd))
	post(t, s, node, settlement(2, usd), foreign, settlement(1, usd), foreign)

	got, err := s.Request(t.Context(), other, foreign.RequestID)
	check(t, err)
	equal(t, "the other's request", got, foreign)
	equal(t, "balances", []billing.Money{balanceOf(t, s, org), balanceOf(t, s, other)}, []billing.Money{-2 * usd, -2 * usd})
	balanced(t, s)
}

// findsKnown posts batches of many sizes, in which some settlements are known.
func findsKnown(t *testing.T, s billing.Store) {
	random := rand.New(rand.NewPCG(3, 3))
	var spent billing.Money
	posted := 0
	for _, size := range []int{300, 65, 64, 200, 63, 130} {
		var batch []billing.Settlement
		var want []string
		for range size {
			if posted == 0 || random.IntN(50) > 0 {
				batch = append(batch, settlement(posted, usd))
				spent += usd
				posted++
				continue
			}
			known := settlement(random.IntN(posted), usd) // perhaps of this very batch
			if random.IntN(2) == 0 {
				known.Status = 500
				want = append(want, known.RequestID)
			}
			batch = append(batch, known)
		}
		got, err := s.Post(t.Context(), node, batch)
		check(t, err)
		equal(t, "conflicts", got, want)
		equal(t, "balance", balanceOf(t, s, org), -spent)
	}
	rows, err := s.Requests(t.Context(), org, billing.Filter{}, billing.Page{Limit: 2 * posted})
	check(t, err)
	equal(t, "number of requests", len(rows), posted)
	balanced(t, s)
}

func recovers(t *testing.T, s billing.Store) {
	known := settlement(1, usd)
	post(t, s, node, known)
	estimate := settlement(1, 9*usd)
	estimate.Recovered = true
	fresh := settlement(2, 2*usd)
	fresh.Recovered = true
	post(t, s, node, estimate, fresh)

	stored, err := s.Request(t.Context(), org, known.RequestID)
	check(t, err)
	equal(t, "first settlement", stored, known)
	equal(t, "balance", balanceOf(t, s, org), -3*usd)

	// The node's own word comes after the estimate: a human has to look.
	got, err := s.Post(t.Context(), node, []billing.Settlement{settlement(2, 3*usd)})
	check(t, err)
	equal(t, "conflicts", got, []string{fresh.RequestID})
	post(t, s, node, settlement(2, 2*usd)) // the same content
	balanced(t, s)
}

func postsUnknown(t *testing.T, s billing.Store) {
	unknown := settlement(1, usd)
	unknown.OrganizationID, unknown.KeyID = "nobody", "key_x"
	keyless := settlement(3, 3*usd)
	keyless.KeyID = ""
	post(t, s, node, unknown, settlement(2, 2*usd), keyless)

	got, err := s.Request(t.Context(), "nobody", unknown.RequestID)
	check(t, err)
	equal(t, "request", got, unknown)
	entries, err := s.Transactions(t.Context(), "nobody", billing.Page{})
	check(t, err)
	equal(t, "entries", len(entries), 1)
	equal(t, "balance of the known one", balanceOf(t, s, org), -5*usd)
	balanced(t, s)
}

func postsAnyBytes(t *testing.T, s billing.Store) {
	odd := settlement(1, usd)
	odd.UserAgent, odd.Error, odd.Changes = "caf\xe9", "cut\x00here", []string{"\xff"}
	post(t, s, node, odd, settlement(2, usd))
	got, err := s.Request(t.Context(), org, odd.RequestID)
	check(t, err)
	equal(t, "texts", []string{got.UserAgent, got.Error, got.Changes[0]}, []string{"caf\uFFFD", "cut\uFFFDhere", "\uFFFD"})
	post(t, s, node, odd)
}

func refusesBatches(t *testing.T, s billing.Store) {
	change := func(f func(*billing.Settlement)) billing.Settlement {
		bad := settlement(2, usd)
		f(&bad)
		return bad
	}
	post(t, s, node, settlement(0, usd))
	for name, bad := range map[string]billing.Settlement{
		"negative cost":        change(func(s *billing.Settlement) { s.Cost = -1 }),
		"negative market cost": change(func(s *billing.Settlement) { s.MarketCost = -1 }),
		"no id":                change(func(s *billing.Settlement) { s.RequestID = "" }),
		"no organization":      change(func(s *billing.Settlement) { s.OrganizationID = "" }),
		"absurd time":          change(func(s *billing.Settlement) { s.At = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"absurd cost":          change(func(s *billing.Settlement) { s.Cost = math.MaxInt64 }),
		"absurd usage":         change(func(s *billing.Settlement) { s.Usage.CacheRead = math.MaxInt64 }),
	} {
		_, err := s.Post(t.Context(), node, []billing.Settlement{settlement(1, usd), bad})
		if !errors.Is(err, billing.ErrInvalid) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), bad.RequestID) {
			t.Errorf("%s: error is %v, want %v in one line with the id", name, err, billing.ErrInvalid)
		}
	}
	_, err := s.Request(t.Context(), org, requestID(1))
	equal(t, "error for the good one", err, billing.ErrNotFound)
	equal(t, "balance", balanceOf(t, s, org), -usd)
	balanced(t, s)
}

// refusesOverflow fills the books up to what an integer holds. Some sums are
// the store's own: that they overflow is known by what its database says.
func refusesOverflow(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	huge := settlement(1, math.MaxInt64)
	huge.MarketCost = 0
	post(t, s, node, huge)
	_, err := s.Post(t.Context(), node, []billing.Settlement{settlement(2, usd)})
	if !errors.Is(err, billing.ErrInvalid) || strings.Contains(err.Error(), "\n") {
		t.Errorf("settled sums that overflow: error is %v, want %v in one line", err, billing.ErrInvalid)
	}
	post(t, s, node, settlement(3, 0))
	equal(t, "balance", balanceOf(t, s, org), 10*usd-math.MaxInt64)
}

// errorsThatPass are none of a settlement's: they must not be taken for one.
func errorsThatPass(t *testing.T, s billing.Store) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Post(ended, node, []billing.Settlement{settlement(1, usd)}); err == nil || errors.Is(err, billing.ErrInvalid) {
		t.Errorf("error of a post without time is %v", err)
	}
	check(t, s.Close())
	if _, err := s.Post(t.Context(), node, []billing.Settlement{settlement(1, usd)}); err == nil || errors.Is(err, billing.ErrInvalid) {
		t.Errorf("error of a closed store is %v", err)
	}
}

func booksPeriods(t *testing.T, s billing.Store) {
	// Around New Year, which is a Friday: another day, month, but not week.
	before := settlementAt(1, time.Date(2026, 12, 31, 23, 59, 59, 999999999, time.UTC), usd)
	after := settlementAt(2, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), 2*usd)
	ancient := settlementAt(3, time.Date(1969, 7, 20, 20, 17, 0, 0, time.UTC), 4*usd)
	post(t, s, node, before, after, ancient)
	balanced(t, s)

	for p, want := range map[billing.Period]billing.Money{
		billing.Daily: 2 * usd, billing.Weekly: 3 * usd, billing.Monthly: 2 * usd, billing.Never: 7 * usd,
	} {
		a := billing.BudgetOf(org, p, after.At.Add(time.Hour), billing.Sunday)
		a.Kind, a.Subject = billing.KeySpend, key
		spend, err := s.Spend(t.Context(), []billing.Allowance{a})
		check(t, err)
		equal(t, "spend in "+string(p), spend, []billing.Money{want})
	}
}
