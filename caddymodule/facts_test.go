package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers" // directives of the tests
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/logging"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// startLogging runs a gateway with an access log.
func startLogging(t *testing.T, around string) *node {
	t.Helper()
	n := &node{sandbox: sandbox.New(), log: filepath.Join(t.TempDir(), "access.log"), around: around}
	upstream := httptest.NewServer(n.sandbox)
	t.Cleanup(upstream.Close)
	n.load(t, t.TempDir(), upstream.URL, "")
	return n
}

// logged stops the gateway and returns what the access log says, in order.
func (n *node) logged(t *testing.T) []map[string]any {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(n.log)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for decoder := json.NewDecoder(bytes.NewReader(b)); decoder.More(); {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

// rowFacts are the facts in an audit row, as JSON has them.
func rowFacts(row *billing.Settlement, tokens bool) map[string]any {
	want := map[string]any{
		"request_id": row.RequestID, "organization_id": row.OrganizationID, "key_id": row.KeyID, "key_name": row.KeyName,
		"provider": row.Provider, "model": row.Model, "endpoint": row.Endpoint,
	}
	if row.Project != "" {
		want["project"] = row.Project
	}
	if row.Error != "" {
		want["error"] = row.Error
	}
	if tokens {
		want["streaming"], want["attempts"] = row.Streaming, float64(row.Attempts)
		want["prompt_tokens"], want["completion_tokens"] = float64(row.Usage.Prompt()), float64(row.Usage.Completion())
		want["cached_tokens"] = float64(row.Usage.Cached())
		want["cost_nanos"], want["market_cost_nanos"] = float64(row.Cost), float64(row.MarketCost)
		want["usage_source"], want["price_rule_id"] = string(row.UsageSource), row.PriceRuleID
		want["credential"] = row.AttemptLog[len(row.AttemptLog)-1].Credential
	}
	return want
}

func TestAccessLogTellsWhatBecameOfARequest(t *testing.T) {
	n := startLogging(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, func(k *billing.Key) { k.AllowedModels = []string{"gpt-4o", "claude-*"} })
	none := metering.Money(0)
	spent := n.key(t, func(k *billing.Key) { k.UsageLimit = &none })
	for _, r := range []struct {
		path, key, body string
		headers         []string
	}{
		{chat, key, hello, []string{"X-Sandbox-Delay", "5ms"}},
		{chat, key, stream, nil},
		{messages, "", claude, []string{"X-Api-Key", key}}, // in the line that is written in place of Caddy's
		{chat, key, `{"model":"gpt-99","messages":[]}`, nil},
		{chat, spent, stream, nil},
		{"/unreachable/chat/completions", key, hello, nil},
		{chat, unknownKey, hello, nil},
		{"/nope/x", key, hello, nil},
		{"/elsewhere", "", hello, []string{"X-Api-Key", "somebody else's"}},
	} {
		read(t, n.do(t, "POST", r.path, r.key, r.body, r.headers...))
	}
	if err := n.app.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := n.app.Store().Requests(t.Context(), billing.DefaultOrganization, billing.Filter{}, billing.Page{})
	if err != nil || len(rows) != 6 {
		t.Fatalf("%d rows, want 6 (%v)", len(rows), err)
	}
	// Rows of one millisecond are in no order.
	byID := make(map[any]map[string]any)
	for i := range rows {
		facts := rowFacts(&rows[i], rows[i].Attempts > 0)
		if rows[i].Error == "spend_exceeded" {
			facts["streaming"] = true
		}
		byID[rows[i].RequestID] = facts
	}
	var want, got []map[string]any
	for _, line := range n.logged(t)[:len(rows)] {
		facts, _ := line[logField].(map[string]any)
		want = append(want, byID[facts["request_id"]])
		delete(byID, facts["request_id"])
	}
	want = append(want,
		map[string]any{"provider": "openai", "endpoint": "chat/completions", "error": "invalid proxy key"},
		map[string]any{"error": "unknown provider"}, nil)
	for _, line := range n.logged(t) {
		facts, _ := line[logField].(map[string]any)
		if ttfb, ok := facts["ttfb_ms"].(float64); ok && ttfb <= 0 {
			t.Errorf("time to first byte is %v ms", ttfb)
		}
		delete(facts, "ttfb_ms")
		if i := len(got); i >= len(rows) && facts != nil {
			if facts["request_id"] == "" {
				t.Errorf("no request id in %v", facts)
			}
			delete(facts, "request_id")
		}
		got = append(got, facts)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("access log (-want +got):\n%s", diff)
	}
}

func TestPlaceholdersTellWhatBecameOfARequest(t *testing.T) {
	var around strings.Builder
	around.WriteString("header {\ndefer\nX-Cost {http.llm_gateway.cost}\nX-Key {http.llm_gateway.key_name}\n}\n")
	for _, f := range facts {
		around.WriteString("log_append <early_" + f.name + " {http.llm_gateway." + f.name + "}\n")
		around.WriteString("log_append late_" + f.name + " {http.llm_gateway." + f.name + "}\n")
	}
	around.WriteString("log_append late_unknown {http.llm_gateway.unknown}\n")
	n := startLogging(t, around.String())
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	var ids []string
	for _, body := range []string{hello, stream} {
		res := n.do(t, "POST", chat, key, body)
		read(t, res)
		id := res.Header.Get("X-Request-Id")
		row := n.row(t, id)
		want := row.Cost.String()
		if body == stream {
			want = "" // its header is sent before
		}
		if got := res.Header.Get("X-Cost"); got != want || res.Header.Get("X-Key") != row.KeyName {
			t.Errorf("X-Cost %q, want %q; X-Key %q, want %q", got, want, res.Header.Get("X-Key"), row.KeyName)
		}
		ids = append(ids, id)
	}
	var rows []billing.Settlement
	for _, id := range ids {
		rows = append(rows, n.row(t, id))
	}
	lines := n.logged(t)
	if len(lines) != len(rows) {
		t.Fatalf("%d lines for %d requests", len(lines), len(rows))
	}
	for i, line := range lines {
		row := &rows[i]
		want := rowFacts(row, true)
		want["cost"], want["market_cost"], want["status"] = row.Cost.String(), row.MarketCost.String(), float64(row.Status)
		got := make(map[string]any)
		for name, value := range line {
			if name, late := strings.CutPrefix(name, "late_"); late && value != nil && name != "ttfb_ms" {
				got[name] = value
			}
			if strings.HasPrefix(name, "early_") && value != nil {
				t.Errorf("%s is %v before the gateway has seen the request", name, value)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("placeholders (-want +got):\n%s", diff)
		}
	}
}

func TestRefusalsAreCountedByTheirError(t *testing.T) {
	before := refusals(t)
	n := start(t, "")
	key := n.key(t, nil)
	for range 2 {
		n.do(t, "POST", chat, key, hello)
	}
	n.do(t, "POST", "/"+strings.Repeat("x", 50)+"/v1", key, hello)
	n.do(t, "POST", messages, "", claude)
	got := refusals(t)
	for name, count := range before {
		if got[name] -= count; got[name] == 0 {
			delete(got, name)
		}
	}
	want := map[string]float64{"openai: insufficient_credits": 2, ": unknown provider": 1, "anthropic: missing proxy key": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
}

// refusals are the counts of refused requests by provider and error.
func refusals(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(refusalsTotal)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			counts[labels["provider"]+": "+labels["error"]] = m.GetCounter().GetValue()
		}
	}
	return counts
}

func TestObservabilityIsDocumented(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{eventLimitReached, eventBudgetSoft, eventBreakerOpen, eventLowBalance}
	for _, f := range facts {
		names = append(names, f.name)
	}
	for _, name := range names {
		if !strings.Contains(string(document), "| `"+name+"` |") {
			t.Errorf("docs/observability.md does not have a line for %s", name)
		}
	}
}
