package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// request returns the settlement of a request that cost something.
func request(id, keyID string, at time.Time, cost billing.Money) billing.Settlement {
	return billing.Settlement{
		RequestID:      id,
		OrganizationID: billing.DefaultOrganization,
		KeyID:          keyID,
		KeyName:        "name of " + keyID,
		At:             at,
		Provider:       "openai",
		Model:          "gpt-4o",
		Endpoint:       "/v1/chat/completions",
		Usage:          metering.Usage{Input: 10, CacheRead: 3, CacheWrite: 2, CacheWriteLong: 1, Output: 5, Reasoning: 4},
		UsageSource:    metering.SourceProvider,
		Cost:           cost,
		MarketCost:     cost,
		PriceRuleID:    "rule-1",
		Latency:        1500 * time.Millisecond,
		TTFB:           250 * time.Millisecond,
		Status:         http.StatusOK,
		ClientIP:       "192.0.2.1",
		UserAgent:      "sdk/1",
		Streaming:      true,
		Attempts:       1,
	}
}

// post settles requests.
func (g *testGateway) post(t *testing.T, batch ...billing.Settlement) {
	t.Helper()
	conflicts, err := g.store.Post(t.Context(), "node-1", batch)
	if err != nil || len(conflicts) != 0 {
		t.Fatalf("posting: %v, conflicts %v", err, conflicts)
	}
}

func day(d, hour int) time.Time { return time.Date(2026, 11, d, hour, 0, 0, 0, time.UTC) }

// idOfDay returns the id of a request at noon of a day in November.
func idOfDay(d int) string { return billing.IDFloor(billing.RequestIDPrefix, day(d, 12)) }

// usageBooks has five requests: 100, 200, 300 and 400 nano-USD on November 1
// to 4 at noon, at 20 % below market, and one of another organization.
func usageBooks(t *testing.T) client {
	t.Helper()
	g := newGateway(t)
	c := newClient(t, g)
	var batch []billing.Settlement
	for i := range 4 {
		s := request(idOfDay(i+1), "key_a", day(i+1, 12), billing.Money(100*(i+1)))
		s.MarketCost = s.Cost * 5 / 4
		batch = append(batch, s)
	}
	batch[1].KeyID = "key_b"
	batch[2].Provider, batch[2].Model = "anthropic", "claude-sonnet-4-5"
	foreign := request(idOfDay(2), "key_a", day(2, 12), 5000)
	foreign.OrganizationID = otherOrg
	g.post(t, append(batch, foreign)...)
	return c
}

