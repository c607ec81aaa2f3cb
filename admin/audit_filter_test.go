package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestCursorsAreOfOneListWithItsFilters(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	manyRequests(t, g)
	c := newClient(t, g)
	const path = "/v1/audit?status=2xx&order=asc"
	ids, cursor := c.ids(path+"&limit=2", "request_id")
	next, _ := c.ids(path+"&limit=3&cursor="+cursor, "request_id")
	if diff := cmp.Diff([]string{"r00000", "r00001", "r00002", "r00003", "r00004"}, append(ids, next...)); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	for _, other := range []string{
		"/v1/audit?order=asc", "/v1/audit?status=2xx", "/v1/audit?status=2xx&order=asc&key_id=key_a", "/v1/keys?limit=2",
		"/v1/billing/transactions?order=asc",
	} {
		target := other + "&cursor=" + cursor
		c.do(http.MethodGet, target, "").want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
	}
	c.with(organizationHeader, otherOrg).do(http.MethodGet, path+"&cursor="+cursor, "").
		want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
}

func TestAuditFiltersThatAreNone(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.post(t, request("r1", "key_a", day(1, 12), 100))
	c := newClient(t, g)
	for query, location := range map[string]string{
		"status=6xx": "status", "status=4x": "status", "status=99": "status", "status=600": "status", "status=-1": "status",
		"client_ip=10.0.0.0/33": "client_ip", "client_ip=x": "client_ip", "client_ip=fe80::1%25eth0": "client_ip",
		"min_cost_nanos=-1": "min_cost_nanos", "max_cost_nanos=1.5": "max_cost_nanos", "max_tokens=x": "max_tokens",
		"max_latency_ms=9223372036854775807": "max_latency_ms", "streaming=yes": "streaming",
		"usage_source=x": "usage_source[0]", "order=cost": "order", "timezone=Mars/Base": "timezone", "timezone=Local": "timezone",
		"timezone=../../etc/passwd": "timezone", "key_name=a%00b": "key_name", "user_agent=%ff": "user_agent", "cost=1": "cost",
		"error=" + strings.Repeat("x", 2000): "error",
	} {
		for _, path := range []string{"/v1/audit", "/v1/audit/export"} {
			c.do(http.MethodGet, path+"?"+query, "").want(t, http.StatusUnprocessableEntity, `"location":"query.`+location+`"`)
		}
	}
	c.do(http.MethodGet, "/v1/audit/export?format=xml", "").want(t, http.StatusUnprocessableEntity, `"location":"query.format"`)
}

func TestAuditFiltersSelect(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	id := billing.IDFloor(billing.RequestIDPrefix, day(1, 12))
	g.post(t, request(id, "key_a", day(1, 12), 100))
	c := newClient(t, g)
	for query, found := range map[string]bool{
		"status=2xx": true, "status=404&status=200": true, "status=4xx&status=500": false, "status=0": false,
		"client_ip=192.0.2.0/24": true, "client_ip=192.0.2.1": true, "client_ip=192.0.2.2": false, "client_ip=2001:db8::/32": false,
		"user_agent=SDK": true, "user_agent=%25": false, "streaming=true": true, "streaming=false": false, "changed=false": true,
		"min_latency_ms=1500&max_latency_ms=1500": true, "max_latency_ms=1499": false, "max_cost_nanos=99": false, "min_cost_nanos=100": true,
		"min_tokens=21&max_tokens=21": true, "min_tokens=22": false, "key_name=name+of+key_a": true,
		"key_name=%27+OR+1%3D1+--": false, "request_id=" + id: true, "request_id=r": false, "error=x": false, "usage_source=provider": true,
		"price_rule_id=rule-1": true, "project=x": false, "min_attempts=2": false, "endpoint=%2Fv1%2Fchat%2Fcompletions": true,
		"from=2026-11-01&to=2026-11-01":                                true,
		"from=2026-11-01&to=2026-11-01&timezone=America/New_York":      true,
		"from=2026-10-31&to=2026-10-31&timezone=Pacific/Kiritimati":    false,
		"from=2026-11-02&to=2026-11-02&timezone=Pacific/Kiritimati":    true,
		"from=2026-11-01T12:00:00Z&to=2026-11-01T14:00:00%2B02:00":     false,
		"from=2026-11-01T12:00:00Z&to=2026-11-01T14:00:00.001%2B02:00": true,
	} {
		ids, _ := c.ids("/v1/audit?"+query, "request_id")
		if (len(ids) > 0) != found {
			t.Errorf("%s: found %v, want %t", query, ids, found)
		}
	}
}
