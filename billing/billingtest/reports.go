package billingtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testReports(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"requests are listed page by page, newest id first": listsRequests,
		"filters select requests":                           filtersRequests,
		"price sheets are kept":                             keepsPriceSheets,
		"details select requests":                           filtersByDetail,
		"owners select the requests of their keys":          filtersByOwner,
		"requests are listed oldest first, page by page":    listsOldestFirst,
		"usage is the sum of the requests":                  sumsUsage,
		"spend is that of its period and subject":           reportsSpend,
		"requests belong to their organization":             keepsRequestsApart,
	})
}

func listsRequests(t *testing.T, s billing.Store) {
	const requests = 7
	var batch []billing.Settlement
	for n := range requests {
		batch = append(batch, settlement(n, usd))
	}
	slices.Reverse(batch) // not in the order of ids
	post(t, s, node, batch...)

	var got []string
	page := billing.Page{Limit: 3}
	for {
		part, err := s.Requests(t.Context(), org, billing.Filter{}, page)
		check(t, err)
		for _, r := range part {
			got = append(got, r.RequestID)
		}
		if len(part) < page.Limit {
			break
		}
		page.After = part[len(part)-1].RequestID
		post(t, s, node, settlement(100+len(got), usd)) // new ones do not move a page
	}
	var want []string
	for _, r := range batch {
		want = append(want, r.RequestID)
	}
	equal(t, "requests", got, want)
}

// history is a set of requests over some days, keys, providers and models,
// with some at the very edges of hours.
func history(random *rand.Rand, requests int) []billing.Settlement {
	batch := make([]billing.Settlement, requests)
	for n := range batch {
		at := noon.Add(time.Duration(random.Int64N(int64(72 * time.Hour)))).Truncate(time.Microsecond)
		switch random.IntN(4) {
		case 0:
			at = at.Truncate(time.Hour)
		case 1:
			at = at.Truncate(time.Hour).Add(time.Hour - time.Microsecond)
		}
		r := settlementAt(n, at, billing.Money(random.IntN(3))*usd)
		r.KeyID = fmt.Sprintf("key_%d", random.IntN(3))
		r.Provider = []string{"openai", "anthropic"}[random.IntN(2)]
		r.Model = []string{"small", "large"}[random.IntN(2)]
		r.Project = []string{"search", "web"}[random.IntN(2)]
		r.Usage.Input = random.Int64N(1000)
		r.MarketCost = billing.Money(random.Int64N(int64(usd)))
		batch[n] = r
	}
	return batch
}

func randomFilter(random *rand.Rand) billing.Filter {
	moment := func() time.Time {
		at := noon.Add(time.Duration(random.Int64N(int64(72 * time.Hour))))
		switch random.IntN(5) {
		case 0:
			return time.Time{}
		case 1:
			return at.Truncate(time.Hour)
		case 2:
			return at.Truncate(time.Hour).Add(time.Nanosecond)
		case 3:
			return at.Truncate(time.Hour).Add(-time.Microsecond)
		}
		return at
	}
	return billing.Filter{
		From: moment(), To: moment(),
		KeyIDs:    pickSome(random, "key_0", "key_1", "key_x", "key_0', 'key_1"),
		Projects:  pickSome(random, "search", "web"),
		Providers: pickSome(random, "openai", "anthropic"),
		Models:    pickSome(random, "small", "large"),
	}
}

// pickSome returns none of the values, half of the times, or some.
func pickSome(random *rand.Rand, values ...string) []string {
	if random.IntN(2) == 0 {
		return nil
	}
	values = slices.Clone(values)
	random.Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
	return values[:1+random.IntN(len(values))]
}

// newestFirst is the order that a store lists requests in.
func newestFirst(a, b billing.Settlement) int { return strings.Compare(b.RequestID, a.RequestID) }

func selects(f billing.Filter, r billing.Settlement) bool {
	return !r.At.Before(f.From) && (f.To.IsZero() || r.At.Before(f.To)) &&
		isOneOf(f.KeyIDs, r.KeyID) && isOneOf(f.Projects, r.Project) &&
		isOneOf(f.Providers, r.Provider) && isOneOf(f.Models, r.Model) &&
		selectsDetail(&f.Detail, &r)
}

