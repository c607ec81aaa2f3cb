package admin

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
	"github.com/google/go-cmp/cmp"
)

func TestAuditRow(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	plain := request("r1", "key_a", day(1, 12), 100)
	odd := request("r2", "key_a", day(1, 13), 0)
	odd.MarketCost, odd.PriceRuleID, odd.Status, odd.Error = 0, "", 502, "upstream request failed"
	odd.Changes, odd.UserAgent, odd.Streaming = []string{"top_k dropped"}, `<b>"agent"</b>`, false
	odd.Attempts = 2
	odd.AttemptLog = []billing.Attempt{
		{Provider: "openai", Model: "gpt-4o", Credential: "team", Status: 529, Duration: 40 * time.Millisecond},
		{Provider: "openai", Model: "gpt-4o", Credential: "default", Error: "timed out", Duration: 2 * time.Second},
	}
	g.post(t, plain, odd)

	want := `{"request_id":"r1","created_at":"2026-11-01T12:00:00Z","provider":"openai","model":"gpt-4o",` +
		`"endpoint":"/v1/chat/completions","prompt_tokens":16,"completion_tokens":5,"cached_tokens":3,"cache_write_tokens":3,` +
		`"reasoning_tokens":4,"cost_nanos":100,"market_cost_nanos":100,"latency_ms":1500,"ttfb_ms":250,"status":200,"error":null,` +
		`"key_id":"key_a","key_name":"name of key_a","client_ip":"192.0.2.1","streaming":true,"user_agent":"sdk/1",` +
		`"usage_source":"provider","price_rule_id":"rule-1","attempts":1,"attempt_log":[],"changes":[]}`
	c.do(http.MethodGet, "/v1/audit/r1", "").want(t, http.StatusOK, want)
	c.do(http.MethodGet, "/v1/audit/r2", "").want(t, http.StatusOK, `"status":502,"error":"upstream request failed"`,
		`"attempts":2,"attempt_log":[{"provider":"openai","model":"gpt-4o","credential":"team","status":529,"error":null,"duration_ms":40},`+
			`{"provider":"openai","model":"gpt-4o","credential":"default","status":null,"error":"timed out","duration_ms":2000}]`,
		`"price_rule_id":null`, `"changes":["top_k dropped"]`, `"streaming":false`, `"user_agent":"<b>\"agent\"</b>"`)
	c.do(http.MethodGet, "/v1/audit", "").want(t, http.StatusOK, want, `"next_cursor":null`)
}

func TestAuditRowHasItsCalculation(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := request("r1", "key_a", day(1, 12), 1_604)
	s.MarketCost = 2_005
	s.Usage = metering.Usage{Input: 1_204, Output: 10, WebSearches: 1}
	s.PriceSheet = `{"discount":200000,"parts":[{"rule":"rule-1","rates":[2500000,0,0,0,0,0,0,100000000,0,0,1000],` +
		`"factors":[{"dimension":"tier","value":"flex","per_mille":500}]}]}`
	g.post(t, s)
	newClient(t, g).do(http.MethodGet, "/v1/audit/r1", "").want(t, http.StatusOK,
		`"calculation":{"lines":[{"bucket":"input","model":null,"price_rule_id":"rule-1","quantity":1204,"unit":"tokens",`+
			`"rate_nanos_per_million":2500000,"long_context":false,"multipliers":[{"dimension":"tier","value":"flex","factor":"0.50"}],`+
			`"amount":"0.000001505","text":"1,204 input tokens x $0.0025/M x 0.50 (tier flex)"},`,
		`"amount":"0.0000005","text":"10 output tokens x $0.10/M x 0.50 (tier flex)"}`,
		`"amount":"0.000000000001","text":"1 web searches x $0.000001/M"}]`,
		`"market_amount":"0.000002005001","market_cost_nanos":2005,"discount_percent":"20%","discount_amount":"-0.0000004010002",`+
			`"amount":"0.0000016040008","cost_nanos":1604}`)
}

