package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestFiltersTakeSeveralValues(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	for i, s := range []billing.Settlement{
		request("r1", "key_a", day(1, 12), 1), request("r2", "key_b", day(1, 12), 10), request("r3", "key_c", day(1, 12), 100),
	} {
		s.Provider, s.Model, s.Project = fmt.Sprint("p", i+1), fmt.Sprint("m/", i+1), fmt.Sprint("project ", i+1)
		g.post(t, s)
	}
	for query, cost := range map[string]int{
		"key_id=key_a":              1,
		"key_id=key_a&key_id=key_c": 101,
		"key_id=key_a&key_id=key_a": 1,
		"key_id=key_a%2Ckey_c":      0, // an id with a comma in it
		"provider=p1&provider=p2":   11,
		"model=m%2F2&model=m%2F3":   110,
		"project=project+1&project=project+3&key_id=key_c&key_id=key_b": 100,
		"model=m%2F1&model=m%2F2&provider=p2":                           10,
		"model=":                                                        111,
	} {
		c.do(http.MethodGet, "/v1/usage?"+query, "").want(t, http.StatusOK, fmt.Sprintf(`"cost_nanos":%d,`, cost))
		c.do(http.MethodGet, "/v1/usage?group_by=key&"+query, "").want(t, http.StatusOK, fmt.Sprintf(`"cost_nanos":%d,`, cost))
		for _, target := range []string{"/v1/audit?", "/v1/audit/export?format=json&"} {
			a := c.do(http.MethodGet, target+query, "").want(t, http.StatusOK)
			if got := strings.Count(a.body, `"request_id"`); got != strings.Count(fmt.Sprint(cost), "1") {
				t.Errorf("%s%s: %d requests", target, query, got)
			}
		}
	}
}

func TestParametersAreGivenOnce(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for query, location := range map[string]string{
		"/v1/usage?owner=a&owner=b":                               "query.owner",
		"/v1/usage?group_by=key&group_by=model":                   "query.group_by",
		"/v1/usage?model=&model=a":                                "query.model",
		"/v1/audit?client_ip=::1&client_ip=::2":                   "query.client_ip",
		"/v1/audit?limit=1&limit=2":                               "query.limit",
		"/v1/audit/export?key_name=a&key_name=":                   "query.key_name",
		"/v1/billing/transactions?order=asc&order=desc":           "query.order",
		"/v1/keys?status=active&status=revoked":                   "query.status",
		"/v1/audit?model=" + strings.Repeat("a&model=", 50) + "a": "query.model",
		"/v1/usage?key_id=a%00&key_id=b":                          "query.key_id",
	} {
		c.do(http.MethodGet, query, "").want(t, http.StatusUnprocessableEntity, `"location":"`+location+`"`)
	}
}
