package caddymodule

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// scrape returns a metric's values by their labels, as name=value pairs.
func scrape(t *testing.T, name string) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetName() + "=" + l.GetValue() + " "
			}
			values[labels] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// rise is what has been added to counters.
func rise(before, after map[string]float64) map[string]float64 {
	risen := make(map[string]float64)
	for labels, value := range after {
		if added := value - before[labels]; added != 0 {
			risen[labels] = added
		}
	}
	return risen
}

func TestMetricsOfAttempts(t *testing.T) {
	n := startBefore(t, guarded, "credential revoked revoked", "credential broken broken", "retries 1")
	n.app.Providers["odd"].secrets = n.app.Providers["odd"].secrets[1:2]
	n.buy(t, metering.USD)
	advance := n.freeze()
	key := n.key(t, nil)
	const (
		attempts = "caddy_llm_gateway_attempts_total"
		rests    = "caddy_llm_gateway_credential_rests_total"
		breaker  = "caddy_llm_gateway_breaker_state"
	)
	tried, rested := scrape(t, attempts), scrape(t, rests)
	n.do(t, "POST", oddChat, key, hello)
	if diff := cmp.Diff(map[string]float64{"outcome=unauthorized provider=odd ": 1}, rise(tried, scrape(t, attempts))); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	want := map[string]float64{"credential=revoked provider=odd reason=unauthorized ": 1}
	if diff := cmp.Diff(want, rise(rested, scrape(t, rests))); diff != "" {
		t.Errorf("rests (-want +got):\n%s", diff)
	}

	states := map[string]float64{}
	for name := range n.app.Providers {
		states["provider="+name+" "] = 0
	}
	look := func(when string, odd float64) {
		t.Helper()
		want := maps.Clone(states)
		want["provider=odd "] = odd
		if diff := cmp.Diff(want, scrape(t, breaker)); diff != "" {
			t.Errorf("breakers %s (-want +got):\n%s", when, diff)
		}
	}
	look("at first", 0)
	p := n.app.Providers["odd"]
	for range 10 {
		pass, _, _ := p.state.Breaker.Allow()
		p.state.Breaker.Record(pass, upstream.ServerError)
	}
	look("after ten failures", 2)
	advance(30 * time.Second)
	look("when a probe may go", 1)
}

func TestRequestsAreCountedWithoutAProvider(t *testing.T) {
	n := start(t, "")
	key := n.key(t, nil)
	const requests = "caddy_llm_gateway_requests_total"
	before := scrape(t, requests)
	n.do(t, "POST", unifiedPath, key, `{"model":"nobody","messages":[]}`)
	n.do(t, "POST", unifiedPath, "", `{"model":"gpt-4o","messages":[]}`)
	n.do(t, "GET", "/nobody/v1/models", key, "")
	want := map[string]float64{"code=400 provider= ": 2, "code=401 provider= ": 1}
	if diff := cmp.Diff(want, rise(before, scrape(t, requests))); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}
