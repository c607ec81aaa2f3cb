package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

//nolint:tparallel // the group is waited for, so that what it must not do can be checked
func TestFaultyKeysAreRefusedByField(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	many := `["` + strings.Repeat(`m","`, 200) + `m"]`
	tooMany := `[` + strings.Repeat(`"10.0.0.1",`, 9_999) + `"10.0.0.1"]`
	megabyte := `"` + strings.Repeat("x", maxBody-100) + `"`
	long := strings.Repeat("é", 201)
	id := c.createKey(`{"name":"to be patched"}`).ID
	before := c.do(http.MethodGet, "/v1/keys/"+id, "").body
	t.Run("refused", func(t *testing.T) {
		for _, x := range []struct{ field, value string }{
			{"name", `""`}, {"name", `"  "`}, {"name", `"` + long + `"`}, {"name", `"a\u0000b"`}, {"name", `"a\nb"`},
			{"name", `"a\u0085b"`}, {"name", `"\u001b[31mred"`}, {"name", `null`}, {"name", `5`}, {"name", `["a"]`},
			{"allowed_providers", `"openai"`}, {"allowed_providers[0]", `[""]`}, {"allowed_providers[1]", `["openai","a b"]`},
			{"allowed_providers[0]", `["../x"]`}, {"allowed_providers[0]", `[null]`}, {"allowed_providers", many},
			{"allowed_models", `{}`}, {"allowed_models[0]", `[""]`}, {"allowed_models[0]", `["gpt 4"]`},
			{"allowed_models[0]", `["gpt\u00a04"]`}, {"allowed_models[0]", `["gpt\u00004"]`}, {"allowed_models[0]", `["` + long + `"]`},
			{"allowed_models", many},
			{"allowed_ips[0]", `["localhost"]`}, {"allowed_ips[0]", `["10.0.0.0/33"]`}, {"allowed_ips[0]", `["10.0.0.256"]`},
			{"allowed_ips[0]", `["fe80::1%eth0"]`}, {"allowed_ips[0]", `["10.0.0.1-10.0.0.9"]`}, {"allowed_ips[0]", `[""]`},
			{"allowed_ips[2]", `["10.0.0.1","::1","010.0.0.1"]`},
			{"rate_limit_rpm", `-1`}, {"rate_limit_rpm", `1.5`}, {"rate_limit_rpm", `1000000001`}, {"rate_limit_rpm", `1e400`},
			{"rate_limit_rpm", `"60"`}, {"rate_limit_rpm", `true`},
			{"usage_limit_dollars", `-0.01`}, {"usage_limit_dollars", `"-1"`}, {"usage_limit_dollars", `0.0000000001`},
			{"usage_limit_dollars", `1e-10`}, {"usage_limit_dollars", `1e400`}, {"usage_limit_dollars", `1e10`},
			{"usage_limit_dollars", `"1,000"`}, {"usage_limit_dollars", `true`}, {"usage_limit_dollars", `[1]`},
			{"usage_limit_reset", `"yearly"`}, {"usage_limit_reset", `""`}, {"usage_limit_reset", `1`},
			{"expires_at", `"tomorrow"`}, {"expires_at", `"2999-01-01"`}, {"expires_at", `"0001-01-01T00:00:00Z"`},
			{"expires_at", `"1969-12-31T23:59:59Z"`}, {"expires_at", `4102444800`},
			{"expires_at", `"10000-01-01T00:00:00Z"`}, {"expires_at", `"9999-12-31T23:59:59-23:59"`},
			{"expires_at", `"2020-01-01T00:00:00Z"`}, {"expires_at", `"2999-02-30T00:00:00Z"`}, {"expires_at", `""`},
			{"name", megabyte}, {"project", megabyte}, {"allowed_models[0]", `[` + megabyte + `]`},
			{"allowed_ips[0]", `[` + megabyte + `]`}, {"allowed_providers[0]", `[` + megabyte + `]`}, {"usage_limit_reset", megabyte},
			{"allowed_ips", tooMany}, {"allowed_models", tooMany}, {"allowed_providers", tooMany},
			{"allowed_models[1]", `["gpt-4o",5]`}, {"allowed_models[0]", `[["gpt-4o"]]`}, {"allowed_models[0]", `["gpt-4o\u0007*"]`},
			{"allowed_models[0]", `["\tgpt"]`}, {"allowed_models[0]", `["gpt-4o\u2028"]`},
			{"allowed_ips[1]", `["10.0.0.0/8","fe80::%eth0/64"]`}, {"allowed_ips[0]", `["::ffff:10.0.0.1%1"]`},
			{"allowed_ips[0]", `["10.0.0.0/-1"]`}, {"allowed_ips[0]", `["10.0.0.0/08"]`}, {"allowed_ips[0]", `["::/129"]`},
			{"allowed_ips[0]", `["10.0.0.1\u0000"]`}, {"allowed_ips[0]", `[" 10.0.0.1"]`}, {"allowed_ips[0]", `["10.0.0.1:80"]`},
			{"allowed_ips[0]", `["[::1]"]`}, {"allowed_ips[0]", `["0x0a.0.0.1"]`}, {"allowed_ips[0]", `["/8"]`},
			{"project", `""`}, {"project", `"a b"`}, {"project", `"a/b"`}, {"project", `"é"`}, {"project", `".."`}, {"project", `7`},
			{"project", `"` + strings.Repeat("p", 65) + `"`}, {"project", `"a\u0000"`}, {"project", `"a\n"`},
			{"rate_limit_tpm", `-1`}, {"rate_limit_tpm", `1.5`}, {"rate_limit_tpm", `1e400`}, {"rate_limit_tpm", `"1"`},
			{"max_concurrent", `-1`}, {"max_concurrent", `0.1`}, {"max_concurrent", `-1e400`}, {"max_concurrent", `{}`},
			{"usage_limit_dollars", `"NaN"`}, {"usage_limit_dollars", `"Infinity"`}, {"usage_limit_dollars", `"1e5"`},
			{"usage_limit_dollars", `9223372036.854775808`}, {"usage_limit_dollars", `""`}, {"usage_limit_dollars", megabyte},
			{"usage_limit_dollars", strings.Repeat("9", 100_000)}, {"usage_limit_dollars", `1e-400`},
			{"usage_soft_limit_dollars", `-1`}, {"usage_soft_limit_dollars", `"x"`}, {"usage_soft_limit_dollars", `1e400`},
			{"usage_limit_reset", `"Daily"`}, {"usage_limit_reset", `"DAILY"`}, {"usage_limit_reset", `" daily"`},
			{"colour", `1`}, {"id", `"key_1"`}, {"status", `"revoked"`}, {"spend_nanos", `0`}, {"hash", `""`}, {"__proto__", `{}`},
		} {
			t.Run(x.field+"="+clip(x.value)[:min(30, len(x.value))], func(t *testing.T) {
				t.Parallel()
				api := c
				api.t = t
				field, _, _ := strings.Cut(x.field, "[")
				location := `"location":"body.` + x.field + `"`
				patch := fmt.Sprintf(`{%q:%s}`, field, x.value)
				api.do(http.MethodPatch, "/v1/keys/"+id, patch).want(t, http.StatusUnprocessableEntity, location)
				if field != "name" {
					patch = fmt.Sprintf(`{"name":"a",%q:%s}`, field, x.value)
				}
				api.do(http.MethodPost, "/v1/keys", patch).want(t, http.StatusUnprocessableEntity, location)
			})
		}
	})
	if after := c.do(http.MethodGet, "/v1/keys/"+id, "").body; after != before {
		t.Errorf("a refused change was made: %s", after)
	}
	if n := len(decode[list[keyView]](t, c.do(http.MethodGet, "/v1/keys", "")).Data); n != 1 {
		t.Errorf("there are %d keys, want 1", n)
	}
}