func TestAuditOfOthersIsNotFound(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	theirs := request("r1", "key_a", day(1, 12), 100)
	theirs.OrganizationID = otherOrg
	g.post(t, theirs)
	for _, id := range []string{"r1", "r2", "%00", "%ff"} {
		c.do(http.MethodGet, "/v1/audit/"+id, "").want(t, http.StatusNotFound, "no such request")
	}
	c.do(http.MethodGet, "/v1/audit?key_id=key_a", "").want(t, http.StatusOK, `"data":[]`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/audit/r1", "").want(t, http.StatusOK)
}

func TestAuditOfWhatIsNotKeptSaysSo(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	at := time.Now().AddDate(0, 0, -100)
	old := request(billing.NewID(billing.RequestIDPrefix, at), "key_a", at, 100)
	g.post(t, old)
	c.do(http.MethodGet, "/v1/audit/"+old.RequestID, "").want(t, http.StatusOK)
	if n, err := g.store.DropRequests(t.Context(), at.AddDate(0, 0, 10)); err != nil || n != 1 {
		t.Fatalf("dropped %d requests, %v", n, err)
	}
	c.do(http.MethodGet, "/v1/audit/"+old.RequestID, "").want(t, http.StatusNotFound, "older than the requests that this gateway keeps")
	recent := billing.NewID(billing.RequestIDPrefix, time.Now())
	c.do(http.MethodGet, "/v1/audit/"+recent, "").want(t, http.StatusNotFound, "no such request: check the id")
	c.do(http.MethodGet, "/v1/audit", "").want(t, http.StatusOK, `"data":[]`)
}

func TestAuditIsSelected(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	for query, days := range map[string][]int{
		"":                               {4, 3, 2, 1},
		"?from=2026-11-02&to=2026-11-03": {3, 2},
		"?key_id=key_b":                  {2},
		"?provider=anthropic":            {3},
		"?model=gpt-4o&limit=2":          {4, 2},
		"?model=gpt-4o&key_id=key_a&to=2026-11-03": {1},
	} {
		var want []string
		for _, d := range days {
			want = append(want, idOfDay(d))
		}
		ids, _ := c.ids("/v1/audit"+query, "request_id")
		if diff := cmp.Diff(want, ids); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
}

// ids returns the ids of a page's elements and its cursor, "" on the last.
func (c client) ids(target, field string) ([]string, string) {
	c.t.Helper()
	page := decode[list[map[string]any]](c.t, c.do(http.MethodGet, target, "").want(c.t, http.StatusOK))
	var ids []string
	for _, element := range page.Data {
		ids = append(ids, element[field].(string))
	}
	if page.NextCursor == nil {
		return ids, ""
	}
	return ids, *page.NextCursor
}

// TestPagesAreStable walks each list while it grows: what was there at the
// start is seen once, in order, and what is new is not.
func TestPagesAreStable(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	requests, invited := 0, 0
	for _, x := range []struct {
		path, field string
		add         func()
	}{
		{"/v1/keys", "id", func() { c.createKey(`{"name":"a"}`) }},
		{"/v1/members", "id", func() {
			invited++
			c.invite(fmt.Sprintf(`{"email":"%d@example.com","role":"viewer"}`, invited))
			time.Sleep(time.Millisecond) // ids of one millisecond are in no order
		}},
		{"/v1/audit", "request_id", func() {
			requests++
			g.post(t, request(fmt.Sprintf("r%03d", requests), "key_a", day(1, 12), 1))
		}},
		{"/v1/billing/transactions", "id", func() {
			c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
		}},
	} {
		for range 7 {
			x.add()
		}
		want, _ := c.ids(x.path, x.field)
		var got []string
		cursor, pages := "", 0
		for pages == 0 || cursor != "" {
			var page []string
			target := x.path + "?limit=3"
			if cursor != "" {
				target += "&cursor=" + cursor
			}
			page, cursor = c.ids(target, x.field)
			for n := range len(cursor) {
				c.do(http.MethodGet, x.path+"?limit=3&cursor="+cursor[:n], "").
					want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
			}
			if len(page) > 3 {
				t.Errorf("%s: a page of %d", x.path, len(page))
			}
			got = append(got, page...)
			pages++
			x.add()
		}
		if len(want) < 7 {
			t.Errorf("%s: %d elements at the start", x.path, len(want))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s in pages (-whole +pages):\n%s", x.path, diff)
		}
	}
}

func TestPageThatIsJustFullIsTheLast(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	if ids, cursor := c.ids("/v1/audit?limit=4", "request_id"); len(ids) != 4 || cursor != "" {
		t.Errorf("page of %v, cursor %q, want all 4 and none", ids, cursor)
	}
}

func TestInvalidCursors(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, cursor := range []string{
		"%%%", "not a cursor", "a", "YQ==", base64.RawURLEncoding.EncodeToString([]byte("a\x00b")),
		base64.RawURLEncoding.EncodeToString([]byte{0xff}),
	} {
		for _, path := range []string{"/v1/keys", "/v1/audit", "/v1/billing/transactions"} {
			c.do(http.MethodGet, path+"?cursor="+url.QueryEscape(cursor), "").
				want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
		}
	}
	stray := base64.RawURLEncoding.EncodeToString([]byte("' OR 1=1 --"))
	for _, path := range []string{"/v1/keys", "/v1/audit", "/v1/billing/transactions"} {
		c.do(http.MethodGet, path+"?cursor="+stray, "").want(t, http.StatusUnprocessableEntity, `"location":"query.cursor"`)
	}
}

func TestEmptyLists(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.packages = []billing.Package{}
	c := newClient(t, g)
	for _, path := range []string{"/v1/keys", "/v1/audit", "/v1/billing/transactions", "/v1/billing/packages"} {
		c.do(http.MethodGet, path, "").want(t, http.StatusOK, `{"data":[],"next_cursor":null}`)
	}
}
