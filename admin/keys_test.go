package admin

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/google/go-cmp/cmp"
)

func TestCreatedKeyIsShownOnceAndStoredAsAHash(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	created := decode[createdKeyView](t, c.do(http.MethodPost, "/v1/keys", `{"name":"ci"}`).want(t, http.StatusCreated))
	if !billing.IsSecret(created.Key) {
		t.Errorf("key %q is not a secret", created.Key)
	}
	if until := g.untilOf(t, created.Key); until != "current" {
		t.Errorf("stored under its hash is a secret that is %s", until)
	}
	for _, path := range []string{"/v1/keys", "/v1/keys/" + created.ID} {
		c.do(http.MethodGet, path, "").want(t, http.StatusOK, `"prefix":"`+billing.DisplayPrefix(created.Key)+`"`).
			lacks(t, created.Key)
	}
	if strings.Contains(g.log.String(), created.Key) {
		t.Error("the secret is in the log")
	}
}

// createdKeyView and keyView read answers as a client would.
type createdKeyView struct {
	Key      string         `json:"key"`
	ID       string         `json:"id"`
	ProxyKey map[string]any `json:"proxy_key"`
}

type keyView map[string]any

func (c client) createKey(body string) createdKeyView {
	c.t.Helper()
	return decode[createdKeyView](c.t, c.do(http.MethodPost, "/v1/keys", body).want(c.t, http.StatusCreated))
}

