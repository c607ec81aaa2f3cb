// Package billingtest says what a billing.Store does: each store passes its
// suite.
package billingtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// Open opens the database that belongs to a test, and creates it at the first
// call. Another call with the same test opens the same database once more.
type Open = func(t *testing.T) billing.Store

const (
	org   = "org_a"
	other = "org_b"
	node  = "node_1"
	key   = "key_1"

	usd = metering.USD
)

// noon is a Wednesday, in the middle of all of its periods.
var noon = time.Date(2026, 11, 18, 12, 30, 0, 0, time.UTC)

// Run tests a store.
func Run(t *testing.T, open func(t *testing.T) billing.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open Open)
	}{
		{"Organizations", testOrganizations},
		{"Members", testMembers},
		{"Keys", testKeys},
		{"Changes", testChanges},
		{"Rotations", testRotations},
		{"Projects", testProjects},
		{"Leases", testLeases},
		{"Weeks", testWeeks},
		{"Quotas", testQuotas},
		{"Nodes", testNodes},
		{"Post", testPost},
		{"Append", testAppend},
		{"Reports", testReports},
		{"Usage", testUsage},
		{"Restart", testRestart},
		{"Identity", testIdentity},
		{"Context", testContext},
		{"Concurrency", testConcurrency},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open)
		})
	}
}

// cases runs each test on a store of its own.
func cases(t *testing.T, open Open, tests map[string]func(t *testing.T, s billing.Store)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t, open))
		})
	}
}

// start opens the test's store, closes it at the test's end, and creates the
// organizations and the key that tests use.
func start(t *testing.T, open Open) billing.Store {
	t.Helper()
	s := reopen(t, open)
	for _, id := range []string{org, other} {
		check(t, s.EnsureOrganization(t.Context(), billing.Organization{ID: id, Name: "Name of " + id, CreatedAt: noon}))
	}
	check(t, s.CreateKey(t.Context(), newKey(key, org, nil, "")))
	return s
}

