package admin

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzBudgets sends any body to the routes that set budgets: the client is told
// what is wrong with it, or it is taken, and the budgets can be read afterwards.
func FuzzBudgets(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `[]`, ``, `{"max_dollars":"100.00","soft_dollars":80,"period":"monthly"}`, `{"max_dollars":null,"period":null}`,
		`{"max_dollars":1,"soft_dollars":2}`, `{"soft_dollars":2}`, `{"max_dollars":1e999999999}`, `{"max_dollars":-0}`, `{"max_dollars":1e-10}`,
		`{"week_start":"monday","hold":"strict","rate_limit_rpm":6e1}`, `{"week_start":"friday"}`, `{"week_start":null,"hold":null,"rate_limit_rpm":null}`,
		`{"period":"Daily"}`, `{"period":"daily","period":"never"}`, `{"max_dollars":"` + strings.Repeat("9", 400) + `"}`, `{"max_dollars":""}`,
	} {
		f.Add(body, "search")
	}
	f.Add(`{"max_dollars":1}`, "..")
	f.Add(`{"max_dollars":1}`, "a/b")
	f.Add(`{"max_dollars":1}`, "\x00")
	f.Add(`{"max_dollars":1}`, "\xff")
	g := newGateway(f)
	f.Fuzz(func(t *testing.T, body, name string) {
		c := newClient(t, g)
		project := "/v1/projects/" + escaped(name)
		for _, path := range []string{"/v1/budget", project} {
			a := c.do(http.MethodPut, path, body)
			switch {
			case a.status < 200 || a.status >= 300 && a.status < 400 || a.status >= 500:
				t.Errorf("PUT %s: status %d: %s", path, a.status, a.body)
			case a.status == http.StatusOK:
				c.do(http.MethodGet, path, "").want(t, http.StatusOK)
			}
		}
		c.do(http.MethodGet, "/v1/budget", "").want(t, http.StatusOK)
		c.do(http.MethodGet, "/v1/projects", "").want(t, http.StatusOK)
		c.do(http.MethodDelete, project, "")
	})
}

// escaped is any text as a segment of a path.
func escaped(text string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		b.Write([]byte{'%', digits[text[i]>>4], digits[text[i]&15]})
	}
	return b.String()
}

// TestFieldsThatAreRefused: each bad value of each field is a 422 that says which
// field it is, wherever the value comes.
func TestFieldsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	id := c.createKey(`{"name":"a"}`).ID
	const longest = maxBody - 100
	deep := strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat(`}`, 5000)
	long := `"` + strings.Repeat("x", longest) + `"`
	amounts := []string{
		`-1`, `-1e-9`, `1e-10`, `"1e3"`, `1e400`, `1e999999999`, `-1e999999999`, `1e-999999999`, `9300000000`, `"9300000000"`, `"NaN"`, `"Infinity"`, `"-0.1"`,
		`""`, `" 1"`, `"1 "`, `"+1"`, `"0x1"`, `"1_0"`, `"1,5"`, `true`, `[]`, `{}`, `[1]`, deep, long,
		`"` + strings.Repeat("9", longest) + `"`, `0.` + strings.Repeat("0", longest) + `1`,
	}
	numbers := []string{`-1`, `0.5`, `1000000001`, `1e400`, `-1e400`, `1e999999999`, `"60"`, `true`, `[]`, `{}`, deep}
	words := []string{`"Daily"`, `"hourly"`, `""`, `" daily"`, `1`, `true`, `[]`, `{}`, long, `"daily\u0000"`}
	lists := []string{`"x"`, `1`, `{}`, `[1]`, `[null]`, `[[]]`, `[""]`, `[" "]`, `["\u0000"]`, `[` + long + `]`, `[` + strings.Repeat(`"x",`, 9999) + `"x"]`}
	keys := map[string][]string{
		"name":                     {`null`, `""`, `" "`, `"\u0000"`, `"a\nb"`, `1`, `[]`, `{}`, long},
		"allowed_providers":        append(lists, `["*"]`, `["a b"]`, `["../x"]`),
		"allowed_models":           append(lists, `["a b"]`),
		"allowed_ips":              append(lists, `["1.2.3"]`, `["1.2.3.4/33"]`, `["fe80::1%eth0"]`, `["010.0.0.1"]`),
		"project":                  {`""`, `"."`, `".."`, `"a/b"`, `"a b"`, `"ä"`, `"\u0000"`, `1`, `[]`, `{}`, long},
		"owner_id":                 {`""`, `"mem_x"`, `"' OR 1=1 --"`, `"\u0000"`, `1`, `[]`, `{}`, long},
		"rate_limit_rpm":           numbers,
		"rate_limit_tpm":           numbers,
		"max_concurrent":           numbers,
		"usage_limit_dollars":      amounts,
		"usage_soft_limit_dollars": amounts,
		"usage_limit_reset":        words,
		"expires_at": {
			`""`, `"tomorrow"`, `"2001-01-01T00:00:00Z"`, `"2999-02-30T00:00:00Z"`, `"2999-01-01"`, `"2999-01-01T00:00:00"`, `"99999-01-01T00:00:00Z"`,
			`"9999-12-31T23:59:59-23:59"`, `4102444800`, `true`, `[]`, `{}`, long,
		},
		"unknown": {`1`, `null`}, "status": {`"active"`}, "id": {`"key_1"`}, "hash": {`""`}, "spend_nanos": {`0`}, "organization_id": {`"other"`},
	}
	limits := map[string][]string{"max_dollars": amounts, "soft_dollars": amounts, "period": words, "unknown": {`1`, `null`}}
	budget := map[string][]string{
		"max_dollars": amounts, "soft_dollars": amounts, "period": words, "unknown": {`1`, `null`}, "max_nanos": {`1`}, "spent_nanos": {`0`},
		"week_start": {`"friday"`, `"Sunday"`, `""`, `0`, `true`, `[]`, `{}`}, "hold": {`"none"`, `""`, `1`, `[]`, `{}`}, "rate_limit_rpm": numbers,
	}
	for _, route := range []struct {
		method, path string
		fields       map[string][]string
	}{
		{http.MethodPatch, "/v1/keys/" + id, keys}, {http.MethodPut, "/v1/budget", budget}, {http.MethodPut, "/v1/projects/search", limits},
	} {
		for field, values := range route.fields {
			for _, value := range values {
				a := c.do(route.method, route.path, `{"`+field+`":`+value+`}`)
				if shown := value[:min(len(value), 60)]; a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, `"location":"body.`+field) {
					t.Errorf("%s with %s %s: %d %.300s", route.path, field, shown, a.status, a.body)
				} else if len(a.body) > 16<<10 {
					t.Errorf("%s with %s %s: the answer has %d bytes", route.path, field, shown, len(a.body))
				}
			}
		}
	}
}

