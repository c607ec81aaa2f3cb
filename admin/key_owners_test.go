package admin

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestKeysHaveOwners(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	ann, bob := g.join(t, billing.DefaultOrganization, billing.RoleDeveloper), g.join(t, billing.DefaultOrganization, billing.RoleViewer)
	created := c.createKey(fmt.Sprintf(`{"name":"a","owner_id":%q}`, ann.ID))
	if created.ProxyKey["owner_id"] != ann.ID {
		t.Errorf("owner is %v", created.ProxyKey["owner_id"])
	}
	path := "/v1/keys/" + created.ID
	c.do(http.MethodPatch, path, fmt.Sprintf(`{"owner_id":%q}`, bob.ID)).want(t, http.StatusOK, `"owner_id":"`+bob.ID+`"`)
	c.do(http.MethodPatch, path, `{"name":"b"}`).want(t, http.StatusOK, `"owner_id":"`+bob.ID+`"`)
	c.do(http.MethodDelete, "/v1/members/"+bob.ID, "").want(t, http.StatusNoContent)
	// What was read may be sent back, also when its owner has left.
	c.do(http.MethodPatch, path, fmt.Sprintf(`{"owner_id":%q,"name":"c"}`, bob.ID)).want(t, http.StatusOK, `"owner_id":"`+bob.ID+`"`, `"name":"c"`)
	c.do(http.MethodPatch, path, `{"owner_id":null}`).want(t, http.StatusOK, `"owner_id":null`)
	c.do(http.MethodPatch, path, fmt.Sprintf(`{"owner_id":%q}`, bob.ID)).want(t, http.StatusUnprocessableEntity, `"location":"body.owner_id"`)
	c.do(http.MethodGet, path, "").want(t, http.StatusOK, `"owner_id":null`)
}

func TestADevelopersKeyIsTheirOwn(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	ann := g.join(t, billing.DefaultOrganization, billing.RoleDeveloper)
	c := newMemberClient(t, g, billing.RoleDeveloper)
	owner, ok := c.createKey(`{"name":"mine"}`).ProxyKey["owner_id"].(string)
	if !ok || owner == ann.ID {
		t.Fatalf("owner is %q", owner)
	}
	if m, err := g.store.Member(t.Context(), billing.DefaultOrganization, owner); err != nil || m.Role != billing.RoleDeveloper {
		t.Errorf("owner is %+v, %v", m, err)
	}
	id := c.createKey(fmt.Sprintf(`{"name":"mine","owner_id":%q}`, owner)).ID
	for _, value := range []string{`"` + ann.ID + `"`, `null`, `"mem_x"`} {
		c.do(http.MethodPost, "/v1/keys", `{"name":"theirs","owner_id":`+value+`}`).want(t, http.StatusForbidden, "keys of their own")
		c.do(http.MethodPatch, "/v1/keys/"+id, `{"owner_id":`+value+`}`).want(t, http.StatusForbidden, "keys of their own")
	}
	admin := newMemberClient(t, g, billing.RoleAdmin)
	if got := admin.createKey(`{"name":"shared"}`).ProxyKey["owner_id"]; got != nil {
		t.Errorf("owner of an admin's new key is %v", got)
	}
	admin.do(http.MethodPatch, "/v1/keys/"+id, `{"owner_id":"`+ann.ID+`"}`).want(t, http.StatusOK, ann.ID)
}

func TestKeysAreListedByWhatTheyAre(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	ann := g.join(t, billing.DefaultOrganization, billing.RoleDeveloper).ID
	c.with(organizationHeader, otherOrg).createKey(`{"name":"CI theirs","project":"web"}`)
	a := c.createKey(fmt.Sprintf(`{"name":"CI 100%%","owner_id":%q}`, ann)).ID
	b := c.createKey(`{"name":"laptop","project":"web"}`).ID
	d := c.createKey(fmt.Sprintf(`{"name":"ci old","project":"web","owner_id":%q}`, ann)).ID
	c.do(http.MethodPost, "/v1/keys/"+d+"/revoke", "").want(t, http.StatusOK)
	all := c.idsOf("/v1/keys?limit=1")
	if len(all) != 3 {
		t.Fatalf("keys are %v", all)
	}
	for query, want := range map[string][]string{
		"&status=active": {b, a}, "&status=revoked": {d}, "&status=expired": nil,
		"&project=web": {d, b}, "&project=WEB": nil, "&owner_id=" + ann: {d, a}, "&owner_id=mem_x": nil,
		"&q=cI": {d, a}, "&q=%25": {a}, "&q=_": nil, "&q=%27%20OR%201=1": nil, "&q=0%25": {a},
		"&status=active&project=web&q=top": {b}, "&owner_id=" + ann + "&status=revoked&q=old": {d},
	} {
		if diff := cmp.Diff(want, c.idsOf("/v1/keys?limit=1"+query)); diff != "" {
			t.Errorf("keys by %s (-want +got):\n%s", query, diff)
		}
	}
	for query, location := range map[string]string{
		"status=lost": "status", "status=Active": "status", "q=%00": "q", "q=%ff": "q", "owner_id=%0a": "owner_id", "project=%ff": "project",
		"name=x": "name",
	} {
		c.do(http.MethodGet, "/v1/keys?"+query, "").want(t, http.StatusUnprocessableEntity, `"location":"query.`+location+`"`)
	}
}
