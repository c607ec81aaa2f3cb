package admin

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestNodesAndTheirLeasesAreListed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	n := billing.Node{
		ID: "node_a", Incarnation: "run_1", Host: "gw-1", Version: "v1", StartedAt: time.Now(),
		LeaseTTL: 10 * time.Minute, Unposted: 3, Lag: 1500 * time.Millisecond,
	}
	if err := g.store.Join(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	_, err := g.store.Append(t.Context(), billing.Entry{
		OrganizationID: billing.DefaultOrganization, Type: billing.Purchase, Amount: metering.USD, IdempotencyKey: "p",
	})
	if err != nil {
		t.Fatal(err)
	}
	credits := billing.CreditsOf(billing.DefaultOrganization)
	if _, err := g.store.Lease(t.Context(), n.Holder(), []billing.Want{{Allowance: credits, Need: 7}}); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodGet, "/v1/nodes", "").want(t, http.StatusOK, `"id":"node_a"`, `"state":"registered"`, `"host":"gw-1"`,
		`"lease_ttl_seconds":600`, `"unposted":3`, `"lag_seconds":1.5`, `"leases":1`, `"leased_credits_nanos":7`)
	c.do(http.MethodGet, "/v1/nodes/node_a/leases", "").want(t, http.StatusOK,
		`"kind":"credits"`, `"key_id":null`, `"amount_nanos":7`)
	c.do(http.MethodGet, "/v1/nodes/node_b/leases", "").want(t, http.StatusNotFound, "no such node")

	if _, err := g.store.Expire(t.Context(), n.ID, 1); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodGet, "/v1/nodes", "").want(t, http.StatusOK, `"state":"expired"`, `"leases":0`)
}
