package billingtest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func (m *model) balance(org string) (sum billing.Money) {
	for _, e := range m.entries {
		if e.OrganizationID == org {
			sum += e.Amount
		}
	}
	return sum
}

// leasesOf returns what a node has, in the order that a store lists it.
func (m *model) leasesOf(node string) []billing.Lease {
	var leases []billing.Lease
	for a, amount := range maps.All(m.leases[node]) {
		if amount > 0 {
			leases = append(leases, billing.Lease{Allowance: a, Amount: amount})
		}
	}
	slices.SortFunc(leases, func(x, y billing.Lease) int {
		a, b := x.Allowance, y.Allowance
		return cmp.Or(cmp.Compare(a.OrganizationID, b.OrganizationID), cmp.Compare(a.Subject, b.Subject),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Period, b.Period), a.Start.Compare(b.Start))
	})
	return leases
}

func (m *model) compare() {
	for _, node := range modelNodes {
		equal(m.t, "leases of "+node, leasesOf(m.t, m.store, node), m.leasesOf(node))
	}
	for _, o := range []string{org, other} {
		equal(m.t, "balance of "+o, balanceOf(m.t, m.store, o), m.balance(o))
	}
	equal(m.t, "failed checks", verify(m.t, m.store, billing.Incremental).Failed(), nil)
	allowances := slices.Collect(maps.Keys(m.settled))
	spend, err := m.store.Spend(m.t.Context(), allowances)
	check(m.t, err)
	for i, a := range allowances {
		equal(m.t, fmt.Sprintf("spend of %+v", a), spend[i], m.settled[a])
	}
}

func (m *model) compareReports() {
	balanced(m.t, m.store)
	for _, o := range []string{org, other} {
		entries, err := m.store.Transactions(m.t.Context(), o, billing.EntryFilter{}, billing.Page{Limit: 10_000})
		check(m.t, err)
		var amounts, want []billing.Money
		for _, e := range slices.Backward(entries) {
			amounts = append(amounts, e.Amount)
		}
		for _, e := range m.entries {
			if e.OrganizationID == o {
				want = append(want, e.Amount)
			}
		}
		equal(m.t, "entries of "+o, amounts, want)

		rows, err := m.store.Requests(m.t.Context(), o, billing.Filter{}, billing.Page{Limit: 10_000})
		check(m.t, err)
		var requests []billing.Settlement
		for _, r := range m.requests {
			if r.OrganizationID == o {
				requests = append(requests, r)
			}
		}
		slices.SortFunc(requests, newestFirst)
		equal(m.t, "requests of "+o, rows, requests)
	}
}
