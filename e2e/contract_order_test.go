package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// testChecks tries each row of the table alone, at each protocol.
func (c *contract) testChecks(t *testing.T) {
	for protocol, good := range goodRequests {
		for _, want := range checks {
			t.Run(protocol+"/"+want.error, func(t *testing.T) {
				t.Parallel()
				a, err := c.ask(t.Context(), marked(good), want.situation)
				if err != nil {
					t.Fatal(err)
				}
				a.checkRefused(t, want)
				c.checkAuditRow(t, a, want)
			})
		}
	}
}

// testOrder tries each pair of rows: the request deserves both errors, and gets
// the one that stands first.
func (c *contract) testOrder(t *testing.T) {
	for i, upper := range checks {
		for _, lower := range checks[i+1:] {
			if whyImpossible(upper, lower) != "" {
				continue
			}
			t.Run(upper.error+" before "+lower.error, func(t *testing.T) {
				t.Parallel()
				a, err := c.ask(t.Context(), marked(goodRequests["gemini"]), upper.situation, lower.situation)
				if err != nil {
					t.Fatal(err)
				}
				a.checkRefused(t, upper)
			})
		}
	}
}

// marked is the request with the mark of one that must not arrive.
func marked(r proxyRequest) proxyRequest {
	r.header = r.header.Clone()
	r.header.Set(refusedHeader, "1")
	return r
}

// checkRefused fails the test unless the answer is the row's error with all
// that belongs to it.
func (a answer) checkRefused(t *testing.T, want check) {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Errorf("body %q is not the shape of errors: %v", a.body, err)
	}
	if a.status != want.status || body["error"] != want.error {
		t.Fatalf("%s: got %d %s, want %d %q", want.when, a.status, a.body, want.status, want.error)
	}
	wantFields := []string{"error"}
	if want.explained {
		wantFields = append(wantFields, "message")
	}
	var got []string
	for name, value := range body {
		got = append(got, name)
		if value == "" {
			t.Errorf("%s is empty", name)
		}
	}
	slices.Sort(got)
	if diff := gocmp.Diff(wantFields, got); diff != "" {
		t.Errorf("fields of the body (-want +got):\n%s", diff)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "X-Gateway-Error": want.error} {
		if got := a.header.Get(name); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
	if ids := a.header.Values("X-Request-Id"); len(ids) != 1 || ids[0] == "" {
		t.Errorf("X-Request-Id = %q, want one", ids)
	}
	a.checkRetryAfter(t, want)
}

// checkRetryAfter: what may work in a while says when, and nothing else does.
// A limit of a minute ends with it.
func (a answer) checkRetryAfter(t *testing.T, want check) {
	t.Helper()
	text := a.header.Get("Retry-After")
	if want.status != 429 && want.status != 503 {
		if text != "" {
			t.Errorf("Retry-After = %q on a %d", text, want.status)
		}
		return
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("Retry-After = %q, want 1 to 60 seconds", text)
	}
	minuteEnds := a.asked.Truncate(time.Minute).Add(time.Minute)
	retry := a.answered.Add(time.Duration(seconds) * time.Second)
	if strings.HasSuffix(want.error, "rate_limited") && retry.Before(minuteEnds) {
		t.Errorf("Retry-After = %d, but the minute ends after %s", seconds, minuteEnds.Sub(a.answered))
	}
}

// checkAuditRow fails the test unless the request is in the audit trail under
// the answer's X-Request-Id, at no cost. Requests with no key are nobody's, and
// a ledger that takes nothing takes no row.
func (c *contract) checkAuditRow(t *testing.T, a answer, want check) {
	t.Helper()
	if want.noLedger || slices.Contains(keyless, want.error) {
		return
	}
	id := a.header.Get("X-Request-Id")
	g := c.healthy.as(a.organization)
	row := g.mustAudit(t, id)
	got := check{status: row.Status, error: row.Error}
	if got.status != want.status || got.error != want.error {
		t.Errorf("audit row says %d %q, want %d %q", got.status, got.error, want.status, want.error)
	}
	if row.CostNanos != 0 || row.MarketCostNanos != 0 {
		t.Errorf("audit row costs %d, market %d", row.CostNanos, row.MarketCostNanos)
	}
	g.checkNotCharged(t, id)
}

// keyless are the errors of requests that belong to no organization.
var keyless = []string{"unknown provider", "missing proxy key", "invalid proxy key"}

// TestImpossiblePairsAreOfTheTable keeps the list of what is not tried honest:
// it names errors of the table, the upper one first, and each pair once.
func TestImpossiblePairsAreOfTheTable(t *testing.T) {
	t.Parallel()
	place := map[string]int{}
	for i, c := range checks {
		if _, twice := place[c.error]; twice {
			t.Errorf("%q is in the table twice", c.error)
		}
		place[c.error] = i
	}
	seen := map[string]bool{}
	for _, pair := range impossible {
		for _, other := range pair.others {
			upper, isUpper := place[pair.error]
			lower, isLower := place[other]
			if !isUpper || !isLower || upper >= lower || pair.why == "" {
				t.Errorf("%q and %q: not in the table, not in its order, or without a reason", pair.error, other)
			}
			name := fmt.Sprintf("%q and %q", pair.error, other)
			if seen[name] {
				t.Errorf("%s: more than once", name)
			}
			seen[name] = true
		}
	}
}

// TestChecksAreDocumented holds the table against the one for people, in which
// each row says what to do, and against the source, in which each error is.
func TestChecksAreDocumented(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(document), "\n## Errors on proxy routes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var want, got []string
	for _, c := range checks {
		want = append(want, fmt.Sprintf("%d %s", c.status, c.error))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (\\d+) \\| `([^`]+)` \\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		got = append(got, row[1]+" "+row[2])
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("errors in docs/troubleshooting.md (-want +got):\n%s", diff)
	}
	source, err := os.ReadFile("../caddymodule/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`refusal\{.*text: "([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.error == match[1] }) {
			t.Errorf("%q is not in the table", match[1])
		}
	}
}
