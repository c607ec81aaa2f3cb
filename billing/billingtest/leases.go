package billingtest

import (
	"math"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testLeases(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"credits are granted up to what was paid": func(t *testing.T, s billing.Store) {
			equal(t, "before any purchase", lease(t, s, node, credits(usd)), []billing.Lease{credits(0)})
			buy(t, s, 10*usd)
			equal(t, "first", lease(t, s, node, credits(6*usd)), []billing.Lease{credits(6 * usd)})
			equal(t, "second", lease(t, s, "node_2", credits(6*usd)), []billing.Lease{credits(4 * usd)})
			equal(t, "third", lease(t, s, node, credits(1)), []billing.Lease{credits(0)})
			equal(t, "leases", leasesOf(t, s, node), []billing.Lease{credits(6 * usd)})
			balanced(t, s)
		},
		"one node may lease everything": func(t *testing.T, s billing.Store) {
			buy(t, s, 10*usd)
			want := []billing.Lease{credits(math.MaxInt64), budget(billing.Monthly, math.MaxInt64), keySpend(key, billing.Never, math.MaxInt64)}
			granted := lease(t, s, node, want...)
			equal(t, "credits", granted[0], credits(10*usd))
			equal(t, "no limit", granted[1:], want[1:])
			equal(t, "no limit, again", lease(t, s, "node_2", want[1]), []billing.Lease{budget(billing.Monthly, 0)})
			balanced(t, s)
		},
		"an allowance without a limit is granted whole and recorded": func(t *testing.T, s billing.Store) {
			want := []billing.Lease{budget(billing.Daily, usd), keySpend(key, billing.Weekly, 2*usd)}
			equal(t, "granted", lease(t, s, node, want...), want)
			equal(t, "leases", leasesOf(t, s, node), want)
			balanced(t, s)
		},
		"a key's spend is granted up to its limit, in its period": func(t *testing.T, s billing.Store) {
			check(t, s.CreateKey(t.Context(), newKey("key_2", org, pointer(3*usd), billing.Weekly)))
			granted := lease(t, s, node, keySpend("key_2", billing.Weekly, 5*usd), keySpend("key_2", billing.Daily, usd))
			equal(t, "granted", granted, []billing.Lease{keySpend("key_2", billing.Weekly, 3*usd), keySpend("key_2", billing.Daily, 0)})
		},
		"a budget is granted up to its limit, in its period": func(t *testing.T, s billing.Store) {
			setBudget(t, s, pointer(3*usd), billing.Weekly)
			elsewhere := budget(billing.Daily, usd)
			elsewhere.Allowance.OrganizationID = other
			granted := lease(t, s, node, budget(billing.Weekly, 5*usd), budget(billing.Daily, usd), elsewhere)
			equal(t, "granted", granted, []billing.Lease{budget(billing.Weekly, 3*usd), budget(billing.Daily, 0), elsewhere})
			equal(t, "to another node", lease(t, s, "node_2", budget(billing.Weekly, 1)), []billing.Lease{budget(billing.Weekly, 0)})
		},
		"a budget without a period is for ever": func(t *testing.T, s billing.Store) {
			setBudget(t, s, pointer(3*usd), "")
			equal(t, "granted", lease(t, s, node, budget(billing.Never, 5*usd)), []billing.Lease{budget(billing.Never, 3*usd)})
		},
		"a new budget counts what was settled before it": newBudgets,
		"a limit without a period is for ever": func(t *testing.T, s billing.Store) {
			check(t, s.CreateKey(t.Context(), newKey("key_2", org, pointer(3*usd), "")))
			equal(t, "granted", lease(t, s, node, keySpend("key_2", billing.Never, 5*usd)),
				[]billing.Lease{keySpend("key_2", billing.Never, 3*usd)})
		},
		"an unknown key and an unknown organization get nothing": func(t *testing.T, s billing.Store) {
			unknown := billing.Lease{Allowance: billing.CreditsOf("nobody"), Amount: usd}
			granted := lease(t, s, node, keySpend("key_x", billing.Never, usd), unknown)
			equal(t, "granted", []billing.Money{granted[0].Amount, granted[1].Amount}, []billing.Money{0, 0})
			equal(t, "leases", leasesOf(t, s, node), nil)
		},
		"an unknown organization has no budget": func(t *testing.T, s billing.Store) {
			unknown := billing.Lease{Allowance: billing.BudgetOf("nobody", billing.Daily, noon, billing.Sunday), Amount: usd}
			equal(t, "granted", lease(t, s, node, unknown), []billing.Lease{unknown})
		},
		"the same allowance wanted twice shares one limit": func(t *testing.T, s billing.Store) {
			buy(t, s, 10*usd)
			equal(t, "granted", lease(t, s, node, credits(7*usd), credits(7*usd)),
				[]billing.Lease{credits(7 * usd), credits(3 * usd)})
			equal(t, "leases", leasesOf(t, s, node), []billing.Lease{credits(10 * usd)})
			balanced(t, s)
		},
		"a new limit counts what was settled before it": newLimits,
		"what is settled beyond the limit is granted to no one": func(t *testing.T, s billing.Store) {
			buy(t, s, usd)
			post(t, s, node, settlement(1, 5*usd))
			equal(t, "overspent", lease(t, s, node, credits(1)), []billing.Lease{credits(0)})
			equal(t, "balance", balanceOf(t, s, org), -4*usd)
			balanced(t, s)
		},
		"returned leases can be granted again":         returnsLeases,
		"all of a node's leases return":                returnsAllLeases,
		"settlements come out of the node's own lease": settlesFromLeases,
		"malformed allowances are refused":             refusesAllowances,
	})
}

