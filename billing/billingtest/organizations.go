package billingtest

import (
	"errors"
	"sync"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testOrganizations(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"an account starts with nothing": func(t *testing.T, s billing.Store) {
			got, err := s.Account(t.Context(), org)
			check(t, err)
			equal(t, "account", got, billing.Account{
				Organization: billing.Organization{ID: org, Name: "Name of " + org, CreatedAt: noon},
			})
		},
		"an unknown organization is not found": func(t *testing.T, s billing.Store) {
			_, err := s.Account(t.Context(), "nobody")
			equal(t, "error", err, billing.ErrNotFound)
		},
		"ensuring again changes nothing": func(t *testing.T, s billing.Store) {
			check(t, s.EnsureOrganization(t.Context(), billing.Organization{ID: org, Name: "other", CreatedAt: noon}))
			got, err := s.Account(t.Context(), org)
			check(t, err)
			equal(t, "name", got.Organization.Name, "Name of "+org)
		},
		"all fields are kept":                                 keepsAllFieldsOfOrganizations,
		"an update writes what may change":                    updatesOrganizations,
		"a failed update changes nothing":                     refusesOrganizations,
		"updates at the same time all count":                  serializesOrganizations,
		"an organization is created once":                     createsOrganizations,
		"organizations are listed by id, with their balances": listsOrganizations,
		"a store answers a ping until it is closed": func(t *testing.T, s billing.Store) {
			check(t, s.Ping(t.Context()))
			check(t, s.Close())
			if s.Ping(t.Context()) == nil {
				t.Error("closed store answers")
			}
		},
	})
}

func fullOrganization() billing.Organization {
	return billing.Organization{
		ID: "org_full", Name: "Full", CreatedAt: noon, Budget: pointer(25 * usd), BudgetPeriod: billing.Monthly, HoldStrict: true,
		BudgetSoft: pointer(20 * usd), WeekStart: billing.Monday, RateLimitRPM: 600,
	}
}

// organization reads one, also as part of its account.
func organization(t *testing.T, s billing.Store, id string) billing.Organization {
	t.Helper()
	o, err := s.Organization(t.Context(), id)
	check(t, err)
	a, err := s.Account(t.Context(), id)
	check(t, err)
	equal(t, "organization of the account", a.Organization, o)
	return o
}

func keepsAllFieldsOfOrganizations(t *testing.T, s billing.Store) {
	want := fullOrganization()
	check(t, s.EnsureOrganization(t.Context(), want))
	equal(t, "organization", organization(t, s, want.ID), want)
	equal(t, "organization without options", organization(t, s, org),
		billing.Organization{ID: org, Name: "Name of " + org, CreatedAt: noon})
	_, err := s.Organization(t.Context(), "nobody")
	equal(t, "error for an unknown one", err, billing.ErrNotFound)
}

func updatesOrganizations(t *testing.T, s billing.Store) {
	before := fullOrganization()
	check(t, s.EnsureOrganization(t.Context(), before))
	want := before
	want.Name, want.Budget, want.BudgetPeriod, want.HoldStrict = "New", pointer(billing.Money(0)), billing.Never, false
	got, err := s.UpdateOrganization(t.Context(), before.ID, func(o *billing.Organization) error {
		equal(t, "before", *o, before)
		*o = want
		o.ID, o.CreatedAt = "org_x", noon.AddDate(1, 0, 0)
		return nil
	})
	check(t, err)
	equal(t, "answer", got, want)
	equal(t, "organization", organization(t, s, before.ID), want)

	want.Budget = nil
	_, err = s.UpdateOrganization(t.Context(), before.ID, func(o *billing.Organization) error {
		o.Budget = nil
		return nil
	})
	check(t, err)
	equal(t, "without a budget", organization(t, s, before.ID), want)
}