// A field that is validated under one name and stored under another, or twice,
// would be stored unchecked.
func TestFieldNamesAreTakenLiterally(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	id := c.createKey(`{"name":"to be patched"}`).ID
	before := c.do(http.MethodGet, "/v1/keys/"+id, "").body
	long := strings.Repeat("x", 5000)
	for _, x := range []struct{ fields, location string }{
		{`"rate_limit_rpm":5,"RATE_LIMIT_RPM":-5`, "body.RATE_LIMIT_RPM"},
		{`"RATE_LIMIT_RPM":-5,"rate_limit_rpm":5`, "body.RATE_LIMIT_RPM"},
		{`"rate_limit_rpm":-5,"rate_limit_rpm":5`, "body.rate_limit_rpm"},
		{`"rate_limit_rpm":5,"rate\u005flimit_rpm":-5`, "body.rate_limit_rpm"},
		{`"NAME":"x"`, "body.NAME"},
		{`"Name":"` + long + `"`, "body.Name"},
		{`"name":"` + long + `","name":"x"`, "body.name"},
		{`"Usage_Limit_Reset":"yearly"`, "body.Usage_Limit_Reset"},
		{`"uſage_limit_reset":"yearly"`, "body.uſage_limit_reset"},
		{`"allowed_models":[{"a":1,"a":2}]`, "body.allowed_models[0].a"},
		{`"allowed_models":["m",{"A":{}}]`, "body.allowed_models[1].A"},
	} {
		location := `"location":"` + x.location + `"`
		c.do(http.MethodPatch, "/v1/keys/"+id, `{`+x.fields+`}`).want(t, http.StatusUnprocessableEntity, location)
		body := `{"name":"a",` + x.fields + `}`
		if strings.HasPrefix(x.fields, `"name"`) {
			body = `{` + x.fields + `}`
		}
		c.do(http.MethodPost, "/v1/keys", body).want(t, http.StatusUnprocessableEntity, location)
	}
	c.do(http.MethodPost, "/v1/keys", `{"NAME":"x"}`).want(t, http.StatusUnprocessableEntity, `"location":"body.NAME"`)
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter","Package_ID":"team"}`).
		want(t, http.StatusUnprocessableEntity, `"location":"body.Package_ID"`)
	if after := c.do(http.MethodGet, "/v1/keys/"+id, "").body; after != before {
		t.Errorf("a refused change was made: %s", after)
	}
	if n := len(decode[list[keyView]](t, c.do(http.MethodGet, "/v1/keys", "")).Data); n != 1 {
		t.Errorf("there are %d keys, want 1", n)
	}
}

func TestBodiesThatAreNotJSONAreRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	id := c.createKey(`{"name":"a"}`).ID
	for body, status := range map[string]int{
		`{"usage_limit_dollars":NaN}`:            http.StatusBadRequest,
		`{"usage_limit_dollars":Infinity}`:       http.StatusBadRequest,
		`{"rate_limit_rpm":01}`:                  http.StatusBadRequest,
		"{\"name\":\"\xff\"}":                    http.StatusBadRequest,
		"{\"name\":\"a\x00b\"}":                  http.StatusBadRequest,
		`{"name":"a"`:                            http.StatusBadRequest,
		`{"name":"a"} {}`:                        http.StatusBadRequest,
		strings.Repeat(`[`, 50_000):              http.StatusBadRequest,
		`[]`:                                     http.StatusUnprocessableEntity,
		`"name"`:                                 http.StatusUnprocessableEntity,
		`null`:                                   http.StatusUnprocessableEntity,
		strings.Repeat(" ", maxBody) + `{"n":1}`: http.StatusRequestEntityTooLarge,
	} {
		for _, target := range [][2]string{{http.MethodPatch, "/v1/keys/" + id}, {http.MethodPost, "/v1/keys"}} {
			if a := c.do(target[0], target[1], body); a.status != status {
				t.Errorf("%s %.40q: %d, want %d: %s", target[0], body, a.status, status, a.body)
			}
		}
	}
}

func TestKeyCannotBeMadeToHaveExpired(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	const past, location = `{"name":"a","expires_at":"2020-01-01T00:00:00Z"}`, `"location":"body.expires_at"`
	c.do(http.MethodPost, "/v1/keys", past).want(t, http.StatusUnprocessableEntity, location)
	c.do(http.MethodPost, "/v1/keys", `{}`).want(t, http.StatusUnprocessableEntity, "required property name")
	id := c.createKey(`{"name":"a"}`).ID
	c.do(http.MethodPatch, "/v1/keys/"+id, past).want(t, http.StatusUnprocessableEntity, location)

	// What has expired may be sent back as it was read, and may be prolonged.
	_, err := g.store.UpdateKey(t.Context(), billing.DefaultOrganization, id, func(k *billing.Key) error {
		k.ExpiresAt = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodPatch, "/v1/keys/"+id, past).want(t, http.StatusOK, `"status":"expired"`)
	c.do(http.MethodPatch, "/v1/keys/"+id, `{"expires_at":"2020-01-01T00:00:01Z"}`).want(t, http.StatusUnprocessableEntity, location)
	c.do(http.MethodPatch, "/v1/keys/"+id, `{"expires_at":null}`).want(t, http.StatusOK, `"status":"active"`)
}

func TestSoftLimitIsBelowTheLimit(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	const above = `{"name":"a","usage_limit_dollars":5,"usage_soft_limit_dollars":5.000000001}`
	c.do(http.MethodPost, "/v1/keys", above).want(t, http.StatusUnprocessableEntity, `"location":"body.usage_soft_limit_dollars"`)
	id := c.createKey(`{"name":"a","usage_limit_dollars":5,"usage_soft_limit_dollars":5}`).ID
	for _, step := range []struct {
		patch, location string
	}{
		{`{"usage_limit_dollars":4}`, "body.usage_limit_dollars"},
		{`{"usage_soft_limit_dollars":6}`, "body.usage_soft_limit_dollars"},
		{`{"usage_limit_dollars":4,"usage_soft_limit_dollars":3}`, ""},
		{`{"usage_limit_dollars":null}`, ""},
		{`{"usage_soft_limit_dollars":100}`, ""}, // without a limit
		{`{"usage_limit_dollars":99}`, "body.usage_limit_dollars"},
		{`{"usage_soft_limit_dollars":null,"usage_limit_dollars":1}`, ""},
	} {
		a := c.do(http.MethodPatch, "/v1/keys/"+id, step.patch)
		if step.location == "" {
			a.want(t, http.StatusOK)
		} else {
			a.want(t, http.StatusUnprocessableEntity, `"location":"`+step.location+`"`)
		}
	}
}
