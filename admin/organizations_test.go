package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

type tenantView struct {
	ID           string
	Name         string
	BalanceNanos int64 `json:"balance_nanos"`
}

func TestOrganizationsAreCreatedAndRenamed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	c.do(http.MethodPost, "/v1/organizations", `{"id":"blue-1_x","name":"Blue","owner_email":"Ann@Example.com"}`).
		want(t, http.StatusCreated, `{"id":"blue-1_x","name":"Blue","balance_nanos":0,"created_at":"2`)
	c.do(http.MethodGet, "/v1/organizations/blue-1_x", "").want(t, http.StatusOK, `"id":"blue-1_x","name":"Blue"`)
	blue := c.with(organizationHeader, "blue-1_x")
	blue.do(http.MethodGet, "/v1/members", "").want(t, http.StatusOK,
		`"email":"ann@example.com","name":null,"role":"owner","status":"invited","invited_by":"operator:admin_token"`)
	if created := blue.createKey(`{"name":"first"}`); created.ID == "" {
		t.Error("no key in the new organization")
	}

	named := decode[tenantView](t, c.do(http.MethodPost, "/v1/organizations", `{"name":"Red","id":null,"owner_email":null}`).want(t, http.StatusCreated))
	if !strings.HasPrefix(named.ID, "org_") {
		t.Errorf("made-up id is %q", named.ID)
	}
	c.with(organizationHeader, named.ID).do(http.MethodGet, "/v1/members", "").want(t, http.StatusOK, `"data":[]`)

	c.do(http.MethodPatch, "/v1/organizations/blue-1_x", `{"name":"Deep '; -- Blue 日本"}`).want(t, http.StatusOK, `"name":"Deep '; -- Blue 日本"`)
	c.do(http.MethodPatch, "/v1/organizations/blue-1_x", `{}`).want(t, http.StatusOK, `"name":"Deep '; -- Blue 日本"`)
	blue.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"name":"Deep '; -- Blue 日本"`)
	if len(g.orgs) != 2 || g.orgs[1].ID != "blue-1_x" {
		t.Errorf("announced %+v, want two changes", g.orgs)
	}
}

func TestAnOrganizationIsCreatedOnce(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	c.do(http.MethodPost, "/v1/organizations", `{"id":"acme","name":"Another","owner_email":"eve@example.com"}`).
		want(t, http.StatusConflict, `"location":"body.id"`)
	acme := c.with(organizationHeader, otherOrg)
	acme.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"name":"Acme Inc."`)
	acme.do(http.MethodGet, "/v1/members", "").want(t, http.StatusOK, `"data":[]`)
}

func TestOrganizationsAreListedById(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, id := range []string{"zeta", "beta", "0"} {
		c.do(http.MethodPost, "/v1/organizations", fmt.Sprintf(`{"id":%q,"name":"x"}`, id)).want(t, http.StatusCreated)
	}
	c.do(http.MethodPost, "/v1/organizations/beta/adjustments", `{"amount_dollars":2,"reason":"start"}`).want(t, http.StatusCreated)
	var got []tenantView
	path := "/v1/organizations?limit=2"
	for {
		page := decode[list[tenantView]](t, c.do(http.MethodGet, path, "").want(t, http.StatusOK))
		got = append(got, page.Data...)
		if page.NextCursor == nil {
			break
		}
		path = "/v1/organizations?limit=2&cursor=" + *page.NextCursor
	}
	want := []tenantView{
		{ID: "0", Name: "x"}, {ID: otherOrg, Name: "Acme Inc."}, {ID: "beta", Name: "x", BalanceNanos: 2e9},
		{ID: billing.DefaultOrganization, Name: "Default"}, {ID: "zeta", Name: "x"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("organizations (-want +got):\n%s", diff)
	}
	for _, cursor := range []string{"%00", "AA", "_w", "!", strings.Repeat("x", 301)} {
		c.do(http.MethodGet, "/v1/organizations?cursor="+cursor, "").want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
	}
}

func TestFaultyOrganizationsAreRefusedByField(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	long := `"` + strings.Repeat("x", maxBody-100) + `"`
	for field, values := range map[string][]string{
		"id":          {`""`, `"Blue"`, `"a b"`, `"-a"`, `"_a"`, `"a/b"`, `".."`, `"ä"`, `"a\n"`, `"a\u0000"`, `"' OR 1=1"`, `1`, `[]`, long, `"` + strings.Repeat("a", 65) + `"`},
		"name":        {`""`, `"  "`, `"a\nb"`, `"\u0000"`, `1`, `null`, `{}`, long},
		"owner_email": append(badEmails(), long),
		"budget":      {`1`}, "role": {`"owner"`}, "created_at": {`"2026-01-01T00:00:00Z"`},
	} {
		for _, value := range values {
			body := fmt.Sprintf(`{"name":"a",%q:%s}`, field, value)
			if field == "name" {
				body = fmt.Sprintf(`{"name":%s}`, value)
			}
			c.do(http.MethodPost, "/v1/organizations", body).want(t, http.StatusUnprocessableEntity, `"location":"body.`+field+`"`)
			if field != "owner_email" {
				patch := fmt.Sprintf(`{%q:%s}`, field, value)
				c.do(http.MethodPatch, "/v1/organizations/acme", patch).want(t, http.StatusUnprocessableEntity, `"location":"body.`+field+`"`)
			}
		}
	}
	c.do(http.MethodPost, "/v1/organizations", `{}`).want(t, http.StatusUnprocessableEntity, "name")
	c.do(http.MethodPost, "/v1/organizations", "{\"name\":\"\xff\"}").want(t, http.StatusBadRequest, "not valid UTF-8")
	if n := len(decode[list[tenantView]](t, c.do(http.MethodGet, "/v1/organizations", "")).Data); n != 2 || len(g.orgs) != 0 {
		t.Errorf("%d organizations, announced %+v", n, g.orgs)
	}
	for _, id := range []string{"nobody", "Acme", "%00", "%ff", "%27%20OR%201=1", strings.Repeat("x", 5000)} {
		c.do(http.MethodGet, "/v1/organizations/"+id, "").want(t, http.StatusNotFound, "no such organization")
		c.do(http.MethodPatch, "/v1/organizations/"+id, `{"name":"x"}`).want(t, http.StatusNotFound, "no such organization")
		c.do(http.MethodPost, "/v1/organizations/"+id+"/adjustments", `{"amount_dollars":1,"reason":"x"}`).
			want(t, http.StatusNotFound, "no such organization")
	}
}

func TestMembersMayNotActOnOrganizations(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for _, role := range billing.Roles {
		c := newMemberClient(t, g, role)
		for _, x := range []struct{ method, path, body string }{
			{http.MethodGet, "/v1/organizations", ""}, {http.MethodPost, "/v1/organizations", `{"name":"x"}`},
			{http.MethodGet, "/v1/organizations/acme", ""}, {http.MethodGet, "/v1/organizations/default", ""},
			{http.MethodPatch, "/v1/organizations/default", `{"name":"x"}`},
			{http.MethodPost, "/v1/organizations/default/adjustments", `{"amount_dollars":1,"reason":"x"}`},
		} {
			c.do(x.method, x.path, x.body).want(t, http.StatusForbidden, "your role, "+string(role)).lacks(t, "Acme")
		}
	}
}
