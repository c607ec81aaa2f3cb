package e2e

import (
	"net/http"
	"testing"
)

// staff are acme's people in these tests, by role.
var staff = map[string]string{
	"owner": "sub-olga", "admin": "sub-adam", "developer": "sub-dora", "finance": "sub-frank", "viewer": "sub-vera",
}

// TestMembers invites people, lets them sign in, and checks what each may do,
// until they are removed.
func TestMembers(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		p := startPortal(t, storage, providerConfig{})
		ids, tokens := map[string]string{}, map[string]string{}
		for role, account := range staff {
			ids[role], tokens[role] = p.join(t, account, role)
		}
		t.Run("roles", func(t *testing.T) { p.testRoles(t, tokens) })
		t.Run("own keys", func(t *testing.T) { p.testOwnKeys(t, tokens) })
		t.Run("other organizations", func(t *testing.T) { p.testOtherOrganizations(t, tokens) })
		t.Run("changed role", func(t *testing.T) { p.testChangedRole(t, ids["viewer"], tokens["viewer"]) })
		t.Run("invitation of a stranger", func(t *testing.T) { p.testStrangersInvitation(t, tokens["viewer"]) })
		t.Run("removed", func(t *testing.T) { p.testRemoved(t, ids, tokens) })
	})
}

// testRoles tries an operation of each kind with each role.
func (p portal) testRoles(t *testing.T, tokens map[string]string) {
	for _, op := range []struct {
		method, path, body string
		status             int
		roles              []string
	}{
		{"GET", "/v1/account", "", 200, []string{"owner", "admin", "developer", "finance", "viewer"}},
		{"GET", "/v1/usage", "", 200, []string{"owner", "admin", "developer", "finance", "viewer"}},
		{"POST", "/v1/keys", `{"name":"a"}`, 201, []string{"owner", "admin", "developer"}},
		{"PUT", "/v1/budget", `{"max_dollars":"10"}`, 200, []string{"owner", "admin"}},
		{"GET", "/v1/billing/transactions", "", 200, []string{"owner", "admin", "finance", "viewer"}},
		{"POST", "/v1/billing/purchase", `{"package_id":"starter"}`, 201, []string{"owner", "admin", "finance"}},
		{"POST", "/v1/organizations", `{"id":"own","name":"Own"}`, 201, nil},
		{"GET", "/v1/operator-tokens", "", 200, nil},
		{"GET", "/v1/nodes", "", 200, nil},
		{"GET", "/v1/ledger/verify", "", 200, nil},
		{"POST", "/v1/flush", "", 204, nil},
	} {
		allowed := map[string]bool{}
		for _, role := range op.roles {
			allowed[role] = true
		}
		for role, token := range tokens {
			t.Run(op.method+" "+op.path+" as "+role, func(t *testing.T) {
				status, says := http.StatusForbidden, "your role, "+role+", does not allow this"
				if allowed[role] {
					status, says = op.status, ""
				}
				p.bearer(t, token, op.method, op.path, op.body).want(t, status, says)
			})
		}
	}
}

// testOwnKeys checks that a developer has keys, and knows of no others.
func (p portal) testOwnKeys(t *testing.T, tokens map[string]string) {
	var owners, developers createdKey
	p.bearer(t, tokens["owner"], http.MethodPost, "/v1/keys", `{"name":"of-olga"}`).decode(t, &owners)
	p.bearer(t, tokens["developer"], http.MethodPost, "/v1/keys", `{"name":"of-dora"}`).decode(t, &developers)
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/v1/keys/" + owners.ID, ""},
		{"GET", "/v1/keys/" + owners.ID + "/usage", ""},
		{"PATCH", "/v1/keys/" + owners.ID, `{"name":"of-dora"}`},
		{"POST", "/v1/keys/" + owners.ID + "/rotate", `{}`},
		{"POST", "/v1/keys/" + owners.ID + "/revoke", ""},
		{"DELETE", "/v1/keys/" + owners.ID, ""},
	} {
		p.bearer(t, tokens["developer"], r.method, r.path, r.body).want(t, http.StatusNotFound, "no such key")
	}
	p.bearer(t, tokens["developer"], http.MethodGet, "/v1/keys/"+developers.ID, "").want(t, http.StatusOK, "of-dora")
	p.bearer(t, tokens["owner"], http.MethodGet, "/v1/keys/"+developers.ID, "").want(t, http.StatusOK, "of-dora")
	var seen list[struct {
		Name string `json:"name"`
	}]
	p.bearer(t, tokens["developer"], http.MethodGet, "/v1/keys", "").decode(t, &seen)
	for _, k := range seen.Data {
		if k.Name == "of-olga" {
			t.Error("a developer sees the owner's key in the list")
		}
	}
	if len(seen.Data) == 0 {
		t.Error("a developer does not see own keys in the list")
	}
}

