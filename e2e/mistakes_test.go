package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestManagementMistakes makes the mistakes that clients of the management API
// make. That the answers are as documented is checked as they arrive.
func TestManagementMistakes(t *testing.T) {
	t.Parallel()
	const huge = 1 << 20
	mistakes := map[string]struct {
		method, path, body string
		header             map[string]string
		status             int
		// says is what the answer must name.
		says string
	}{
		"no credential":              {"GET", "/v1/keys", "", map[string]string{"Authorization": ""}, 401, "missing"},
		"a wrong token":              {"GET", "/v1/keys", "", map[string]string{"Authorization": "Bearer x"}, 401, "wrong"},
		"an unknown organization":    {"GET", "/v1/account", "", map[string]string{"X-Organization": "nobody"}, 404, "X-Organization"},
		"an unknown key":             {"GET", "/v1/keys/key_x", "", nil, 404, "no such key"},
		"an unknown request":         {"GET", "/v1/audit/req_x", "", nil, 404, "no such request"},
		"an unknown project":         {"GET", "/v1/projects/x", "", nil, 404, "no settings for a project"},
		"an unknown package":         {"POST", "/v1/billing/purchase", `{"package_id":"x"}`, nil, 422, "body.package_id"},
		"an unknown field":           {"POST", "/v1/keys", `{"name":"a","admin":true}`, nil, 422, "body.admin"},
		"an unknown parameter":       {"GET", "/v1/keys?order=name", "", nil, 422, "query.order"},
		"a field twice":              {"POST", "/v1/keys", `{"name":"a","name":"b"}`, nil, 422, "appears twice"},
		"another type":               {"PATCH", "/v1/keys/key_x", `{"rate_limit_rpm":"many"}`, nil, 422, "body.rate_limit_rpm"},
		"no name":                    {"POST", "/v1/keys", `{}`, nil, 422, "name"},
		"a name of a megabyte":       {"POST", "/v1/keys", `{"name":"` + strings.Repeat("a", huge/2) + `"}`, nil, 422, "body.name"},
		"a body above a megabyte":    {"POST", "/v1/keys", `{"name":"` + strings.Repeat("a", huge) + `"}`, nil, 413, "larger"},
		"text that is not UTF-8":     {"POST", "/v1/keys", "{\"name\":\"\xff\"}", nil, 400, "UTF-8"},
		"not JSON":                   {"PUT", "/v1/budget", "max=1", nil, 400, "JSON"},
		"a form":                     {"POST", "/v1/keys", "name=a", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"},
		"a fraction of a nano-USD":   {"PUT", "/v1/budget", `{"max_dollars":"0.0000000001"}`, nil, 422, "body.max_dollars"},
		"a stray cursor":             {"GET", "/v1/audit?cursor=!", "", nil, 422, "query.cursor"},
		"from after to":              {"GET", "/v1/usage?from=2026-11-02&to=2026-11-01", "", nil, 422, "query.from"},
		"SQL in an id":               {"GET", "/v1/keys/x'%20OR%20'1'='1", "", nil, 404, "no such key"},
		"a webhook without Stripe":   {"POST", "/v1/billing/webhook", `{}`, nil, 404, "billing stripe"},
		"a method that is not there": {"PUT", "/v1/account", "", nil, 405, "use GET"},
	}
	onEachStore(t, func(t *testing.T, storage string) {
		g := startGateway(t, config{storage: storage, upstream: "http://127.0.0.1:1"})
		for name, m := range mistakes {
			t.Run(name, func(t *testing.T) {
				header := map[string]string{"Content-Type": "application/json"}
				for k, v := range m.header {
					header[k] = v
				}
				res, body := g.send(t, adminToken, m.method, m.path, strings.NewReader(m.body), header)
				if res.StatusCode != m.status || !strings.Contains(string(body), m.says) {
					t.Errorf("status %d, want %d and %q: %.300s", res.StatusCode, m.status, m.says, body)
				}
				if strings.Contains(string(body), "SQL") || len(body) > huge/100 {
					t.Errorf("the answer is too long, or tells of the inside: %.300s", body)
				}
			})
		}
		t.Run("a revoked key", func(t *testing.T) {
			k := g.createKey(t, "a", nil)
			g.must(t, http.MethodPost, "/v1/keys/"+k.ID+"/revoke", nil, nil)
			res, body := g.send(t, adminToken, http.MethodPatch, "/v1/keys/"+k.ID, strings.NewReader(`{"name":"b"}`),
				map[string]string{"Content-Type": "application/json"})
			if res.StatusCode != http.StatusConflict {
				t.Errorf("status %d, want 409: %s", res.StatusCode, body)
			}
		})
	})
}
