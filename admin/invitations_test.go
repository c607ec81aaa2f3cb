package admin

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
	"github.com/caddy-llm-gateway/gateway/billing"
)

// bearerOf is a client with a token of Ada's, with other claims.
func bearerOf(t *testing.T, g *testGateway, claims oidctest.Claims) client {
	t.Helper()
	return newClient(t, g).with("Authorization", "Bearer "+g.issuer.Token(claims))
}

// invitedTo are the organizations that a client is invited to.
func (c client) invitedTo() []string {
	c.t.Helper()
	orgs := []string{}
	for _, i := range decode[list[invitation]](c.t, c.do(http.MethodGet, invitationsPath, "").want(c.t, http.StatusOK)).Data {
		orgs = append(orgs, i.Organization.ID)
	}
	return orgs
}

func TestInvitationsAreAcceptedByTheInvited(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	ada := bearerOf(t, g, nil)
	// A token alone accepts nothing, though there is but one invitation.
	for range 2 {
		ada.do(http.MethodGet, "/v1/account", "").
			want(t, http.StatusForbidden, "invited to acme", "POST /v1/invitations/{id}/accept")
	}
	ada.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK, `"organizations":[]`)
	all := decode[list[invitation]](t, ada.do(http.MethodGet, invitationsPath, "").want(t, http.StatusOK)).Data
	if len(all) != 1 {
		t.Fatalf("invitations are %+v", all)
	}
	want := invitation{
		ID: all[0].ID, Organization: invitingOrg{ID: otherOrg, Name: "Acme Inc."}, Role: billing.RoleOwner,
		InvitedBy: new("test"), CreatedAt: all[0].CreatedAt,
	}
	if diff := cmp.Diff(want, all[0]); diff != "" {
		t.Errorf("invitation (-want +got):\n%s", diff)
	}
	path := invitationsPath + "/" + all[0].ID
	ada.do(http.MethodPost, path+"/accept", "").want(t, http.StatusOK, `"status":"joined"`, `"role":"owner"`, `"email":"ada@example.com"`)
	ada.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	for _, answer := range []string{"/accept", "/decline"} {
		ada.do(http.MethodPost, path+answer, "").want(t, http.StatusNotFound, "no such invitation")
	}
	ada.do(http.MethodGet, "/v1/changes?action=member.join", "").
		want(t, http.StatusOK, `"action":"member.join"`, `"actor_kind":"member"`, `"actor_name":"ada@example.com"`)
}

// An invitation from a stranger changes nothing for who is a member.
func TestInvitationsOfStrangersWait(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := loggedIn(t, g)
	ada := bearerOf(t, g, nil)
	stranger := invite(t, g, billing.DefaultOrganization, "Ada@example.com", billing.RoleOwner)
	for _, do := range []func(method, target, body string) answer{b.do, ada.do} {
		do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	}
	loggedIn(t, g).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	ada.with(organizationHeader, billing.DefaultOrganization).do(http.MethodGet, "/v1/account", "").want(t, http.StatusNotFound)
	if diff := cmp.Diff([]string{billing.DefaultOrganization}, ada.invitedTo()); diff != "" {
		t.Errorf("invited to (-want +got):\n%s", diff)
	}
	path := invitationsPath + "/" + stranger.ID + "/decline"
	csrf := b.csrf
	b.csrf = ""
	b.do(http.MethodPost, path, "").want(t, http.StatusForbidden, csrfHeader)
	b.csrf = csrf
	b.do(http.MethodPost, path, "").want(t, http.StatusNoContent)
	if diff := cmp.Diff([]string{}, ada.invitedTo()); diff != "" {
		t.Errorf("invited to (-want +got):\n%s", diff)
	}
	newClient(t, g).do(http.MethodGet, "/v1/members/"+stranger.ID, "").want(t, http.StatusNotFound)
	newClient(t, g).do(http.MethodGet, "/v1/changes?action=member.decline", "").
		want(t, http.StatusOK, `"action":"member.decline"`, `"actor_name":"ada@example.com"`)
}