func reopen(t *testing.T, open Open) billing.Store {
	t.Helper()
	s := open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func newKey(id, org string, limit *billing.Money, reset billing.Period) billing.Key {
	secret := billing.NewSecret()
	return billing.Key{
		ID: id, OrganizationID: org, Name: "Name of " + id,
		Hash: billing.HashSecret(secret), Prefix: billing.DisplayPrefix(secret),
		Project: "search", RateLimitTPM: 90_000, MaxConcurrent: 8,
		UsageLimit: limit, UsageSoftLimit: limit, UsageLimitReset: reset, CreatedAt: noon,
	}
}

// requestTime returns when the numbered request arrives.
func requestTime(n int) time.Time { return noon.Add(time.Duration(n) * time.Microsecond) }

// requestID returns the numbered request's id.
func requestID(n int) string { return requestIDAt(n, requestTime(n)) }

// requestIDAt returns an id of the given time, as the gateway makes them. Those
// of one millisecond sort like their numbers.
func requestIDAt(n int, at time.Time) string {
	const digits = 16 // that are random otherwise
	floor := billing.IDFloor(billing.RequestIDPrefix, at)
	return fmt.Sprintf("%s%0*d", floor[:len(floor)-digits], digits, n)
}

// settlementAt returns the numbered settlement as of another time.
func settlementAt(n int, at time.Time, cost billing.Money) billing.Settlement {
	s := settlement(n, cost)
	s.RequestID, s.At = requestIDAt(n, at), at
	return s
}

// settlement returns a settlement with all fields set, of its number's id.
func settlement(n int, cost billing.Money) billing.Settlement {
	return billing.Settlement{
		RequestID:      requestID(n),
		OrganizationID: org,
		KeyID:          key,
		KeyName:        "Name of " + key,
		At:             requestTime(n),
		Provider:       "openai",
		Model:          "gpt-4o",
		Endpoint:       "chat/completions",
		Usage: metering.Usage{
			Input: 1, InputAudio: 2, InputImage: 3, CacheRead: 4, CacheReadAudio: 5, CacheWrite: 6, CacheWriteLong: 7,
			Output: 8, OutputAudio: 9, OutputImage: 10, WebSearches: 11, Reasoning: 12,
		},
		UsageSource:   metering.SourceDrained,
		UsageMismatch: true,
		ServiceTier:   "flex",
		Cost:          cost,
		MarketCost:    cost + 1,
		PriceRuleID:   "rule_1",
		Latency:       1234567890 * time.Nanosecond,
		TTFB:          123456789 * time.Nanosecond,
		Status:        200,
		Error:         "stream cut",
		ClientIP:      "2001:db8::1",
		UserAgent:     "sdk/1.0",
		Streaming:     true,
		Project:       "search",
		Attempts:      2,
		AttemptLog: []billing.Attempt{
			{Provider: "mistral", Model: "large", Credential: "second", Error: "timed out", Duration: time.Second},
			{Provider: "openai", Model: "gpt-4o", Credential: "default", Status: 200, Duration: 234567890},
		},
		Changes: []string{"dropped top_k", `clamped "n"`},
	}
}

func credits(amount billing.Money) billing.Lease {
	return billing.Lease{Allowance: billing.CreditsOf(org), Amount: amount}
}

func budget(p billing.Period, amount billing.Money) billing.Lease {
	return billing.Lease{Allowance: billing.BudgetOf(org, p, noon, billing.Sunday), Amount: amount}
}

func keySpend(id string, p billing.Period, amount billing.Money) billing.Lease {
	return billing.Lease{
		Allowance: billing.Allowance{
			OrganizationID: org, Kind: billing.KeySpend, Subject: id, Period: p, Start: p.Start(noon, billing.Sunday),
		},
		Amount: amount,
	}
}

func purchase(amount billing.Money, idempotencyKey string) billing.Entry {
	return billing.Entry{
		OrganizationID: org, Type: billing.Purchase, Amount: amount,
		PaymentID: "pay_" + idempotencyKey, CreatedAt: noon, IdempotencyKey: idempotencyKey,
	}
}

func buy(t *testing.T, s billing.Store, amount billing.Money) {
	t.Helper()
	_, err := s.Append(t.Context(), purchase(amount, "purchase"))
	check(t, err)
}

// post posts settlements that must be fresh or the same again.
func post(t *testing.T, s billing.Store, node string, batch ...billing.Settlement) {
	t.Helper()
	conflicts, err := s.Post(t.Context(), node, batch)
	check(t, err)
	if len(conflicts) > 0 {
		t.Fatalf("unexpected conflicts: %v", conflicts)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// balanced checks that the books are sound, in what is new and in all.
func balanced(t *testing.T, s billing.Store) {
	t.Helper()
	for _, mode := range []billing.VerifyMode{billing.Incremental, billing.Full} {
		equal(t, "failed checks of "+string(mode)+" verification", verify(t, s, mode).Failed(), nil)
	}
}

func verify(t *testing.T, s billing.Store, mode billing.VerifyMode) billing.Verification {
	t.Helper()
	v, err := s.Verify(t.Context(), billing.VerifyOptions{Mode: mode})
	check(t, err)
	return v
}

func balanceOf(t *testing.T, s billing.Store, org string) billing.Money {
	t.Helper()
	a, err := s.Account(t.Context(), org)
	check(t, err)
	return a.Balance
}

func leasesOf(t *testing.T, s billing.Store, node string) []billing.Lease {
	t.Helper()
	leases, err := s.LeasesOf(t.Context(), node)
	check(t, err)
	return leases
}

// lease leases what is needed and returns what was granted of it.
func lease(t *testing.T, s billing.Store, node string, need ...billing.Lease) []billing.Lease {
	t.Helper()
	grants, err := s.Lease(t.Context(), node, needs(need...))
	check(t, err)
	leases := make([]billing.Lease, len(grants))
	for i, g := range grants {
		leases[i] = g.Lease
	}
	return leases
}

// needs are wants of leases that are needed now.
func needs(leases ...billing.Lease) []billing.Want {
	wants := make([]billing.Want, len(leases))
	for i, l := range leases {
		wants[i] = billing.Want{Allowance: l.Allowance, Need: l.Amount}
	}
	return wants
}

func pointer[T any](v T) *T { return &v }