func newLimits(t *testing.T, s billing.Store) {
	post(t, s, node, settlement(1, 2*usd), settlement(2, usd))
	for _, p := range billing.Periods {
		_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
			k.UsageLimit, k.UsageLimitReset = pointer(5*usd), p
			return nil
		})
		check(t, err)
		equal(t, "room in "+string(p), lease(t, s, node, keySpend(key, p, 9*usd)),
			[]billing.Lease{keySpend(key, p, 2*usd)})
		next := keySpend(key, p, 9*usd)
		if p != billing.Never {
			next.Allowance.Start = p.Start(noon.AddDate(0, 0, 31), billing.Sunday)
			equal(t, "room in the next "+string(p), lease(t, s, node, next)[0].Amount, 5*usd)
		}
		check(t, s.ReturnAll(t.Context(), node))
	}
	balanced(t, s)
}

func setBudget(t *testing.T, s billing.Store, limit *billing.Money, p billing.Period) {
	t.Helper()
	_, err := s.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
		o.Budget, o.BudgetPeriod = limit, p
		return nil
	})
	check(t, err)
}

func newBudgets(t *testing.T, s billing.Store) {
	post(t, s, node, settlement(1, 2*usd), settlement(2, usd))
	for _, p := range billing.Periods {
		setBudget(t, s, pointer(5*usd), p)
		equal(t, "room in "+string(p), lease(t, s, node, budget(p, 9*usd)), []billing.Lease{budget(p, 2*usd)})
		if p != billing.Never {
			next := billing.Lease{Allowance: billing.BudgetOf(org, p, noon.AddDate(0, 0, 31), billing.Sunday), Amount: 9 * usd}
			equal(t, "room in the next "+string(p), lease(t, s, node, next)[0].Amount, 5*usd)
		}
		setBudget(t, s, pointer(4*usd), p)
		equal(t, "room below what is leased of "+string(p), lease(t, s, node, budget(p, 1))[0].Amount, 0)
		setBudget(t, s, nil, p)
		equal(t, "room without a budget", lease(t, s, node, budget(p, usd))[0].Amount, usd)
		check(t, s.ReturnAll(t.Context(), node))
	}
	balanced(t, s)
}