// Who is invited by several, and is a member of none, has to choose, also after
// a login.
func TestInvitationsToSeveralAreNotAcceptedByLogin(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	second := invite(t, g, billing.DefaultOrganization, "ada@example.com", billing.RoleViewer)
	b := loggedIn(t, g)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, "invited to acme, default")
	b.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK, `"organizations":[]`)
	ada := bearerOf(t, g, nil)
	page := decode[list[invitation]](t, ada.do(http.MethodGet, invitationsPath+"?limit=1", "").want(t, http.StatusOK, `"id":"acme"`))
	ada.do(http.MethodGet, invitationsPath+"?limit=1&cursor="+*page.NextCursor, "").want(t, http.StatusOK, `"id":"default"`, `"next_cursor":null`)
	b.do(http.MethodPost, invitationsPath+"/"+second.ID+"/accept", "").want(t, http.StatusOK, `"status":"joined"`)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"default"`)
	if diff := cmp.Diff([]string{otherOrg}, bearerOf(t, g, nil).invitedTo()); diff != "" {
		t.Errorf("invited to (-want +got):\n%s", diff)
	}
}

func TestInvitationsAreOfTheVerifiedAddressAlone(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	theirs := invite(t, g, otherOrg, "bob@example.com", billing.RoleOwner)
	loggedIn(t, g)
	for name, c := range map[string]client{
		"a member with another address": bearerOf(t, g, nil),
		"an operator":                   newClient(t, g),
	} {
		for _, answer := range []string{"/accept", "/decline"} {
			for _, id := range []string{theirs.ID, "mem_x", "%00", "%27%20OR%201=1"} {
				a := c.do(http.MethodPost, invitationsPath+"/"+id+answer, "").want(t, http.StatusNotFound, "no such invitation")
				a.lacks(t, "bob")
			}
		}
		if got := c.invitedTo(); len(got) != 0 {
			t.Errorf("%s is invited to %v", name, got)
		}
	}
	for _, claims := range []oidctest.Claims{
		{"sub": "mallory", "email": "bob@example.com", "email_verified": false},
		{"sub": "mallory", "email": "bob@example.com", "email_verified": "no"},
		{"sub": "mallory", "email": nil},
	} {
		c := bearerOf(t, g, claims)
		c.do(http.MethodGet, invitationsPath, "").want(t, http.StatusForbidden, "verify your e-mail address")
		c.do(http.MethodPost, invitationsPath+"/"+theirs.ID+"/accept", "").want(t, http.StatusForbidden)
		issuer.SetUser(claims)
		newBrowser(t, g).login("/").want(t, http.StatusForbidden, "verify your e-mail address")
	}
	newClient(t, g).with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/members/"+theirs.ID, "").
		want(t, http.StatusOK, `"status":"invited"`)
}

func TestASecondMembershipIsNone(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	loggedIn(t, g)
	again := invite(t, g, otherOrg, "ada@work.example", billing.RoleViewer)
	c := bearerOf(t, g, oidctest.Claims{"email": "ada@work.example"})
	c.do(http.MethodPost, invitationsPath+"/"+again.ID+"/accept", "").want(t, http.StatusConflict, "a member of this organization already")
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"owner"`)
	c.do(http.MethodPost, invitationsPath+"/"+again.ID+"/decline", "").want(t, http.StatusNoContent)
}

// Who declines the only invitation has nothing here any more.
func TestDecliningTheOnlyInvitationEndsTheSession(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	second := invite(t, g, billing.DefaultOrganization, "ada@example.com", billing.RoleViewer)
	b := loggedIn(t, g)
	first := decode[list[invitation]](t, b.do(http.MethodGet, invitationsPath, "").want(t, http.StatusOK)).Data[0]
	for _, id := range []string{first.ID, second.ID} {
		b.do(http.MethodPost, invitationsPath+"/"+id+"/decline", "").want(t, http.StatusNoContent)
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, "ask for an invitation")
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "your session has ended")
}
