package caddymodule

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const aBitMoreThanACent = `{"model":"gpt-4o","max_tokens":1000,"messages":[{"role":"user","content":"Hello"}]}`

var costsACent = []string{"X-Sandbox-Prompt", "1000", "X-Sandbox-Completion", "750"}

// budget sets a project's budget as the management API does.
func (n *node) budget(t *testing.T, name string, change func(*billing.Project)) {
	t.Helper()
	p, err := n.app.Store().PutProject(t.Context(), billing.DefaultOrganization, name, func(p *billing.Project) error {
		change(p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.app.ProjectChanged(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func inProject(name string) func(*billing.Key) { return func(k *billing.Key) { k.Project = name } }

func TestKeysOfAProjectShareItsBudget(t *testing.T) {
	n := start(t, "")
	n.buy(t, 10*metering.USD)
	search := []string{n.key(t, inProject("search")), n.key(t, inProject("search"))}
	other := n.key(t, inProject("support"))
	for i, step := range []struct {
		budget billing.Money // in cents; none if it is below 0
		key    string
		want   string
	}{
		{-1, search[0], ""},
		{3, search[1], ""}, // of which one was spent before there was a budget
		{3, search[0], "budget_exceeded"},
		{3, search[1], "budget_exceeded"},
		{3, other, ""},
		{4, search[0], ""},
		{-1, search[1], ""},
	} {
		n.budget(t, "search", func(p *billing.Project) {
			p.BudgetPeriod, p.Budget = billing.Weekly, nil
			if step.budget >= 0 {
				p.Budget = new(step.budget * cent)
			}
		})
		if status, refused := n.ask(t, step.key, aBitMoreThanACent, costsACent...); refused != step.want || (status == 200) != (step.want == "") {
			t.Errorf("step %d: %d %q, want %q", i, status, refused, step.want)
		}
	}
	n.spent(t) // all is posted then
	week := billing.Allowance{
		OrganizationID: billing.DefaultOrganization, Kind: billing.ProjectBudget, Subject: "search",
		Period: billing.Weekly, Start: billing.Weekly.Start(time.Now(), billing.Sunday),
	}
	if spent, err := n.app.Store().Spend(t.Context(), []billing.Allowance{week}); err != nil || spent[0] != 4*cent {
		t.Errorf("the project has spent %v (%v), want 0.04", spent, err)
	}
	n.checkBooks(t)
}

func TestRefusalSaysWhoseBudgetItIs(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, inProject("search"))
	nothing := new(billing.Money(0))
	n.budget(t, "search", func(p *billing.Project) { p.Budget = nothing })
	want := `{"error":"budget_exceeded","message":"the budget of project \"search\" does not cover this request"}`
	if got := read(t, n.do(t, "POST", chat, key, hello)); got != want {
		t.Errorf("project's: %s, want %s", got, want)
	}
	n.organize(t, func(o *billing.Organization) { o.Budget = nothing })
	want = `{"error":"budget_exceeded","message":"the organization's budget does not cover this request"}`
	if got := read(t, n.do(t, "POST", chat, key, hello)); got != want {
		t.Errorf("organization's: %s, want %s", got, want)
	}
}

func TestClientsAreWarnedFromTheSoftLimitOn(t *testing.T) {
	n := start(t, "week_start monday")
	n.buy(t, 10*metering.USD)
	soft := n.key(t, func(k *billing.Key) { k.UsageSoftLimit, k.UsageLimitReset = new(2*cent), billing.Daily })
	project := n.key(t, inProject("search"))
	free := n.key(t, nil)
	warned := func(key, body string) string {
		t.Helper()
		res := n.do(t, "POST", chat, key, body, costsACent...)
		read(t, res)
		if res.StatusCode != 200 {
			t.Errorf("a soft limit refuses: %d", res.StatusCode)
		}
		return res.Header.Get("X-Budget-Warning")
	}
	const yes = "approaching_limit"
	streamed := strings.Replace(aBitMoreThanACent, "{", `{"stream":true,`, 1)
	for i, step := range []struct{ key, body, want string }{
		{soft, aBitMoreThanACent, ""},
		{soft, streamed, ""},
		{free, aBitMoreThanACent, ""},
		{soft, aBitMoreThanACent, yes}, // its own two cents
		{soft, streamed, yes},
		{free, aBitMoreThanACent, ""},
	} {
		if got := warned(step.key, step.body); got != step.want {
			t.Errorf("step %d: X-Budget-Warning is %q, want %q", i, got, step.want)
		}
	}
	// 6 cents are spent, none of it by the project.
	n.budget(t, "search", func(p *billing.Project) { p.BudgetSoft, p.BudgetPeriod = new(cent), billing.Weekly })
	n.organize(t, func(o *billing.Organization) { o.BudgetSoft, o.BudgetPeriod = new(7*cent), billing.Monthly })
	for i, want := range []string{"", yes} {
		if got := warned(project, aBitMoreThanACent); got != want {
			t.Errorf("project, request %d: X-Budget-Warning is %q, want %q", i, got, want)
		}
	}
	if got := warned(free, aBitMoreThanACent); got != yes {
		t.Errorf("organization: X-Budget-Warning is %q, want %q", got, yes)
	}
	n.checkBooks(t)
}

// A week ends in the middle of 1,000 requests: each one counts in the week that
// it arrived in, and both weeks have the whole budget.
func TestAWeekEndsInTheMiddleOfRequests(t *testing.T) {
	const requests, clients, limit = 1000, 16, 3 * metering.USD
	n := start(t, "week_start saturday")
	n.buy(t, 100*metering.USD)
	key := n.key(t, nil)
	monday := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	n.organize(t, func(o *billing.Organization) {
		o.Budget, o.BudgetPeriod, o.WeekStart = new(limit), billing.Weekly, billing.Monday
	})
	var sent atomic.Int64
	n.app.engine.clock.Store(new(func() time.Time {
		if sent.Load() <= requests/2 {
			return monday.Add(-1)
		}
		return monday
	}))
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for sent.Add(1) <= requests {
				if status, refused := n.ask(t, key, aBitMoreThanACent, costsACent...); status != 200 && refused != "budget_exceeded" {
					t.Errorf("%d %q", status, refused)
				}
			}
		})
	}
	group.Wait()
	n.spent(t) // all is posted then

	var served [2]billing.Money
	rows, err := n.app.Store().Requests(t.Context(), billing.DefaultOrganization, billing.Filter{}, billing.Page{Limit: 2 * requests})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row.At.Before(monday) {
			served[0] += row.Cost
		} else {
			served[1] += row.Cost
		}
	}
	spent, err := n.app.Store().Spend(t.Context(), []billing.Allowance{
		billing.BudgetOf(billing.DefaultOrganization, billing.Weekly, monday.Add(-1), billing.Monday),
		billing.BudgetOf(billing.DefaultOrganization, billing.Weekly, monday, billing.Monday),
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(served[:], spent); diff != "" {
		t.Errorf("rows and spend of the weeks (-rows +spend):\n%s", diff)
	}
	for i, week := range spent {
		// A request holds up to a tenth more than it costs.
		if week > limit || week < limit-cent*12/10 {
			t.Errorf("week %d: spent %s of %s", i, week, limit)
		}
	}
	n.checkBooks(t)
}
