package billingtest

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testProjects(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"all fields are kept":                            keepsProjects,
		"a failed change changes nothing":                refusesProjects,
		"projects are listed by name, page by page":      listsProjects,
		"each change advances the version of keys":       advancesVersionByProject,
		"keys of a project share its budget":             sharesProjectBudget,
		"a project's budget counts what was before":      newProjectBudgets,
		"projects of organizations are not each other's": keepsProjectsApart,
	})
}

// projectSpend is of the project that tests use.
func projectSpend(p billing.Period, amount billing.Money) billing.Lease {
	l := budget(p, amount)
	l.Allowance.Kind, l.Allowance.Subject = billing.ProjectBudget, "search"
	return l
}

func putProject(t *testing.T, s billing.Store, name string, limit *billing.Money, p billing.Period) billing.Project {
	t.Helper()
	put, err := s.PutProject(t.Context(), org, name, func(project *billing.Project) error {
		project.Budget, project.BudgetPeriod = limit, p
		return nil
	})
	check(t, err)
	return put
}

// anyProject lets a project be deleted.
func anyProject(billing.Project) error { return nil }

func keepsProjects(t *testing.T, s billing.Store) {
	_, err := s.Project(t.Context(), org, "search")
	equal(t, "error before", err, billing.ErrNotFound)
	first := putProject(t, s, "search", pointer(5*usd), billing.Weekly)
	if first.CreatedAt.IsZero() {
		t.Error("a new project has no time of creation")
	}
	want := first
	want.Budget, want.BudgetPeriod, want.BudgetSoft = nil, billing.Never, pointer(2*usd)
	got, err := s.PutProject(t.Context(), org, "search", func(p *billing.Project) error {
		equal(t, "before", *p, first)
		*p = want
		p.OrganizationID, p.Name, p.CreatedAt = other, "x", noon
		return nil
	})
	check(t, err)
	equal(t, "answer", got, want)
	got, err = s.Project(t.Context(), org, "search")
	check(t, err)
	equal(t, "stored", got, want)

	failed := errors.New("no")
	err = s.DeleteProject(t.Context(), org, "search", func(p billing.Project) error {
		equal(t, "checked", p, want)
		return failed
	})
	equal(t, "error of a refused deletion", err, failed)
	got, err = s.Project(t.Context(), org, "search")
	check(t, err)
	equal(t, "not deleted", got, want)
	check(t, s.DeleteProject(t.Context(), org, "search", anyProject))
	_, err = s.Project(t.Context(), org, "search")
	equal(t, "error after", err, billing.ErrNotFound)
	equal(t, "error of another deletion", s.DeleteProject(t.Context(), org, "search", anyProject), billing.ErrNotFound)
}

func refusesProjects(t *testing.T, s billing.Store) {
	before := putProject(t, s, "search", pointer(5*usd), billing.Weekly)
	failed := errors.New("no")
	for name, change := range map[string]func(*billing.Project) error{
		"own error":       func(p *billing.Project) error { p.Budget = nil; return failed },
		"negative budget": func(p *billing.Project) error { p.Budget = pointer(-usd); return nil },
		"negative soft":   func(p *billing.Project) error { p.BudgetSoft = pointer(-usd); return nil },
		"unknown period":  func(p *billing.Project) error { p.BudgetPeriod = "hourly"; return nil },
	} {
		if _, err := s.PutProject(t.Context(), org, "search", change); err == nil {
			t.Errorf("%s: was changed", name)
		}
	}
	got, err := s.Project(t.Context(), org, "search")
	check(t, err)
	equal(t, "stored", got, before)
	same := func(*billing.Project) error { return nil }
	_, err = s.PutProject(t.Context(), "nobody", "search", same)
	equal(t, "error for an unknown organization", err, billing.ErrNotFound)
	for _, name := range []string{"", string(make([]byte, 65)), "a\x00b", "\xff"} {
		if _, err := s.PutProject(t.Context(), org, name, same); err == nil {
			t.Errorf("there is a project %q", name)
		}
	}
}

func listsProjects(t *testing.T, s billing.Store) {
	for _, name := range []string{"b", "a", "B", "ä"} {
		putProject(t, s, name, nil, "")
	}
	var names []string
	var page billing.Page
	for page.Limit = 3; ; page.After = names[len(names)-1] {
		projects, err := s.ListProjects(t.Context(), org, page)
		check(t, err)
		for _, p := range projects {
			names = append(names, p.Name)
		}
		if len(projects) < page.Limit {
			break
		}
	}
	equal(t, "names", names, []string{"B", "a", "b", "ä"})
}

func advancesVersionByProject(t *testing.T, s billing.Store) {
	before, err := s.Changes(t.Context(), math.MaxInt64)
	check(t, err)
	for name, change := range []func(){
		func() { putProject(t, s, "search", nil, "") },
		func() { check(t, s.DeleteProject(t.Context(), org, "search", anyProject)) },
	} {
		change()
		after, err := s.Changes(t.Context(), before.Version)
		check(t, err)
		if after.Version <= before.Version || !slices.Equal(after.Organizations, []string{org}) {
			t.Errorf("change %d: %+v after version %d", name, after, before.Version)
		}
		before = after
	}
}

func sharesProjectBudget(t *testing.T, s billing.Store) {
	putProject(t, s, "search", pointer(5*usd), billing.Weekly)
	second := settlement(2, usd)
	second.KeyID = "key_2"
	loose := settlement(3, usd)
	loose.Project = ""
	lease(t, s, node, projectSpend(billing.Weekly, 3*usd))
	post(t, s, node, settlement(1, usd), second, loose)
	equal(t, "leases", leasesOf(t, s, node), []billing.Lease{projectSpend(billing.Weekly, usd)})
	equal(t, "granted", lease(t, s, "node_2", projectSpend(billing.Weekly, 9*usd), projectSpend(billing.Daily, usd)),
		[]billing.Lease{projectSpend(billing.Weekly, 2*usd), projectSpend(billing.Daily, 0)})
	balanced(t, s)
	check(t, s.DeleteProject(t.Context(), org, "search", anyProject))
	equal(t, "granted without a budget", lease(t, s, node, projectSpend(billing.Weekly, 9*usd))[0].Amount, 9*usd)
	balanced(t, s)
}

func newProjectBudgets(t *testing.T, s billing.Store) {
	post(t, s, node, settlement(1, 2*usd), settlement(2, usd))
	for _, p := range billing.Periods {
		putProject(t, s, "search", pointer(5*usd), p)
		equal(t, "room in "+string(p), lease(t, s, node, projectSpend(p, 9*usd))[0].Amount, 2*usd)
		check(t, s.ReturnAll(t.Context(), node))
	}
	balanced(t, s)
}

func keepsProjectsApart(t *testing.T, s billing.Store) {
	putProject(t, s, "search", pointer(billing.Money(0)), billing.Never)
	elsewhere := projectSpend(billing.Never, usd)
	elsewhere.Allowance.OrganizationID = other
	equal(t, "granted", lease(t, s, node, elsewhere), []billing.Lease{elsewhere})
	_, err := s.Project(t.Context(), other, "search")
	equal(t, "error", err, billing.ErrNotFound)
	equal(t, "error of a deletion", s.DeleteProject(t.Context(), other, "search", anyProject), billing.ErrNotFound)
	projects, err := s.ListProjects(t.Context(), other, billing.Page{})
	check(t, err)
	equal(t, "projects", projects, nil)
}