func refusesOrganizations(t *testing.T, s billing.Store) {
	before := fullOrganization()
	check(t, s.EnsureOrganization(t.Context(), before))
	failed := errors.New("no")
	for name, change := range map[string]func(*billing.Organization) error{
		"own error":       func(o *billing.Organization) error { o.Name = "changed"; return failed },
		"negative budget": func(o *billing.Organization) error { o.Budget = pointer(-usd); return nil },
		"unknown week":    func(o *billing.Organization) error { o.WeekStart = "friday"; return nil },
		"unknown period":  func(o *billing.Organization) error { o.BudgetPeriod = "hourly"; return nil },
	} {
		if _, err := s.UpdateOrganization(t.Context(), before.ID, change); err == nil {
			t.Errorf("%s: was changed", name)
		}
	}
	_, err := s.UpdateOrganization(t.Context(), before.ID, func(*billing.Organization) error { return failed })
	equal(t, "error", err, failed)
	equal(t, "organization", organization(t, s, before.ID), before)
	_, err = s.UpdateOrganization(t.Context(), "nobody", func(*billing.Organization) error { return nil })
	equal(t, "error for an unknown one", err, billing.ErrNotFound)
	if s.EnsureOrganization(t.Context(), billing.Organization{ID: "org_x", Budget: pointer(-usd)}) == nil {
		t.Error("created with a negative budget")
	}
}

func serializesOrganizations(t *testing.T, s billing.Store) {
	const writers = 8
	setBudget(t, s, pointer(billing.Money(0)), billing.Daily)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			_, err := s.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
				*o.Budget += usd
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	equal(t, "budget", *organization(t, s, org).Budget, writers*usd)
}

func createsOrganizations(t *testing.T, s billing.Store) {
	want := fullOrganization()
	owner, admin := invited("mem_1", "", "a@example.com", billing.RoleOwner), joined("mem_2", "", billing.RoleAdmin)
	check(t, s.CreateOrganization(t.Context(), want, owner, admin))
	equal(t, "organization", organization(t, s, want.ID), want)
	for _, m := range []billing.Member{owner, admin} {
		m.OrganizationID = want.ID
		equal(t, "member", member(t, s, want.ID, m.ID), m)
	}
	again := billing.Organization{ID: want.ID, Name: "Again"}
	equal(t, "error", s.CreateOrganization(t.Context(), again, invited("mem_3", "", "b@example.com", billing.RoleOwner)), billing.ErrExists)
	equal(t, "organization", organization(t, s, want.ID), want)

	fresh := billing.Organization{ID: "org_fresh", Name: "Fresh", CreatedAt: noon}
	for name, members := range map[string][]billing.Member{
		"no address": {{ID: "mem_4", Role: billing.RoleOwner}},
		"twice":      {owner, invited("mem_5", "", owner.Email, billing.RoleViewer)},
	} {
		if s.CreateOrganization(t.Context(), fresh, members...) == nil {
			t.Errorf("%s: was created", name)
		}
		_, err := s.Organization(t.Context(), fresh.ID)
		equal(t, name, err, billing.ErrNotFound)
	}
	for _, o := range []billing.Organization{{}, {ID: "org_x", Budget: pointer(-usd)}} {
		if s.CreateOrganization(t.Context(), o) == nil {
			t.Errorf("%+v was created", o)
		}
	}
	check(t, s.CreateOrganization(t.Context(), fresh))
}

func listsOrganizations(t *testing.T, s billing.Store) {
	full := fullOrganization()
	full.ID = "Org"
	check(t, s.CreateOrganization(t.Context(), full))
	buy(t, s, 7*usd)
	all, err := s.ListOrganizations(t.Context(), billing.Page{})
	check(t, err)
	equal(t, "accounts", all, []billing.Account{
		{Organization: full},
		{Organization: organization(t, s, org), Balance: 7 * usd},
		{Organization: organization(t, s, other)},
	})
	for _, limit := range []int{1, 2, 3} {
		got := pages(t, limit, func(page billing.Page) ([]billing.Account, error) {
			return s.ListOrganizations(t.Context(), page)
		}, func(a billing.Account) string { return a.Organization.ID })
		equal(t, "ids", got, []string{"Org", org, other})
	}
}