func TestSoftLimitIsNotAboveTheHardOneInTwoSteps(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	key := "/v1/keys/" + c.createKey(`{"name":"a"}`).ID
	for _, route := range []struct{ method, path, soft, hard string }{
		{http.MethodPatch, key, "usage_soft_limit_dollars", "usage_limit_dollars"},
		{http.MethodPut, "/v1/budget", "soft_dollars", "max_dollars"},
		{http.MethodPut, "/v1/projects/search", "soft_dollars", "max_dollars"},
	} {
		c.do(route.method, route.path, `{"`+route.soft+`":5}`).want(t, http.StatusOK)
		c.do(route.method, route.path, `{"`+route.hard+`":4.999999999}`).
			want(t, http.StatusUnprocessableEntity, `"location":"body.`+route.hard+`"`)
		c.do(route.method, route.path, `{"`+route.hard+`":5}`).want(t, http.StatusOK)
		c.do(route.method, route.path, `{"`+route.soft+`":5.000000001}`).
			want(t, http.StatusUnprocessableEntity, `"location":"body.`+route.soft+`"`)
		c.do(route.method, route.path, `{"`+route.hard+`":null,"`+route.soft+`":6}`).want(t, http.StatusOK)
	}
}

// TestPathsThatNameNothing: an id or a name that cannot be one is not found,
// or refused, whatever is in it.
func TestPathsThatNameNothing(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, name := range []string{
		"%00", "%ff", "%2f", "%2e%2e", "..%2f..", "%0a", "a%00b", "%f0%9f", strings.Repeat("x", 10<<10), strings.Repeat("%c3%a4", 3000), "x'%20OR%201=1--", "%25",
	} {
		for _, x := range []struct{ method, path, body string }{
			{http.MethodGet, "/v1/keys/" + name, ""}, {http.MethodPatch, "/v1/keys/" + name, `{}`}, {http.MethodPost, "/v1/keys/" + name + "/rotate", ""},
			{http.MethodPost, "/v1/keys/" + name + "/revoke", ""}, {http.MethodGet, "/v1/keys/" + name + "/usage", ""},
			{http.MethodGet, "/v1/projects/" + name, ""}, {http.MethodDelete, "/v1/projects/" + name, ""},
			{http.MethodGet, "/v1/nodes/" + name + "/leases", ""}, {http.MethodGet, "/v1/audit/" + name, ""},
			{http.MethodGet, "/v1/members/" + name, ""}, {http.MethodPatch, "/v1/members/" + name, `{}`}, {http.MethodDelete, "/v1/members/" + name, ""},
			{http.MethodGet, "/v1/organizations/" + name, ""}, {http.MethodPatch, "/v1/organizations/" + name, `{}`},
			{http.MethodPost, "/v1/organizations/" + name + "/adjustments", `{"amount_dollars":1,"reason":"x"}`},
			{http.MethodGet, "/v1/members?cursor=" + name, ""}, {http.MethodGet, "/v1/organizations?cursor=" + name, ""},
			{http.MethodGet, "/v1/keys?q=" + name, ""}, {http.MethodGet, "/v1/keys?owner_id=" + name, ""}, {http.MethodGet, "/v1/keys?project=" + name, ""},
			{http.MethodGet, "/v1/keys?cursor=" + name, ""}, {http.MethodGet, "/v1/projects?cursor=" + name, ""},
		} {
			if a := c.do(x.method, x.path, x.body); a.status >= 500 || a.status < 200 {
				t.Errorf("%s %.80s: %d %.200s", x.method, x.path, a.status, a.body)
			}
		}
		if a := c.do(http.MethodPut, "/v1/projects/"+name, `{"max_dollars":1}`); a.status >= 500 || a.status == http.StatusOK && len(name) > 100 {
			t.Errorf("PUT /v1/projects/%.80s: %d %.200s", name, a.status, a.body)
		}
	}
}