func filtersRequests(t *testing.T, s billing.Store) {
	random := rand.New(rand.NewPCG(1, 1))
	all := history(random, 150)
	post(t, s, node, all...)
	for range 100 {
		f := randomFilter(random)
		got, err := s.Requests(t.Context(), org, f, billing.Page{Limit: len(all)})
		check(t, err)
		var want []billing.Settlement
		for _, r := range all {
			if selects(f, r) {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, newestFirst)
		equal(t, fmt.Sprintf("requests of %+v", f), got, want)
	}
}

func sumsUsage(t *testing.T, s billing.Store) {
	random := rand.New(rand.NewPCG(2, 2))
	for part := range slices.Chunk(history(random, 300), 50) {
		post(t, s, node, part...)
	}
	var some int
	for range 200 {
		f := randomFilter(random)
		requests, err := s.Requests(t.Context(), org, f, billing.Page{Limit: 1000})
		check(t, err)
		var want billing.Totals
		for _, r := range requests {
			want = want.Plus(billing.TotalsOf(r))
		}
		if want.Requests > 0 {
			some++
		}
		got, err := s.Usage(t.Context(), org, f, billing.Grouping{})
		check(t, err)
		equal(t, fmt.Sprintf("usage of %+v", f), got.Totals, want)
	}
	if some < 50 {
		t.Errorf("only %d of the filters select anything", some)
	}
	balanced(t, s)
}

func reportsSpend(t *testing.T, s billing.Store) {
	yesterday, today := settlementAt(1, noon.AddDate(0, 0, -1), usd), settlement(2, 2*usd)
	otherKey, loose, others := settlement(3, 4*usd), settlement(4, 8*usd), settlement(5, 16*usd)
	otherKey.KeyID, loose.Project, others.OrganizationID = "key_2", "", other
	post(t, s, node, yesterday, today, otherKey, loose, others)

	tomorrow := noon.AddDate(0, 0, 1)
	spend := func(p billing.Period, at time.Time) []billing.Allowance {
		b := billing.BudgetOf(org, p, at, billing.Sunday)
		project, k, elsewhere := b, b, b
		project.Kind, project.Subject = billing.ProjectBudget, "search"
		k.Kind, k.Subject = billing.KeySpend, key
		elsewhere.OrganizationID = "nobody"
		return []billing.Allowance{b, project, k, elsewhere}
	}
	for name, test := range map[string]struct {
		allowances []billing.Allowance
		want       []billing.Money
	}{
		"today":      {spend(billing.Daily, noon), []billing.Money{14 * usd, 6 * usd, 10 * usd, 0}},
		"tomorrow":   {spend(billing.Daily, tomorrow), []billing.Money{0, 0, 0, 0}},
		"this week":  {spend(billing.Weekly, noon), []billing.Money{15 * usd, 7 * usd, 11 * usd, 0}},
		"this month": {spend(billing.Monthly, tomorrow), []billing.Money{15 * usd, 7 * usd, 11 * usd, 0}},
		"all time":   {spend(billing.Never, tomorrow), []billing.Money{15 * usd, 7 * usd, 11 * usd, 0}},
		"credits":    {[]billing.Allowance{billing.CreditsOf(other), billing.CreditsOf(org)}, []billing.Money{16 * usd, 15 * usd}},
		"of nothing": {nil, nil},
	} {
		got, err := s.Spend(t.Context(), test.allowances)
		check(t, err)
		equal(t, "spend "+name, got, test.want)
	}
}

func keepsRequestsApart(t *testing.T, s billing.Store) {
	post(t, s, node, settlement(1, usd))
	_, err := s.Request(t.Context(), other, requestID(1))
	equal(t, "error for another organization", err, billing.ErrNotFound)
	requests, err := s.Requests(t.Context(), other, billing.Filter{}, billing.Page{})
	check(t, err)
	equal(t, "requests of another organization", requests, nil)
	usage, err := s.Usage(t.Context(), other, billing.Filter{}, billing.Grouping{})
	check(t, err)
	equal(t, "usage of another organization", usage.Totals, billing.Totals{})
}

func testRestart(t *testing.T, open Open) {
	s := start(t, open)
	buy(t, s, 10*usd)
	lease(t, s, node, credits(8*usd), budget(billing.Weekly, usd))
	post(t, s, node, settlement(1, 3*usd))
	leases := leasesOf(t, s, node)
	newest := version(t, s)
	entries, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, billing.Page{})
	check(t, err)
	check(t, s.Close())

	s = reopen(t, open)
	equal(t, "leases", leasesOf(t, s, node), leases)
	equal(t, "balance", balanceOf(t, s, org), 7*usd)
	again, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, billing.Page{})
	check(t, err)
	equal(t, "entries", again, entries)
	equal(t, "version", version(t, s), newest)

	post(t, s, node, settlement(1, 3*usd), settlement(2, usd)) // a journal's replay
	equal(t, "balance after a replay", balanceOf(t, s, org), 6*usd)
	balanced(t, s)
}

func testContext(t *testing.T, open Open) {
	s := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Post": func() error {
			_, err := s.Post(ctx, node, []billing.Settlement{settlement(1, usd)})
			return err
		},
		"Append":   func() error { _, err := s.Append(ctx, purchase(usd, "x")); return err },
		"Lease":    func() error { _, err := s.Lease(ctx, node, needs(budget(billing.Daily, usd))); return err },
		"Requests": func() error { _, err := s.Requests(ctx, org, billing.Filter{}, billing.Page{}); return err },
		"Account":  func() error { _, err := s.Account(ctx, org); return err },
	}
	// More often than there are connections: none is kept by an error.
	for range 50 {
		for name, call := range calls {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Fatalf("%s returned %v, want that the context was canceled", name, err)
			}
		}
	}
	_, err := s.UpdateKey(t.Context(), org, key, func(*billing.Key) error { return billing.ErrConflict })
	equal(t, "error of an update", err, billing.ErrConflict)
	post(t, s, node, settlement(2, usd))
	equal(t, "balance", balanceOf(t, s, org), -usd)
	equal(t, "leases", leasesOf(t, s, node), nil)
	balanced(t, s)
}
