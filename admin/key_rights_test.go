package admin

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// limited are the fields of a key with all limits.
const limited = `"allowed_providers":["openai","mistral"],"allowed_models":["gpt-4o*","o3"],"allowed_ips":["192.0.2.0/24","::1"],` +
	`"rate_limit_rpm":60,"rate_limit_tpm":1000,"max_concurrent":5,"usage_limit_dollars":"10.00","usage_limit_reset":"monthly",` +
	`"expires_at":"2090-01-01T00:00:00Z","project":"search"`

func TestDevelopersTightenLimitsOnly(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	developer := newMemberClient(t, g, billing.RoleDeveloper)
	admin := newMemberClient(t, g, billing.RoleAdmin)
	for _, x := range []struct{ field, tighter, looser, cleared string }{
		{"allowed_providers", `["openai"]`, `["openai","gemini"]`, `[]`},
		{"allowed_models", `["o3"]`, `["gpt-*"]`, `null`},
		{"allowed_ips", `["192.0.2.0/24"]`, `["192.0.0.0/16"]`, `[]`},
		{"rate_limit_rpm", `59`, `61`, `0`},
		{"rate_limit_tpm", `1`, `1000000`, `null`},
		{"max_concurrent", `4`, `6`, `0`},
		{"usage_limit_dollars", `"0.00"`, `"10.000000001"`, `null`},
		{"expires_at", `"2089-12-31T23:59:59Z"`, `"2090-01-01T00:00:01Z"`, `null`},
		{"usage_limit_reset", `"monthly"`, `"daily"`, `null`},
		{"project", `"search"`, `"other"`, `null`},
	} {
		t.Run(x.field, func(t *testing.T) {
			t.Parallel()
			path := "/v1/keys/" + developer.createKey(`{"name":"mine"}`).ID
			patch := func(value string) string { return `{"name":"new","` + x.field + `":` + value + `}` }
			admin.do(http.MethodPatch, path, `{`+limited+`}`).want(t, http.StatusOK)
			before := developer.do(http.MethodGet, path, "").body
			developer.do(http.MethodPatch, path, `{`+limited+`}`).want(t, http.StatusOK) // what was read may be sent back
			for _, value := range []string{x.looser, x.cleared} {
				developer.do(http.MethodPatch, path, patch(value)).
					want(t, http.StatusForbidden, `"location":"body.`+x.field+`"`, "ask an owner or admin")
			}
			if after := developer.do(http.MethodGet, path, "").body; after != before {
				t.Errorf("a refused change was made: %s", after)
			}
			developer.do(http.MethodPatch, path, patch(x.tighter)).want(t, http.StatusOK, `"name":"new"`)
			admin.do(http.MethodPatch, path, patch(x.cleared)).want(t, http.StatusOK)
			// Where there is no limit, a developer may set one, and then not take it away.
			if x.field == "usage_limit_reset" {
				return // it is of the limit beside it
			}
			developer.do(http.MethodPatch, path, patch(x.tighter)).want(t, http.StatusOK)
			developer.do(http.MethodPatch, path, patch(x.cleared)).want(t, http.StatusForbidden, `"location":"body.`+x.field+`"`)
		})
	}
}

func TestDevelopersEndAndReplaceTheirLimitedKeys(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	developer := newMemberClient(t, g, billing.RoleDeveloper)
	created := developer.createKey(`{"name":"mine",` + limited + `}`)
	path := "/v1/keys/" + created.ID
	developer.do(http.MethodPatch, path, `{"usage_soft_limit_dollars":"9.00"}`).want(t, http.StatusOK)
	developer.do(http.MethodPatch, path, `{"usage_soft_limit_dollars":null}`).want(t, http.StatusOK) // it warns, and limits nothing
	developer.do(http.MethodPatch, path, `{"rate_limit_rpm":null,"project":null}`).
		want(t, http.StatusForbidden, `"location":"body.rate_limit_rpm"`, `"location":"body.project"`)
	developer.rotate(created.ID, "")
	developer.do(http.MethodPost, path+"/revoke", "").want(t, http.StatusOK, `"status":"revoked"`)
}

func TestLaterEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, x := range map[string]struct {
		before, after time.Time
		want          bool
	}{
		"none, and none":     {time.Time{}, time.Time{}, false},
		"a first one":        {time.Time{}, now, false},
		"the same":           {now, now.UTC(), false},
		"earlier":            {now, now.Add(-1), false},
		"later":              {now, now.Add(1), true},
		"none, where one is": {now, time.Time{}, true},
	} {
		if got := isLater(x.before, x.after); got != x.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