func TestFieldsOfANewKey(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for name, x := range map[string]struct{ body, want string }{
		"defaults": {`{"name":"a"}`, `{"name":"a","status":"active","allowed_providers":[],"allowed_models":[],"allowed_ips":[],
			"rate_limit_rpm":null,"usage_limit_dollars":null,"usage_limit_reset":"never","expires_at":null,
			"last_used_at":null,"spend_nanos":0}`},
		"nulls are defaults": {`{"name":"a","allowed_providers":null,"allowed_models":null,"allowed_ips":null,"rate_limit_rpm":null,
			"usage_limit_dollars":null,"usage_limit_reset":null,"expires_at":null}`, `{"name":"a","status":"active",
			"allowed_providers":[],"allowed_models":[],"allowed_ips":[],"rate_limit_rpm":null,"usage_limit_dollars":null,
			"usage_limit_reset":"never","expires_at":null,"last_used_at":null,"spend_nanos":0}`},
		"all": {`{"name":"b","allowed_providers":["openai","my-vLLM_2"],"allowed_models":["gpt-4o*","*"],
			"allowed_ips":["192.0.2.77/24","::ffff:10.1.2.3","2001:DB8::0/32","::ffff:10.0.0.9/104","203.0.113.9"],
			"project":"search.v2_A-1","rate_limit_tpm":9e4,"max_concurrent":8,"usage_soft_limit_dollars":12.5,
			"rate_limit_rpm":6e1,"usage_limit_dollars":"12.50","usage_limit_reset":"weekly","expires_at":"2999-01-02T03:04:05.1234567+02:00"}`,
			`{"name":"b","status":"active","allowed_providers":["openai","my-vLLM_2"],"allowed_models":["gpt-4o*","*"],
			"allowed_ips":["192.0.2.0/24","10.1.2.3","2001:db8::/32","10.0.0.0/8","203.0.113.9"],
			"project":"search.v2_A-1","rate_limit_tpm":90000,"max_concurrent":8,"usage_soft_limit_dollars":12.5,
			"rate_limit_rpm":60,"usage_limit_dollars":12.5,"usage_limit_reset":"weekly","expires_at":"2999-01-02T01:04:05.123456Z",
			"last_used_at":null,"spend_nanos":0}`},
		"entries that repeat are kept once": {`{"name":"d","allowed_providers":["openai","gemini","openai"],"allowed_models":["*","gpt-*","*"],
			"allowed_ips":["10.0.0.0/8","10.9.8.7/8","::ffff:10.0.0.0/104","192.0.2.1/32","192.0.2.1","::1/128"]}`,
			`{"name":"d","status":"active","allowed_providers":["openai","gemini"],"allowed_models":["*","gpt-*"],
			"allowed_ips":["10.0.0.0/8","192.0.2.1","::1"],"rate_limit_rpm":null,"usage_limit_dollars":null,
			"usage_limit_reset":"never","expires_at":null,"last_used_at":null,"spend_nanos":0}`},
		"nothing may be spent": {`{"name":"c","usage_limit_dollars":0,"rate_limit_rpm":0}`, `{"name":"c","status":"active",
			"allowed_providers":[],"allowed_models":[],"allowed_ips":[],"rate_limit_rpm":null,"usage_limit_dollars":0,
			"usage_limit_reset":"never","expires_at":null,"last_used_at":null,"spend_nanos":0}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := c
			api.t = t
			created := api.createKey(x.body)
			want := decode[map[string]any](t, answer{body: x.want})
			for _, field := range []string{
				"owner_id", "project", "rate_limit_tpm", "max_concurrent", "usage_soft_limit_dollars", "previous_secret_expires_at",
			} {
				if _, given := want[field]; !given {
					want[field] = nil
				}
			}
			for _, field := range []string{"id", "prefix", "created_at"} {
				if created.ProxyKey[field] == "" || created.ProxyKey[field] == nil {
					t.Errorf("no %s", field)
				}
				want[field] = created.ProxyKey[field]
			}
			if diff := cmp.Diff(want, created.ProxyKey); diff != "" {
				t.Errorf("created key (-want +got):\n%s", diff)
			}
			got := decode[map[string]any](t, api.do(http.MethodGet, "/v1/keys/"+created.ID, ""))
			if diff := cmp.Diff(created.ProxyKey, got); diff != "" {
				t.Errorf("the key is read otherwise than it was created (-created +read):\n%s", diff)
			}
		})
	}
}

func TestHostileNamesAreKeptAsTheyAre(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, name := range []string{
		`'; DROP TABLE keys; --`, `<script>alert(1)</script>`, `=HYPERLINK("http://x")`, `"quoted" \ back`, "日本語 🦊", "{{7*7}}%s%n",
		strings.Repeat("é", 200), " padded ",
	} {
		body, err := json.Marshal(map[string]string{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		created := c.createKey(string(body))
		got := decode[keyView](t, c.do(http.MethodGet, "/v1/keys/"+created.ID, "").want(t, http.StatusOK))
		if got["name"] != name {
			t.Errorf("name %q came back as %q", name, got["name"])
		}
	}
}

func TestUsageLimitIsExact(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	for _, x := range []struct {
		in     string
		out    string
		amount billing.Money
	}{
		{`0.1`, `0.1`, 100_000_000},
		{`1e-9`, `0.000000001`, 1},
		{`"0.000000001"`, `0.000000001`, 1},
		{`123456789.123456789`, `123456789.123456789`, 123_456_789_123_456_789},
		{`"123456789.123456789"`, `123456789.123456789`, 123_456_789_123_456_789},
		{`"100.00"`, `100`, 100_000_000_000},
	} {
		a := c.do(http.MethodPost, "/v1/keys", `{"name":"a","usage_limit_dollars":`+x.in+`}`).
			want(t, http.StatusCreated, `"usage_limit_dollars":`+x.out+`,`)
		k, err := g.store.Key(t.Context(), billing.DefaultOrganization, decode[createdKeyView](t, a).ID)
		if err != nil || k.UsageLimit == nil || *k.UsageLimit != x.amount {
			t.Errorf("%s is stored as %v, %v, want %d", x.in, k.UsageLimit, err, x.amount)
		}
	}
}

func TestPatchChangesWhatItNames(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	created := c.createKey(`{"name":"a","allowed_providers":["openai"],"allowed_models":["gpt-*"],"allowed_ips":["10.0.0.0/8"],
		"rate_limit_rpm":60,"usage_limit_dollars":5,"usage_limit_reset":"daily","expires_at":"2999-01-01T00:00:00Z"}`)
	want := created.ProxyKey
	for _, x := range []struct{ patch, field, value string }{
		{`{}`, "name", `"a"`},
		{`{"name":"b"}`, "name", `"b"`},
		{`{"allowed_providers":null}`, "allowed_providers", `[]`},
		{`{"allowed_models":[]}`, "allowed_models", `[]`},
		{`{"allowed_ips":["::1"]}`, "allowed_ips", `["::1"]`},
		{`{"rate_limit_rpm":null}`, "rate_limit_rpm", `null`},
		{`{"rate_limit_rpm":7}`, "rate_limit_rpm", `7`},
		{`{"rate_limit_rpm":0}`, "rate_limit_rpm", `null`},
		{`{"usage_limit_dollars":null}`, "usage_limit_dollars", `null`},
		{`{"usage_limit_dollars":"0.25"}`, "usage_limit_dollars", `0.25`},
		{`{"usage_limit_reset":"monthly"}`, "usage_limit_reset", `"monthly"`},
		{`{"usage_limit_reset":null}`, "usage_limit_reset", `"never"`},
		{`{"expires_at":null}`, "expires_at", `null`},
		{`{"project":"search"}`, "project", `"search"`},
		{`{"project":null}`, "project", `null`},
		{`{"rate_limit_tpm":90000}`, "rate_limit_tpm", `90000`},
		{`{"rate_limit_tpm":null}`, "rate_limit_tpm", `null`},
		{`{"max_concurrent":3}`, "max_concurrent", `3`},
		{`{"max_concurrent":0}`, "max_concurrent", `null`},
		{`{"usage_soft_limit_dollars":0.2}`, "usage_soft_limit_dollars", `0.2`},
		{`{"usage_soft_limit_dollars":null}`, "usage_soft_limit_dollars", `null`},
	} {
		g.changes()
		var value any
		if err := json.Unmarshal([]byte(x.value), &value); err != nil {
			t.Fatal(err)
		}
		want[x.field] = value
		got := decode[map[string]any](t, c.do(http.MethodPatch, "/v1/keys/"+created.ID, x.patch).want(t, http.StatusOK))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("after %s (-want +got):\n%s", x.patch, diff)
		}
		if changed := g.changes(); len(changed) != 1 || changed[0] != billing.HashSecret(created.Key) {
			t.Errorf("after %s, changes announced: %x", x.patch, changed)
		}
	}
}

func TestRevocationCannotBeUndone(t *testing.T) {
	t.Parallel()
	for name, revoke := range map[string]func(c client, id string){
		"POST": func(c client, id string) {
			c.do(http.MethodPost, "/v1/keys/"+id+"/revoke", "").want(c.t, http.StatusOK, `"status":"revoked"`, id)
		},
		"DELETE": func(c client, id string) {
			c.do(http.MethodDelete, "/v1/keys/"+id, "").want(c.t, http.StatusNoContent)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			c := newClient(t, g)
			created := c.createKey(`{"name":"a"}`)
			g.changes()
			revoke(c, created.ID)
			if changed := g.changes(); len(changed) != 1 || changed[0] != billing.HashSecret(created.Key) {
				t.Errorf("changes announced: %x", changed)
			}
			first, err := g.store.Key(t.Context(), billing.DefaultOrganization, created.ID)
			if err != nil {
				t.Fatal(err)
			}
			revoke(c, created.ID)
			second, err := g.store.Key(t.Context(), billing.DefaultOrganization, created.ID)
			if err != nil || !second.RevokedAt.Equal(first.RevokedAt) {
				t.Errorf("revoked again at %v, %v, first at %v", second.RevokedAt, err, first.RevokedAt)
			}
			for _, patch := range []string{`{"name":"b"}`, `{}`, `{"expires_at":null}`} {
				c.do(http.MethodPatch, "/v1/keys/"+created.ID, patch).want(t, http.StatusConflict, "revoked")
			}
			c.do(http.MethodGet, "/v1/keys/"+created.ID, "").want(t, http.StatusOK, `"status":"revoked"`, `"name":"a"`)
			c.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusOK, created.ID)
		})
	}
}