func returnsLeases(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	lease(t, s, node, credits(8*usd), budget(billing.Daily, usd))
	lease(t, s, "node_2", credits(2*usd))

	check(t, s.Return(t.Context(), node, []billing.Lease{credits(2 * usd), credits(usd), budget(billing.Daily, usd)}))
	equal(t, "after a part", leasesOf(t, s, node), []billing.Lease{credits(5 * usd)})
	check(t, s.Return(t.Context(), node, []billing.Lease{credits(math.MaxInt64), credits(usd), budget(billing.Weekly, usd)}))
	equal(t, "after more than there was", leasesOf(t, s, node), nil)
	equal(t, "of the other node", leasesOf(t, s, "node_2"), []billing.Lease{credits(2 * usd)})
	balanced(t, s)
	equal(t, "granted again", lease(t, s, "node_3", credits(10*usd)), []billing.Lease{credits(8 * usd)})
}

func returnsAllLeases(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	lease(t, s, node, credits(8*usd), budget(billing.Daily, usd), keySpend(key, billing.Never, usd))
	lease(t, s, "node_2", credits(usd))
	check(t, s.ReturnAll(t.Context(), node))
	equal(t, "leases", leasesOf(t, s, node), nil)
	equal(t, "leases of the other node", leasesOf(t, s, "node_2"), []billing.Lease{credits(usd)})
	equal(t, "granted again", lease(t, s, node, credits(10*usd)), []billing.Lease{credits(9 * usd)})
	check(t, s.ReturnAll(t.Context(), "node_without_leases"))
	balanced(t, s)
}

func settlesFromLeases(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	lease(t, s, node, credits(4*usd), budget(billing.Daily, 2*usd), budget(billing.Weekly, 3*usd), keySpend(key, billing.Monthly, usd))
	lease(t, s, "node_2", credits(3*usd))

	post(t, s, node, settlement(1, usd), settlement(2, usd))
	equal(t, "leases, by key, kind and period", leasesOf(t, s, node), []billing.Lease{
		budget(billing.Weekly, usd), credits(2 * usd), // the daily one is spent, and the key's outspent
	})
	equal(t, "leases of the other node", leasesOf(t, s, "node_2"), []billing.Lease{credits(3 * usd)})
	// 2 settled, 2 and 3 leased, of 10.
	equal(t, "room", lease(t, s, "node_3", credits(10*usd)), []billing.Lease{credits(3 * usd)})
	balanced(t, s)
}

func refusesAllowances(t *testing.T, s billing.Store) {
	change := func(l billing.Lease, f func(*billing.Lease)) billing.Lease {
		f(&l)
		return l
	}
	for name, l := range map[string]billing.Lease{
		"negative amount":       credits(-1),
		"unknown kind":          change(credits(1), func(l *billing.Lease) { l.Allowance.Kind = "debt" }),
		"unknown period":        change(budget(billing.Daily, 1), func(l *billing.Lease) { l.Allowance.Period = "hourly" }),
		"credits with a period": change(budget(billing.Daily, 1), func(l *billing.Lease) { l.Allowance.Kind = billing.Credits }),
		"budget with a key":     change(budget(billing.Daily, 1), func(l *billing.Lease) { l.Allowance.Subject = key }),
		"key spend without key": keySpend("", billing.Daily, 1),
		"project without name":  change(budget(billing.Daily, 1), func(l *billing.Lease) { l.Allowance.Kind = billing.ProjectBudget }),
		"week from a Friday":    change(budget(billing.Weekly, 1), func(l *billing.Lease) { l.Allowance.Start = l.Allowance.Start.AddDate(0, 0, 5) }),
		"no organization":       change(credits(1), func(l *billing.Lease) { l.Allowance.OrganizationID = "" }),
		"start inside a period": change(budget(billing.Daily, 1), func(l *billing.Lease) { l.Allowance.Start = noon }),
	} {
		if granted, err := s.Lease(t.Context(), node, needs(l)); err == nil {
			t.Errorf("%s: granted %v", name, granted)
		}
		if s.Return(t.Context(), node, []billing.Lease{l}) == nil {
			t.Errorf("%s: returned", name)
		}
	}
	equal(t, "leases", leasesOf(t, s, node), nil)
}
