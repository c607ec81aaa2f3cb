package e2e

import (
	"maps"
	"strconv"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// endOfMinute stands for the Unix time at which the minute of the request ends.
const endOfMinute = "the end of this minute"

// perMinute are the headers of a key that may send so many requests a minute.
func perMinute(limit, remaining string) map[string]string {
	return map[string]string{
		"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": endOfMinute,
	}
}

// perMinuteOfAll are the headers of an organization that may, by all its keys.
func perMinuteOfAll(limit, remaining string) map[string]string {
	return map[string]string{"X-RateLimit-Org-Limit": limit, "X-RateLimit-Org-Remaining": remaining}
}

// tokensPerMinute are the headers of a key that may use so many tokens a minute.
func tokensPerMinute(limit, remaining string) map[string]string {
	return map[string]string{"X-RateLimit-Tokens-Limit": limit, "X-RateLimit-Tokens-Remaining": remaining}
}

var (
	fivePerMinute  = fields{"rate_limit_rpm": 5}
	ninePerMinute  = fields{"rate_limit_rpm": 9}
	manyTokens     = fields{"rate_limit_tpm": 5000}
	providersError = scripted("Status", "404")
	smallSoftLimit = fields{"max_dollars": 10, "soft_dollars": "0.000000001"}
	smallKeyLimit  = fields{"usage_limit_dollars": 10, "usage_soft_limit_dollars": "0.000000001"}

	ofOrganization = map[string]string{"X-RateLimit-Scope": "organization"}
	approaching    = map[string]string{"X-Budget-Warning": "approaching_limit"}
)

// limitHeaders are the headers that tell clients where they stand with limits.
// An answer has those of its row of the table below, and none of the others.
var limitHeaders = []string{
	"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
	"X-RateLimit-Org-Limit", "X-RateLimit-Org-Remaining", "X-RateLimit-Scope",
	"X-RateLimit-Tokens-Limit", "X-RateLimit-Tokens-Remaining",
	"X-Budget-Warning",
}

// headers is what the answers to a key say about its limits. All answers have
// an X-Request-Id, under which the audit trail has the request.
var headers = []struct {
	name string
	situation
	status  int
	headers map[string]string
}{
	{name: "a key without a limit", status: 200},
	{
		name: "a key without a limit, refused", status: 403,
		situation: situation{key: fields{"usage_limit_dollars": "0"}},
	},

	// A key's requests per minute are on every answer to it. Those that were
	// refused before the limit was checked are not counted.
	{
		name: "five a minute, the first", status: 200, headers: perMinute("5", "4"),
		situation: situation{key: fivePerMinute},
	},
	{
		name: "five a minute, the second", status: 200, headers: perMinute("5", "3"),
		situation: situation{key: fivePerMinute, before: oneRequest},
	},
	{
		name: "five a minute, a stream", status: 200, headers: perMinute("5", "4"),
		situation: situation{key: fivePerMinute, request: streamed},
	},
	{
		name: "five a minute, an error of the provider's", status: 404, headers: perMinute("5", "4"),
		situation: situation{key: fivePerMinute, request: providersError},
	},
	{
		name: "five a minute, revoked", status: 403, headers: perMinute("5", "5"),
		situation: situation{key: fivePerMinute, revoked: true},
	},
	{
		name: "five a minute, another model", status: 403, headers: perMinute("5", "5"),
		situation: situation{key: fivePerMinute, change: fields{"allowed_models": []string{"another-*"}}},
	},
	{
		name: "five a minute, half a body", status: 400, headers: perMinute("5", "5"),
		situation: situation{key: fivePerMinute, request: cutBody},
	},
	{
		name: "five a minute, a body too large", status: 413, headers: perMinute("5", "5"),
		situation: situation{key: fivePerMinute, request: padBody},
	},
	{
		name: "five a minute, no credits", status: 403, headers: perMinute("5", "4"),
		situation: situation{key: fivePerMinute, penniless: true},
	},
	{
		name: "five a minute, no answer", status: 502, headers: perMinute("5", "4"),
		situation: situation{key: fivePerMinute, request: toProvider("away")},
	},
	{
		name: "one a minute, the second", status: 429, headers: perMinute("1", "0"),
		situation: situation{key: fields{"rate_limit_rpm": 1}, before: oneRequest},
	},

	// An organization's requests per minute are beside those of the key.
	{
		name: "nine a minute for all, the second", status: 200, headers: perMinuteOfAll("9", "7"),
		situation: situation{organization: ninePerMinute, before: oneRequest},
	},
	{
		name: "nine a minute for all, five for the key", status: 200,
		headers:   merged(perMinute("5", "4"), perMinuteOfAll("9", "8")),
		situation: situation{organization: ninePerMinute, key: fivePerMinute},
	},
	{
		name: "nine a minute for all, revoked", status: 403, headers: perMinuteOfAll("9", "9"),
		situation: situation{organization: ninePerMinute, revoked: true},
	},
	{
		name: "nine a minute for all, one for the key, the second", status: 429,
		headers:   merged(perMinute("1", "0"), perMinuteOfAll("9", "8")),
		situation: situation{organization: ninePerMinute, key: fields{"rate_limit_rpm": 1}, before: oneRequest},
	},
	{
		name: "one a minute for all, the second", status: 429, headers: merged(perMinuteOfAll("1", "0"), ofOrganization),
		situation: situation{organization: fields{"rate_limit_rpm": 1}, before: oneRequest},
	},

	// A key's tokens per minute: what the request may use is taken off.
	{
		name: "tokens a minute, about 27 and up to 99 more", status: 200, headers: tokensPerMinute("5000", "4874"),
		situation: situation{key: manyTokens, request: askForMore},
	},
	{
		name: "tokens a minute, for nothing", status: 200, headers: tokensPerMinute("5000", "5000"),
		situation: situation{key: manyTokens, request: askForList},
	},
	{
		name: "tokens a minute, revoked", status: 403, headers: tokensPerMinute("5000", "5000"),
		situation: situation{key: manyTokens, revoked: true},
	},
	{
		name: "tokens a minute, too few", status: 429, headers: tokensPerMinute("50", "50"),
		situation: situation{key: fields{"rate_limit_tpm": 50}, request: askForMore},
	},

	// Open requests have no header.
	{
		name: "one at once, the second", status: 429,
		situation: situation{key: fields{"max_concurrent": 1}, before: oneOpenRequest},
	},

	// A soft limit that is reached warns, and refuses nothing.
	{
		name: "a soft budget, nothing spent", status: 200,
		situation: situation{organization: smallSoftLimit},
	},
	{
		name: "a soft budget, reached", status: 200, headers: approaching,
		situation: situation{organization: smallSoftLimit, before: oneCompletion},
	},
	{
		name: "a project's soft budget, nothing spent", status: 200,
		situation: situation{project: smallSoftLimit},
	},
	{
		name: "a project's soft budget, reached", status: 200, headers: approaching,
		situation: situation{project: smallSoftLimit, before: oneCompletion},
	},
	{
		name: "a key's soft limit, nothing spent", status: 200,
		situation: situation{key: smallKeyLimit},
	},
	{
		name: "a key's soft limit, reached", status: 200, headers: approaching,
		situation: situation{key: smallKeyLimit, before: oneCompletion},
	},
}

func (c *contract) testHeaders(t *testing.T) {
	for _, tt := range headers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, err := c.ask(t.Context(), goodRequests["gemini"], tt.situation)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != tt.status {
				t.Fatalf("status %d, want %d: %s", a.status, tt.status, a.body)
			}
			got := map[string]string{}
			for _, name := range limitHeaders {
				if values := a.header.Values(name); len(values) > 0 {
					got[name] = values[0]
				}
			}
			want := maps.Clone(tt.headers)
			if want["X-RateLimit-Reset"] == endOfMinute {
				end := a.asked.Truncate(time.Minute).Add(time.Minute)
				want["X-RateLimit-Reset"] = strconv.FormatInt(end.Unix(), 10)
			}
			if diff := gocmp.Diff(merged(want), got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			row := c.healthy.as(a.organization).mustAudit(t, a.header.Get("X-Request-Id"))
			if row.Status != tt.status || row.KeyName != "contract" {
				t.Errorf("X-Request-Id is of a request of the key %q with status %d", row.KeyName, row.Status)
			}
		})
	}
}

// merged are all of the headers.
func merged(all ...map[string]string) map[string]string {
	result := map[string]string{}
	for _, headers := range all {
		maps.Copy(result, headers)
	}
	return result
}

// streamed makes the answer a stream.
func streamed(r *proxyRequest) { *r = streaming(*r) }

// mustFindCheck returns the row of the table of errors with this one.
func mustFindCheck(t *testing.T, text string) check {
	t.Helper()
	for _, c := range checks {
		if c.error == text {
			return c
		}
	}
	t.Fatalf("no check answers %q", text)
	return check{}
}
