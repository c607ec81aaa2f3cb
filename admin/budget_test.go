package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// budgetView reads an answer as a client would, without the times.
func (c client) budgetView(a answer) map[string]any {
	c.t.Helper()
	v := decode[map[string]any](c.t, a.want(c.t, http.StatusOK))
	delete(v, "period_start")
	delete(v, "period_end")
	return v
}

func TestBudgetIsReplacedByWhatIsNamed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	if got, want := c.budgetView(c.do(http.MethodGet, "/v1/budget", "")), decode[map[string]any](t, answer{body: `{"max_dollars":null,
		"max_nanos":null,"soft_dollars":null,"period":"never","week_start":"sunday","hold":"estimate","rate_limit_rpm":null,"spent_nanos":0}`}); !cmp.Equal(got, want) {
		t.Errorf("at first: %v", got)
	}
	for i, x := range []struct{ body, want string }{
		{`{"max_dollars":"100.000000001","period":"monthly","hold":"strict"}`,
			`{"max_dollars":100.000000001,"max_nanos":100000000001,"soft_dollars":null,"period":"monthly","week_start":"sunday","hold":"strict","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"max_dollars":2.5e1}`, `{"max_dollars":25,"max_nanos":25000000000,"soft_dollars":null,"period":"monthly","week_start":"sunday","hold":"strict","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"period":"daily"}`, `{"max_dollars":25,"max_nanos":25000000000,"soft_dollars":null,"period":"daily","week_start":"sunday","hold":"strict","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"hold":"estimate","max_dollars":0}`, `{"max_dollars":0,"max_nanos":0,"soft_dollars":null,"period":"daily","week_start":"sunday","hold":"estimate","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{}`, `{"max_dollars":0,"max_nanos":0,"soft_dollars":null,"period":"daily","week_start":"sunday","hold":"estimate","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"hold":"strict","max_dollars":null}`, `{"max_dollars":null,"max_nanos":null,"soft_dollars":null,"period":"daily","week_start":"sunday","hold":"strict","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"max_dollars":9,"soft_dollars":"8.999999999","week_start":"monday","rate_limit_rpm":600}`,
			`{"max_dollars":9,"max_nanos":9000000000,"soft_dollars":8.999999999,"period":"daily","week_start":"monday","hold":"strict","rate_limit_rpm":600,"spent_nanos":0}`},
		{`{"max_dollars":null,"soft_dollars":10}`,
			`{"max_dollars":null,"max_nanos":null,"soft_dollars":10,"period":"daily","week_start":"monday","hold":"strict","rate_limit_rpm":600,"spent_nanos":0}`},
		{`{"max_dollars":null,"soft_dollars":null,"week_start":null,"rate_limit_rpm":null}`,
			`{"max_dollars":null,"max_nanos":null,"soft_dollars":null,"period":"daily","week_start":"sunday","hold":"strict","rate_limit_rpm":null,"spent_nanos":0}`},
		{`{"period":null,"hold":null}`, `{"max_dollars":null,"max_nanos":null,"soft_dollars":null,"period":"never","week_start":"sunday","hold":"estimate","rate_limit_rpm":null,"spent_nanos":0}`},
	} {
		want := decode[map[string]any](t, answer{body: x.want})
		for how, a := range map[string]answer{
			"changed": c.do(http.MethodPut, "/v1/budget", x.body), "read": c.do(http.MethodGet, "/v1/budget", ""),
		} {
			if diff := cmp.Diff(want, c.budgetView(a)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", x.body, how, diff)
			}
		}
		stored, err := g.store.Organization(t.Context(), billing.DefaultOrganization)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.orgs) != i+1 || !cmp.Equal(g.orgs[i], stored) {
			t.Errorf("%s: stored %+v, announced %+v", x.body, stored, g.orgs)
		}
	}
}

func TestFaultyBudgetsAreRefusedByField(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	before := c.do(http.MethodPut, "/v1/budget", `{"max_dollars":5,"period":"weekly"}`).want(t, http.StatusOK).body
	for _, x := range []struct{ field, value string }{
		{"max_dollars", `-0.01`}, {"max_dollars", `"-1"`}, {"max_dollars", `0.0000000001`}, {"max_dollars", `1e400`},
		{"max_dollars", `1e10`}, {"max_dollars", `"1,000"`}, {"max_dollars", `true`}, {"max_dollars", `""`},
		{"period", `"yearly"`}, {"period", `""`}, {"period", `1`},
		{"hold", `"lax"`}, {"hold", `true`}, {"hold", `""`},
		{"soft_dollars", `-1`}, {"soft_dollars", `0.0000000001`}, {"soft_dollars", `"9223372037"`}, {"soft_dollars", `5.000000001`},
		{"week_start", `"friday"`}, {"week_start", `""`}, {"week_start", `1`},
		{"rate_limit_rpm", `-1`}, {"rate_limit_rpm", `1.5`}, {"rate_limit_rpm", `1e300`},
		{"soft_limit", `1`}, {"max_nanos", `1`}, {"spent_nanos", `0`},
	} {
		body := fmt.Sprintf(`{"hold":"strict",%q:%s}`, x.field, x.value)
		if x.field == "hold" {
			body = fmt.Sprintf(`{"hold":%s}`, x.value)
		}
		c.do(http.MethodPut, "/v1/budget", body).want(t, http.StatusUnprocessableEntity, `"location":"body.`+x.field+`"`)
	}
	if after := c.do(http.MethodGet, "/v1/budget", "").body; after != before {
		t.Errorf("a refused change was made: %s", after)
	}
	if len(g.orgs) != 1 {
		t.Errorf("refused changes were announced: %+v", g.orgs)
	}
}