// testOtherOrganizations asks for an organization that is there, and for one
// that is not: the answers must not tell which.
func (p portal) testOtherOrganizations(t *testing.T, tokens map[string]string) {
	for role, token := range tokens {
		var answers []string
		for _, org := range []string{"default", "nobody"} {
			answer := p.ask(t, http.MethodGet, "/v1/account", "", map[string]string{"Authorization": "Bearer " + token, "X-Organization": org})
			answer.want(t, http.StatusNotFound, "no such organization")
			answers = append(answers, answer.body)
		}
		if answers[0] != answers[1] {
			t.Errorf("%s: the answers differ: %q", role, answers)
		}
	}
}

// testChangedRole checks that a role counts from the next request on.
func (p portal) testChangedRole(t *testing.T, id, token string) {
	p.must(t, http.MethodPatch, "/v1/members/"+id, map[string]string{"role": "admin"}, nil)
	p.bearer(t, token, http.MethodPost, "/v1/keys", `{"name":"a"}`).want(t, http.StatusCreated, "")
	p.must(t, http.MethodPatch, "/v1/members/"+id, map[string]string{"role": "viewer"}, nil)
	p.bearer(t, token, http.MethodPost, "/v1/keys", `{"name":"a"}`).want(t, http.StatusForbidden, "your role, viewer,")
}

// testRemoved checks that one who is removed is out at the next request, with
// what was good until then.
func (p portal) testRemoved(t *testing.T, ids, tokens map[string]string) {
	b, _ := p.logIn(t, staff["admin"])
	value := p.cookie(t, b, sessionCookie)
	b.visit(t, p.url+"/v1/account").want(t, http.StatusOK, `"role":"admin"`)
	p.bearer(t, tokens["admin"], http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"admin"`)

	p.bearer(t, tokens["owner"], http.MethodDelete, "/v1/members/"+ids["admin"], "").want(t, http.StatusNoContent, "")
	b.visit(t, p.url+"/v1/account").want(t, http.StatusForbidden, "you are not a member of any organization")
	p.askWith(t, value).want(t, http.StatusUnauthorized, "your session has ended")
	p.bearer(t, tokens["admin"], http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, "you are not a member of any organization")
	newBrowser(t, staff["admin"]).visit(t, p.loginURL("/v1/account")).want(t, http.StatusForbidden, "ask for an invitation")

	// A token joins nothing, a login does.
	p.invite(t, staff["admin"], "viewer")
	p.bearer(t, tokens["admin"], http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, "invited to "+acme)
	p.logIn(t, staff["admin"])
	p.bearer(t, tokens["admin"], http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"viewer"`)
}

// testStrangersInvitation checks that another organization's invitation changes
// nothing for a member, until they accept it.
func (p portal) testStrangersInvitation(t *testing.T, token string) {
	id := p.as("default").invite(t, staff["viewer"], "owner")
	p.logIn(t, staff["viewer"])
	p.bearer(t, token, http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"viewer"`)
	p.bearer(t, token, http.MethodGet, "/v1/invitations", "").want(t, http.StatusOK, `"id":"default"`)
	p.bearer(t, token, http.MethodPost, "/v1/invitations/"+id+"/accept", "").want(t, http.StatusOK, `"role":"owner"`)
	p.bearer(t, token, http.MethodGet, "/v1/account", "").want(t, http.StatusBadRequest, "name one in the X-Organization header")
}