func TestKeysOfOthersAreNotFound(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	id := c.with(organizationHeader, otherOrg).createKey(`{"name":"theirs"}`).ID
	g.changes()
	ids := []string{id, "key_00000000000000000000000000", "x", "%00", "%ff", "%27%20OR%201=1", strings.Repeat("x", 5000)}
	for _, id := range ids {
		for _, x := range []struct{ method, path, body string }{
			{http.MethodGet, "/v1/keys/" + id, ""},
			{http.MethodPatch, "/v1/keys/" + id, `{"name":"mine"}`},
			{http.MethodDelete, "/v1/keys/" + id, ""},
			{http.MethodPost, "/v1/keys/" + id + "/revoke", ""},
			{http.MethodPost, "/v1/keys/" + id + "/rotate", ""},
			{http.MethodGet, "/v1/keys/" + id + "/usage", ""},
		} {
			c.do(x.method, x.path, x.body).want(t, http.StatusNotFound, "no such key").lacks(t, "theirs")
		}
	}
	c.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusOK, `"data":[]`, `"next_cursor":null`)
	if changed := g.changes(); len(changed) != 0 {
		t.Errorf("changes announced: %x", changed)
	}
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/keys/"+id, "").
		want(t, http.StatusOK, `"name":"theirs"`, `"status":"active"`)
}

func TestSpendOfAKeyIsThatOfItsPeriod(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	daily := c.createKey(`{"name":"daily","usage_limit_dollars":1,"usage_limit_reset":"daily"}`).ID
	unlimited := c.createKey(`{"name":"unlimited"}`).ID
	now := time.Now()
	g.post(t, request("r1", daily, now.AddDate(0, 0, -1), 5), request("r2", daily, now, 7), request("r3", unlimited, now.AddDate(0, 0, -40), 11))
	c.do(http.MethodGet, "/v1/keys/"+daily, "").want(t, http.StatusOK, `"spend_nanos":7}`)
	c.do(http.MethodPost, "/v1/keys/"+daily+"/revoke", "").want(t, http.StatusOK, `"spend_nanos":7}`)
	c.do(http.MethodPatch, "/v1/keys/"+unlimited, `{}`).want(t, http.StatusOK, `"spend_nanos":11}`)
	c.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusOK, `"spend_nanos":7}`, `"spend_nanos":11}`)
}
