package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestProjectsAreMadeChangedAndRemoved(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	const path = "/v1/projects/web.search"
	c.do(http.MethodGet, path, "").want(t, http.StatusNotFound, "no settings for a project of this name")
	for _, x := range []struct{ body, want string }{
		{`{}`, `"name":"web.search","max_dollars":null,"soft_dollars":null,"period":"never","spent_nanos":0,"period_start":null`},
		{`{"max_dollars":"20.000000001","soft_dollars":16,"period":"monthly"}`, `"max_dollars":20.000000001,"soft_dollars":16,"period":"monthly"`},
		{`{"soft_dollars":null}`, `"max_dollars":20.000000001,"soft_dollars":null,"period":"monthly"`},
		{`{"period":null,"max_dollars":0}`, `"max_dollars":0,"soft_dollars":null,"period":"never"`},
	} {
		c.do(http.MethodPut, path, x.body).want(t, http.StatusOK, x.want)
		c.do(http.MethodGet, path, "").want(t, http.StatusOK, x.want)
	}
	c.with(organizationHeader, otherOrg).do(http.MethodGet, path, "").want(t, http.StatusNotFound, "no settings for a project of this name")
	c.do(http.MethodDelete, path, "").want(t, http.StatusNoContent)
	c.do(http.MethodDelete, path, "").want(t, http.StatusNotFound, "no settings for a project of this name")
	c.do(http.MethodGet, path, "").want(t, http.StatusNotFound, "no settings for a project of this name")
	if len(g.projects) != 5 || g.projects[4].Name != "web.search" || g.projects[4].OrganizationID != billing.DefaultOrganization {
		t.Errorf("announced %+v, want four changes and a removal", g.projects)
	}
}

func TestFaultyProjectsAreRefusedByField(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	for _, x := range []struct{ field, value string }{
		{"max_dollars", `-1`}, {"max_dollars", `0.0000000001`}, {"max_dollars", `1e10`},
		{"soft_dollars", `6`}, {"soft_dollars", `"x"`}, {"period", `"hourly"`},
		{"hold", `"strict"`}, {"week_start", `"monday"`}, {"name", `"x"`},
	} {
		body := fmt.Sprintf(`{"max_dollars":5,%q:%s}`, x.field, x.value)
		if x.field == "max_dollars" {
			body = fmt.Sprintf(`{%q:%s}`, x.field, x.value)
		}
		c.do(http.MethodPut, "/v1/projects/search", body).want(t, http.StatusUnprocessableEntity, `"location":"body.`+x.field+`"`)
	}
	c.do(http.MethodPut, "/v1/projects/search", `{"period":"hourly"}`).want(t, http.StatusUnprocessableEntity, `never, null`)
	for _, name := range []string{strings.Repeat("x", 65), "a%00b", "%0A", "%FF", "a%20b", "%C3%A4"} {
		c.do(http.MethodPut, "/v1/projects/"+name, `{}`).want(t, http.StatusUnprocessableEntity, `"location":"path.name"`)
		c.do(http.MethodGet, "/v1/projects/"+name, "").want(t, http.StatusNotFound)
		c.do(http.MethodDelete, "/v1/projects/"+name, "").want(t, http.StatusNotFound)
	}
	c.do(http.MethodGet, "/v1/projects", "").want(t, http.StatusOK, `"data":[]`)
	if len(g.projects) > 0 {
		t.Errorf("refused changes were announced: %+v", g.projects)
	}
}

func TestProjectsAreListedByNameWithTheirSpend(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	now := time.Now()
	settlements := []billing.Settlement{
		{RequestID: billing.NewID("req", now), OrganizationID: billing.DefaultOrganization, KeyID: "key_1", Project: "b", At: now, Cost: metering.USD},
		{RequestID: billing.NewID("req", now), OrganizationID: billing.DefaultOrganization, KeyID: "key_2", Project: "b", At: now, Cost: 2},
		{RequestID: billing.NewID("req", now), OrganizationID: otherOrg, KeyID: "key_3", Project: "b", At: now, Cost: 4},
	}
	if conflicts, err := g.store.Post(t.Context(), "node", settlements); err != nil || len(conflicts) > 0 {
		t.Fatal(conflicts, err)
	}
	for _, name := range []string{"c", "a", "b"} {
		c.do(http.MethodPut, "/v1/projects/"+name, `{"period":"weekly"}`).want(t, http.StatusOK)
	}
	type view struct {
		Name       string
		SpentNanos int64 `json:"spent_nanos"`
	}
	type page struct {
		Data       []view
		NextCursor *string `json:"next_cursor"`
	}
	first := decode[page](t, c.do(http.MethodGet, "/v1/projects?limit=2", ""))
	if first.NextCursor == nil {
		t.Fatal("no second page")
	}
	second := decode[page](t, c.do(http.MethodGet, "/v1/projects?limit=2&cursor="+*first.NextCursor, ""))
	got := slices.Concat(first.Data, second.Data)
	if diff := cmp.Diff([]view{{"a", 0}, {"b", 1_000_000_002}, {"c", 0}}, got); diff != "" || second.NextCursor != nil {
		t.Errorf("projects (-want +got):\n%s", diff)
	}
}
