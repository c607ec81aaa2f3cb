package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

type memberView struct {
	ID, Email, Role, Status string
	Name                    *string
}

// newMemberClient returns a client that calls the API as a member of the default
// organization who has joined, past the check of who it is.
func newMemberClient(t *testing.T, g *testGateway, role billing.Role) client {
	t.Helper()
	account, err := g.store.Account(t.Context(), billing.DefaultOrganization)
	if err != nil {
		t.Fatal(err)
	}
	m := g.join(t, billing.DefaultOrganization, role)
	c := newClient(t, g)
	api := New(g).(*api)
	c.api = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		who := caller{role: role, member: m, account: account}
		ctx := billing.WithActor(r.Context(), who.actor())
		api.dispatch(w, r.WithContext(context.WithValue(ctx, callerKey{}, who)))
	})
	return c
}

// join makes somebody a member who has joined.
func (g *testGateway) join(t *testing.T, org string, role billing.Role) billing.Member {
	t.Helper()
	id := billing.NewID("mem", time.Now())
	m := billing.Member{
		ID: id, OrganizationID: org, Email: id + "@example.com", Role: role,
		Issuer: "https://issuer", Subject: id, CreatedAt: time.Now(), JoinedAt: time.Now(),
	}
	if err := g.store.CreateMember(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (c client) invite(body string) memberView {
	c.t.Helper()
	return decode[memberView](c.t, c.do(http.MethodPost, "/v1/members", body).want(c.t, http.StatusCreated))
}

func TestMembersAreInvitedChangedAndRemoved(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	m := c.invite(`{"email":"ANN+x@Example.COM","role":"developer"}`)
	path := "/v1/members/" + m.ID
	c.do(http.MethodGet, path, "").want(t, http.StatusOK,
		`"email":"ann+x@example.com","name":null,"role":"developer","status":"invited","invited_by":"operator:admin_token"`, `"joined_at":null`)
	for _, x := range []struct{ patch, want string }{
		{`{}`, `"name":null,"role":"developer"`},
		{`{"role":"owner","name":"Ann <b>'; --"}`, `"name":"Ann <b>'; --","role":"owner"`},
		{`{"name":null}`, `"name":null,"role":"owner"`},
		{`{"role":"viewer"}`, `"name":null,"role":"viewer"`},
	} {
		c.do(http.MethodPatch, path, x.patch).want(t, http.StatusOK, x.want)
		c.do(http.MethodGet, path, "").want(t, http.StatusOK, x.want)
	}
	who := billing.Identity{Issuer: "https://issuer", Subject: "ann", Email: "Ann+X@example.com", Name: "Ann"}
	if _, err := g.store.AcceptInvitation(t.Context(), who, m.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodGet, path, "").want(t, http.StatusOK, `"name":"Ann","role":"viewer","status":"joined"`, `"joined_at":"2`)
	c.do(http.MethodDelete, path, "").want(t, http.StatusNoContent)
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		c.do(method, path, "").want(t, http.StatusNotFound, "no such member")
	}
	c.invite(`{"email":"ann+x@example.com","role":"developer","name":"Ann again"}`)
}

func TestMembersAreListedByRole(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	c.with(organizationHeader, otherOrg).invite(`{"email":"other@example.com","role":"viewer"}`)
	var viewers, all []string
	for i, role := range []string{"viewer", "admin", "viewer", "viewer"} {
		id := c.invite(fmt.Sprintf(`{"email":"%d@example.com","role":%q}`, i, role)).ID
		all = append(all, id)
		if role == "viewer" {
			viewers = append(viewers, id)
		}
	}
	for query, want := range map[string][]string{"": all, "&role=viewer": viewers, "&role=finance": nil} {
		slices.Sort(want)
		slices.Reverse(want)
		if diff := cmp.Diff(want, c.idsOf("/v1/members?limit=2"+query)); diff != "" {
			t.Errorf("members by %q (-want +got):\n%s", query, diff)
		}
	}
	c.do(http.MethodGet, "/v1/members?role=operator", "").want(t, http.StatusUnprocessableEntity, `"location":"query.role"`)
	c.do(http.MethodGet, "/v1/members?email=x", "").want(t, http.StatusUnprocessableEntity, `"location":"query.email"`)
	for _, cursor := range []string{"%00", "AA", "_w", strings.Repeat("x", 301)} {
		c.do(http.MethodGet, "/v1/members?cursor="+cursor, "").want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
	}
}

// idsOf follows the cursors of a list.
func (c client) idsOf(path string) []string {
	c.t.Helper()
	var ids []string
	for cursor := ""; ; {
		page := decode[list[struct{ ID string }]](c.t, c.do(http.MethodGet, path+cursor, "").want(c.t, http.StatusOK))
		for _, v := range page.Data {
			ids = append(ids, v.ID)
		}
		if page.NextCursor == nil {
			return ids
		}
		cursor = "&cursor=" + *page.NextCursor
	}
}

// badEmails are JSON values that are no address.
func badEmails() []string {
	return []string{
		`""`, `"a"`, `"a@"`, `"@b"`, `"a b@c.d"`, `" a@b.c"`, `"a@b.c "`, `"Ann <a@b.c>"`, `"<a@b.c>"`, `"a@b.c, d@e.f"`, `"a@b.c (x)"`,
		`"a@b.c\n"`, `"a@b.c\r\nBcc: d@e.f"`, `"a\u0000@b.c"`, `"a\u200b@b.c"`, `"a\u202e@b.c"`, `"a\u00a0@b.c"`, `"\"a b\"@c.d"`, `"mailto:a@b.c"`,
		`"a@@b.c"`, `"' OR 1=1 --"`, `1`, `[]`, `{}`, `"` + strings.Repeat("a", 311) + `@b.example"`, `"` + strings.Repeat("ä", 200) + `@b.c"`,
	}
}

func TestFaultyMembersAreRefusedByField(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	long := `"` + strings.Repeat("x", maxBody-100) + `"`
	path := "/v1/members/" + c.invite(`{"email":"a@example.com","role":"viewer"}`).ID
	before := c.do(http.MethodGet, path, "").body
	roles := []string{`""`, `"operator"`, `"Owner"`, `"king"`, `null`, `1`, `[]`, `{}`, `["owner"]`, long}
	for field, values := range map[string][]string{
		"email": append(badEmails(), `null`, long), "role": roles,
		"name":    {`""`, `"  "`, `"a\nb"`, `"\u0000"`, `1`, `[]`, `"` + strings.Repeat("é", 201) + `"`, long},
		"subject": {`"x"`}, "issuer": {`"x"`}, "organization_id": {`"acme"`}, "id": {`"mem_1"`}, "joined_at": {`null`}, "invited_by": {`"x"`},
	} {
		for _, value := range values {
			fields := map[string]string{"email": `"b@example.com"`, "role": `"viewer"`, field: value}
			var parts []string
			for name, v := range fields {
				parts = append(parts, fmt.Sprintf("%q:%s", name, v))
			}
			location := `"location":"body.` + field + `"`
			c.do(http.MethodPost, "/v1/members", "{"+strings.Join(parts, ",")+"}").want(t, http.StatusUnprocessableEntity, location)
			c.do(http.MethodPatch, path, fmt.Sprintf(`{%q:%s}`, field, value)).want(t, http.StatusUnprocessableEntity, location)
		}
	}
	c.do(http.MethodPatch, path, `{"email":"b@example.com"}`).want(t, http.StatusUnprocessableEntity, `"location":"body.email"`)
	c.do(http.MethodPost, "/v1/members", `{"role":"viewer"}`).want(t, http.StatusUnprocessableEntity, "required property email")
	c.do(http.MethodPost, "/v1/members", `{"email":"b@example.com"}`).want(t, http.StatusUnprocessableEntity, "required property role")
	c.do(http.MethodPost, "/v1/members", "{\"role\":\"viewer\",\"email\":\"a\xff@example.com\"}").want(t, http.StatusBadRequest, "not valid UTF-8")
	c.do(http.MethodPost, "/v1/members", `{"email":"A@EXAMPLE.com","role":"owner"}`).want(t, http.StatusConflict, `"location":"body.email"`)
	c.do(http.MethodPost, "/v1/members", `{"email":"\u212a@example.com","role":"owner"}`).want(t, http.StatusCreated)
	if after := c.do(http.MethodGet, path, "").body; after != before {
		t.Errorf("a refused change was made: %s", after)
	}
	if n := len(c.idsOf("/v1/members?limit=500")); n != 2 {
		t.Errorf("there are %d members, want 2", n)
	}
}

func TestMembersOfOthersAreNotFound(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	theirs := c.with(organizationHeader, otherOrg).invite(`{"email":"theirs@example.com","role":"viewer"}`).ID
	for _, id := range []string{theirs, "mem_00000000000000000000000000", "x", "%00", "%ff", "%27%20OR%201=1", strings.Repeat("x", 5000)} {
		for _, c := range []client{c, newMemberClient(t, g, billing.RoleOwner), newMemberClient(t, g, billing.RoleAdmin)} {
			c.do(http.MethodGet, "/v1/members/"+id, "").want(t, http.StatusNotFound, "no such member").lacks(t, "theirs@")
			c.do(http.MethodPatch, "/v1/members/"+id, `{"role":"admin"}`).want(t, http.StatusNotFound, "no such member").lacks(t, "theirs@")
			c.do(http.MethodDelete, "/v1/members/"+id, "").want(t, http.StatusNotFound, "no such member").lacks(t, "theirs@")
		}
	}
	c.do(http.MethodPost, "/v1/keys", fmt.Sprintf(`{"name":"a","owner_id":%q}`, theirs)).
		want(t, http.StatusUnprocessableEntity, `"location":"body.owner_id"`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/members/"+theirs, "").want(t, http.StatusOK, `"role":"viewer"`)
}

func TestRolesSayWhoMayChangeMembers(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	owner, admin := g.join(t, billing.DefaultOrganization, billing.RoleOwner), g.join(t, billing.DefaultOrganization, billing.RoleAdmin)
	for _, x := range []struct {
		role   billing.Role
		status map[string]int // by method and the role that is touched
	}{
		{billing.RoleOwner, map[string]int{"GET": 200, "POST owner": 201, "POST viewer": 201, "PATCH owner": 200, "PATCH admin": 200, "raise": 200}},
		{billing.RoleAdmin, map[string]int{"GET": 200, "POST owner": 403, "POST viewer": 201, "PATCH owner": 403, "PATCH admin": 200, "raise": 403}},
		{billing.RoleDeveloper, map[string]int{"GET": 403, "POST owner": 403, "POST viewer": 403, "PATCH owner": 403, "PATCH admin": 403, "raise": 403}},
		{billing.RoleFinance, map[string]int{"GET": 200, "POST owner": 403, "POST viewer": 403, "PATCH owner": 403, "PATCH admin": 403, "raise": 403}},
		{billing.RoleViewer, map[string]int{"GET": 200, "POST owner": 403, "POST viewer": 403, "PATCH owner": 403, "PATCH admin": 403, "raise": 403}},
	} {
		c := newMemberClient(t, g, x.role)
		email := func(kind string) string { return kind + "." + string(x.role) + "@example.com" }
		c.do(http.MethodGet, "/v1/members", "").want(t, x.status["GET"])
		c.do(http.MethodGet, "/v1/members/"+owner.ID, "").want(t, x.status["GET"])
		c.do(http.MethodPost, "/v1/members", fmt.Sprintf(`{"email":%q,"role":"owner"}`, email("o"))).want(t, x.status["POST owner"])
		c.do(http.MethodPost, "/v1/members", fmt.Sprintf(`{"email":%q,"role":"viewer"}`, email("v"))).want(t, x.status["POST viewer"])
		c.do(http.MethodPatch, "/v1/members/"+owner.ID, `{"name":"x"}`).want(t, x.status["PATCH owner"])
		c.do(http.MethodPatch, "/v1/members/"+admin.ID, `{"name":"x"}`).want(t, x.status["PATCH admin"])

		viewer := g.join(t, billing.DefaultOrganization, billing.RoleViewer)
		c.do(http.MethodPatch, "/v1/members/"+viewer.ID, `{"role":"owner"}`).want(t, x.status["raise"])
		if x.status["PATCH owner"] == http.StatusForbidden {
			c.do(http.MethodPatch, "/v1/members/"+owner.ID, `{"role":"viewer"}`).want(t, http.StatusForbidden)
			c.do(http.MethodDelete, "/v1/members/"+owner.ID, "").want(t, http.StatusForbidden)
		}
	}
	newMemberClient(t, g, billing.RoleAdmin).do(http.MethodDelete, "/v1/members/"+admin.ID, "").want(t, http.StatusNoContent)
	newMemberClient(t, g, billing.RoleOwner).do(http.MethodDelete, "/v1/members/"+owner.ID, "").want(t, http.StatusNoContent)
}

func TestNobodyRaisesTheirOwnRole(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for _, role := range billing.Roles[1:] {
		c := newMemberClient(t, g, role)
		members, err := g.store.ListMembers(t.Context(), billing.DefaultOrganization, billing.MemberFilter{Role: role}, billing.Page{})
		if err != nil || len(members) != 1 {
			t.Fatal(members, err)
		}
		c.do(http.MethodPatch, "/v1/members/"+members[0].ID, `{"role":"owner"}`).want(t, http.StatusForbidden)
	}
}

func TestTheLastOwnerStays(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	owner := g.join(t, billing.DefaultOrganization, billing.RoleOwner)
	c := newClient(t, g)
	c.invite(`{"email":"new@example.com","role":"owner"}`)
	path := "/v1/members/" + owner.ID
	c.do(http.MethodPatch, path, `{"role":"admin"}`).want(t, http.StatusConflict, "without an owner")
	c.do(http.MethodDelete, path, "").want(t, http.StatusConflict, "without an owner")
	c.do(http.MethodPatch, path, `{"role":"owner","name":"Stays"}`).want(t, http.StatusOK, `"role":"owner"`, `"name":"Stays"`)
	g.join(t, billing.DefaultOrganization, billing.RoleOwner)
	c.do(http.MethodDelete, path, "").want(t, http.StatusNoContent)
}