func TestUsageTotals(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	c.do(http.MethodGet, "/v1/usage", "").want(t, http.StatusOK, `{"from":null,"to":null,"totals":{"requests":4,`+
		`"prompt_tokens":64,"completion_tokens":20,"cached_tokens":12,"reasoning_tokens":16,"cost_nanos":1000,"market_cost_nanos":1250,`+
		`"savings_nanos":250,"savings_percent":20},"groups":[]}`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/usage", "").
		want(t, http.StatusOK, `"requests":1,`, `"cost_nanos":5000,`, `"savings_nanos":0,"savings_percent":0}`)
}

func TestUsageIsSelected(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	for query, cost := range map[string]int{
		"":                               1000,
		"?from=2026-11-02":               900,
		"?to=2026-11-02":                 300, // the whole day
		"?from=2026-11-02&to=2026-11-02": 200,
		"?from=2026-11-02T12:00:00Z":     900, // inclusive
		"?to=2026-11-02T12:00:00Z":       100, // exclusive
		"?from=2026-11-02T14:00:00%2B02:00&to=2026-11-02T12:00:00.000001Z": 200,
		"?from=2026-11-02T12:00:00Z&to=2026-11-02T12:00:00Z":               0,
		"?from=2030-01-01":                              0,
		"?key_id=key_b":                                 200,
		"?key_id=nobody":                                0,
		"?provider=openai":                              700,
		"?provider=anthropic&model=gpt-4o":              0,
		"?model=claude-sonnet-4-5":                      300,
		"?model=claude%2A":                              0, // names, not globs
		"?provider=openai&key_id=key_a&from=2026-11-03": 400,
		"?from=&to=&key_id=":                            1000,
		"?from=2026-11-02&timezone=Asia/Tokyo":          900, // from 15:00 of the first in UTC
		"?to=2026-11-01&timezone=Pacific/Kiritimati":    0,   // until 10:00 in UTC
		"?to=2026-11-01&timezone=America/New_York":      100,
		"?project=none":                                 0,
		"?owner=mem_nobody":                             0,
		"?provider=%27%20OR%201%3D1":                    0,
	} {
		c.do(http.MethodGet, "/v1/usage"+query, "").want(t, http.StatusOK, fmt.Sprintf(`"cost_nanos":%d,`, cost))
	}
	c.do(http.MethodGet, "/v1/usage?from=2026-11-01&to=2026-11-30", "").
		want(t, http.StatusOK, `"from":"2026-11-01T00:00:00Z","to":"2026-12-01T00:00:00Z"`)
}

func TestUsageOfAKey(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	id, other := c.createKey(`{"name":"a"}`).ID, c.createKey(`{"name":"b"}`).ID
	g.post(t, request("r1", id, day(1, 0), 5), request("r2", id, day(2, 0), 7), request("r3", other, day(2, 0), 11))
	c.do(http.MethodGet, "/v1/keys/"+id+"/usage", "").want(t, http.StatusOK, `"requests":2,`, `"cost_nanos":12,`)
	c.do(http.MethodGet, "/v1/keys/"+id+"/usage?from=2026-11-02", "").want(t, http.StatusOK, `"cost_nanos":7,`)
	c.do(http.MethodGet, "/v1/keys/"+id+"/usage?model=other", "").want(t, http.StatusOK, `"cost_nanos":0,`)
	c.do(http.MethodGet, "/v1/keys/"+id+"/usage?key_id="+other, "").want(t, http.StatusUnprocessableEntity, "query.key_id")
}

func TestFaultySelectionsAreRefusedByParameter(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for query, location := range map[string]string{
		"from=yesterday":                "query.from",
		"from=2026-13-01":               "query.from",
		"to=2026-02-30":                 "query.to",
		"to=9999-12-31":                 "query.to",
		"to=9999-12-31T23:59:59-01:00":  "query.to",
		"to=1762000000":                 "query.to",
		"from=2026-11-01T00:00:00":      "query.from",
		"from=0001-01-01":               "query.from",
		"to=1969-12-30":                 "query.to",
		"from=2026-11-02&to=2026-11-01": "query.from",
		"from=2026-11-01T00:00:01Z&to=2026-11-01T00:00:00Z": "query.from",
		"provider=%00":              "query.provider",
		"model=%ff":                 "query.model",
		"model=a%0Ab":               "query.model",
		"timezone=Mars/Olympus":     "query.timezone",
		"timezone=Local":            "query.timezone",
		"timezone=../../etc/passwd": "query.timezone",
	} {
		for _, path := range []string{"/v1/usage?", "/v1/audit?"} {
			c.do(http.MethodGet, path+query, "").want(t, http.StatusUnprocessableEntity, `"location":"`+location+`"`)
		}
	}
	c.do(http.MethodGet, "/v1/usage?from=x&to=y&key_id=%00", "").want(t, http.StatusUnprocessableEntity,
		"query.from", "query.to", "query.key_id", "(and 2 more)")
}

func TestUsageIsGrouped(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	for query, want := range map[string][]string{
		"group_by=model": {
			`{"key":{"model":"gpt-4o"},"start":null,"other":false,"requests":3,`, `{"key":{"model":"claude-sonnet-4-5"},`,
		},
		"group_by=model&order=asc":                    {`"claude-sonnet-4-5"`, `"gpt-4o"`},
		"group_by=key":                                {`{"key":{"key":{"id":"key_a","name":""}},`, `"key_b"`},
		"group_by=provider&sort=provider":             {`{"key":{"provider":"anthropic"},`, `{"key":{"provider":"openai"},`},
		"group_by=project":                            {`{"key":{"project":""},`, `"requests":4,`},
		"group_by=date&from=2026-11-03&to=2026-11-05": {`{"date":"2026-11-03"},"start":"2026-11-03T00:00:00Z"`, `"2026-11-04"`, `{"date":"2026-11-05"},"start":"2026-11-05T00:00:00Z","other":false,"requests":0,`},
		"group_by=date":                               {`"2026-11-01"`, `"2026-11-04"`},
		"group_by=date&interval=month":                {`{"date":"2026-11-01"},"start":"2026-11-01T00:00:00Z","other":false,"requests":4,`},
		"group_by=date&interval=week":                 {`"2026-11-01"`}, // a Sunday
		"group_by=date&timezone=Asia/Kolkata":         {`"start":"2026-11-01T00:00:00+05:30"`, `"2026-11-04T00:00:00+05:30"`},
		"group_by=date,model&from=2026-11-03":         {`{"date":"2026-11-03","model":"claude-sonnet-4-5"}`, `{"date":"2026-11-04","model":"gpt-4o"}`},
		"group_by=model,date&sort=cost&order=desc":    {`"cost_nanos":400`, `"cost_nanos":300`, `"cost_nanos":200`, `"cost_nanos":100`},
		"group_by=date&sort=cost&order=desc&limit=1":  {`"2026-11-04"`, `{"key":{},"start":null,"other":true,"requests":3,`, `"cost_nanos":600,"market_cost_nanos":750,"savings_nanos":150,"savings_percent":20}]`},
		"group_by=date&limit=4":                       {`"2026-11-01"`, `"2026-11-04"`},
		"group_by=date&interval=hour&from=2026-11-02T12:00:00Z&to=2026-11-02T13:00:00Z&timezone=Europe/Berlin": {`{"date":"2026-11-02T13:00:00+01:00"},"start":"2026-11-02T13:00:00+01:00"`},
	} {
		answer := c.do(http.MethodGet, "/v1/usage?"+query, "").want(t, http.StatusOK).body
		_, groups, _ := strings.Cut(answer, `"groups":`)
		for _, part := range want {
			_, rest, found := strings.Cut(groups, part)
			if !found {
				t.Errorf("%s: answers %s, want %s after what is before it", query, answer, part)
				break
			}
			groups = rest
		}
		if other := strings.Contains(answer, `"other":true`); other != strings.Contains(query, "limit=1") {
			t.Errorf("%s: a sum of others is there: %t", query, other)
		}
	}
}

func TestFaultyGroupsAreRefused(t *testing.T) {
	t.Parallel()
	c := usageBooks(t)
	for query, location := range map[string]string{
		"group_by=day":                                "query.group_by",
		"group_by=date,key,model":                     "query.group_by",
		"group_by=date,date":                          "query.group_by",
		"group_by=date&interval=year":                 "query.interval",
		"group_by=model&sort=date":                    "query.sort",
		"sort=model":                                  "query.sort",
		"group_by=model&sort=price":                   "query.sort",
		"group_by=model&order=down":                   "query.order",
		"group_by=model&limit=0":                      "query.limit",
		"group_by=model&limit=10001":                  "query.limit",
		"group_by=date&interval=hour&from=2020-01-01": "query.interval",
		"group_by=date&from=1970-01-01":               "query.interval",
		"owner=%00":                                   "query.owner",
		"project=%00":                                 "query.project",
	} {
		c.do(http.MethodGet, "/v1/usage?"+query, "").want(t, http.StatusUnprocessableEntity, location)
	}
}

func TestUsageOfAKeyIsGrouped(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	id := c.createKey(`{"name":"a"}`).ID
	g.post(t, request("r1", id, day(1, 0), 5), request("r2", id, day(2, 0), 7), request("r3", "other", day(2, 0), 11))
	c.do(http.MethodGet, "/v1/keys/"+id+"/usage?group_by=key,date&limit=1", "").want(t, http.StatusOK,
		`{"date":"2026-11-01","key":{"id":"`+id+`","name":"a"}}`, `"other":true,"requests":1,`, `"cost_nanos":7,`)
}
