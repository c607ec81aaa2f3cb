package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// A developer has keys of their own, and sees what these have used.
func TestDevelopersSeeTheirOwnKeysOnly(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	w := &world{t: t, g: g}
	theirs := w.furnish("org_own", marker, 777_777_770_000_000)
	w.own = theirs
	c := newClient(t, g).with("Authorization", "Bearer "+w.join(billing.RoleDeveloper))
	mine := decode[createdKey](t, c.do(http.MethodPost, "/v1/keys", `{"name":"mine"}`).want(t, http.StatusCreated)).ID
	r := request("req_mine", mine, day(1, 12), 100)
	r.OrganizationID = theirs.org
	g.post(t, r)

	for _, op := range documentedOperations(t) {
		if !isOwnOnly[op.OperationID] || op.OperationID == "create-key" {
			continue
		}
		target := strings.NewReplacer("{id}", theirs.key, "{request_id}", theirs.request).Replace(op.path)
		body := ""
		if op.RequestBody != nil {
			body = "{}"
		}
		want := http.StatusNotFound
		if target == op.path {
			want = http.StatusOK
		}
		if op.OperationID == "export-audit" {
			target += "?format=json"
		}
		c.do(op.method, target, body).want(t, want).lacks(t, marker, theirs.key, "777777")
	}
	for _, query := range []string{"?key_id=" + theirs.key, "?provider=openai"} {
		for _, path := range []string{"/v1/usage", "/v1/audit"} {
			c.do(http.MethodGet, path+query, "").want(t, http.StatusOK).lacks(t, marker, theirs.key, "777777")
		}
	}
	for _, target := range []string{"/v1/usage?owner=" + theirs.member, "/v1/keys?owner_id=" + theirs.member} {
		c.do(http.MethodGet, target, "").want(t, http.StatusForbidden, "your own keys")
	}

	c.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusOK, mine)
	c.do(http.MethodGet, "/v1/usage", "").want(t, http.StatusOK, `"requests":1,`)
	c.do(http.MethodGet, "/v1/audit", "").want(t, http.StatusOK, "req_mine")
	c.do(http.MethodGet, "/v1/audit/req_mine", "").want(t, http.StatusOK, mine)
	c.do(http.MethodGet, "/v1/keys/"+mine+"/usage", "").want(t, http.StatusOK, `"requests":1,`)
	// Nor can they give a key away, which they would not see any more.
	c.do(http.MethodPatch, "/v1/keys/"+mine, `{"owner_id":null}`).want(t, http.StatusForbidden)
	c.do(http.MethodPost, "/v1/keys/"+mine+"/rotate", "").want(t, http.StatusOK)
	c.do(http.MethodDelete, "/v1/keys/"+mine, "").want(t, http.StatusNoContent)
}