// Limits of keys, budgets and projects are checked alike: the field that was
// sent is at fault, once.
func TestSoftLimitAboveTheLimit(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	c.do(http.MethodPut, "/v1/budget", `{"max_dollars":5,"soft_dollars":4}`).want(t, http.StatusOK)
	for body, want := range map[string]string{
		`{"soft_dollars":6}`:                   `"details":[{"location":"body.soft_dollars","message":"expected at most max_dollars"}]}`,
		`{"max_dollars":2,"soft_dollars":3}`:   `"details":[{"location":"body.soft_dollars","message":"expected at most max_dollars"}]}`,
		`{"max_dollars":3}`:                    `"details":[{"location":"body.max_dollars","message":"expected at least soft_dollars, which is set already"}]}`,
		`{"max_dollars":"x"}`:                  `"details":[{"location":"body.max_dollars","message":"expected a decimal`,
		`{"max_dollars":"x","soft_dollars":6}`: `"details":[{"location":"body.max_dollars","message":"expected a decimal`,
	} {
		answer := c.do(http.MethodPut, "/v1/budget", body).want(t, http.StatusUnprocessableEntity, want)
		if n := strings.Count(answer.body, `"location"`); n != 1 {
			t.Errorf("%s: %d faults: %s", body, n, answer.body)
		}
	}
}

func TestBudgetIsThatOfTheNamedOrganization(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	now := time.Now()
	settlements := []billing.Settlement{
		{RequestID: billing.NewID("req", now), OrganizationID: otherOrg, KeyID: "key_1", At: now, Cost: metering.USD},
		{RequestID: billing.NewID("req", now), OrganizationID: otherOrg, KeyID: "key_2", At: now, Cost: 2},
	}
	if conflicts, err := g.store.Post(t.Context(), "node", settlements); err != nil || len(conflicts) > 0 {
		t.Fatal(conflicts, err)
	}
	other := c.with(organizationHeader, otherOrg)
	for _, period := range []string{"daily", "weekly", "monthly", "never"} {
		other.do(http.MethodPut, "/v1/budget", `{"period":"`+period+`"}`).want(t, http.StatusOK, `"spent_nanos":1000000002`)
	}
	c.do(http.MethodGet, "/v1/budget", "").want(t, http.StatusOK, `"spent_nanos":0`)
	c.with(organizationHeader, "nobody").do(http.MethodPut, "/v1/budget", `{}`).want(t, http.StatusNotFound, "no such organization")
}

func TestBudgetSaysWhenItsPeriodBeginsAndEnds(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	type times struct {
		Start *time.Time `json:"period_start"`
		End   *time.Time `json:"period_end"`
	}
	for period, longest := range map[string]time.Duration{
		"daily": 24 * time.Hour, "weekly": 7 * 24 * time.Hour, "monthly": 31 * 24 * time.Hour,
	} {
		got := decode[times](t, c.do(http.MethodPut, "/v1/budget", `{"period":"`+period+`"}`))
		if got.Start == nil || got.End == nil {
			t.Fatalf("%s: no times", period)
		}
		now, length := time.Now(), got.End.Sub(*got.Start)
		if now.Before(*got.Start) || !now.Before(*got.End) || length > longest || length < longest-3*24*time.Hour {
			t.Errorf("%s: from %s to %s", period, got.Start, got.End)
		}
	}
	if got := decode[times](t, c.do(http.MethodPut, "/v1/budget", `{"period":"never"}`)); got.Start != nil || got.End != nil {
		t.Errorf("never: from %s to %s", got.Start, got.End)
	}
}

func TestLimitBelowTheSoftLimitIsRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, path := range []string{"/v1/budget", "/v1/projects/search"} {
		c.do(http.MethodPut, path, `{"max_dollars":5,"soft_dollars":5}`).want(t, http.StatusOK)
		c.do(http.MethodPut, path, `{"max_dollars":4.999999999}`).want(t, http.StatusUnprocessableEntity, `"location":"body.max_dollars"`)
		c.do(http.MethodGet, path, "").want(t, http.StatusOK, `"max_dollars":5,`)
	}
}

func TestWeeksStartWhereTheOrganizationSays(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.week = billing.Saturday
	c := newClient(t, g)
	for body, want := range map[string]time.Weekday{
		`{"period":"weekly"}`:                         time.Saturday,
		`{"period":"weekly","week_start":"sunday"}`:   time.Sunday,
		`{"period":"weekly","week_start":"monday"}`:   time.Monday,
		`{"period":"weekly","week_start":"saturday"}`: time.Saturday,
	} {
		got := decode[struct {
			Start time.Time `json:"period_start"`
			End   time.Time `json:"period_end"`
		}](t, c.do(http.MethodPut, "/v1/budget", body))
		if got.Start.Weekday() != want || !got.End.Equal(got.Start.AddDate(0, 0, 7)) {
			t.Errorf("%s: from %s to %s, want from a %s", body, got.Start, got.End, want)
		}
		c.do(http.MethodPut, "/v1/budget", `{"week_start":null}`).want(t, http.StatusOK, `"week_start":"saturday"`)
	}
}
