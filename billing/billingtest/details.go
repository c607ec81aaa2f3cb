package billingtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// Values that requests have, and that filters ask for. Some would end a
// statement that had them in its text.
var (
	keyNames  = []string{"web", "it's", `"; DROP TABLE requests; --`, "naïve"}
	endpoints = []string{"chat/completions", "messages"}
	failures  = []string{"", "spend_exceeded", "upstream request failed"}
	sources   = []metering.Source{metering.SourceProvider, metering.SourceNone}
	rules     = []string{"", "rule_1", "config/p/m@00"}
	statuses  = []int{0, 200, 201, 400, 404, 429, 500, 529}
	addresses = []string{"10.1.2.3", "10.1.9.9", "10.2.0.1", "2001:db8::1", "2001:db8:1::1", "", "unknown", "1.2.3.4.5", "fe80::1%eth0"}
	agents    = []string{"OpenAI/Python 1.2", "curl/8", "", "100%_x", `=HYPERLINK("x")`, "ÄPFEL"}
	projects  = []string{"", "search", "support"}
)

func oneOf[T any](random *rand.Rand, values []T) T { return values[random.IntN(len(values))] }

// detailedHistory is history whose requests differ in all that filters know.
func detailedHistory(random *rand.Rand, requests int) []billing.Settlement {
	batch := history(random, requests)
	for i := range batch {
		r := &batch[i]
		r.KeyName, r.Endpoint, r.Error = oneOf(random, keyNames), oneOf(random, endpoints), oneOf(random, failures)
		r.UsageSource, r.PriceRuleID, r.Status = oneOf(random, sources), oneOf(random, rules), oneOf(random, statuses)
		r.ClientIP, r.UserAgent, r.Project = oneOf(random, addresses), oneOf(random, agents), oneOf(random, projects)
		r.Streaming, r.Attempts = random.IntN(2) == 0, random.IntN(4)
		if random.IntN(2) == 0 {
			r.Changes = nil
		}
		r.Latency, r.TTFB = randomDuration(random), randomDuration(random)
	}
	return batch
}

func randomDuration(random *rand.Rand) time.Duration {
	return time.Duration(random.IntN(5)) * time.Second
}

func randomDetail(random *rand.Rand, requestIDs []string) billing.Filter {
	var f billing.Filter
	d := &f.Detail
	number := func(values ...int64) billing.Range[int64] { return randomRange(random, values) }
	for range 1 + random.IntN(2) {
		switch random.IntN(20) {
		case 0:
			d.RequestID = oneOf(random, append(requestIDs, "req_x", "' OR 1=1 --"))
		case 1:
			d.KeyNames = some(random, keyNames)
		case 2:
			d.Endpoints = some(random, endpoints)
		case 3:
			d.Errors = some(random, failures)
		case 4:
			d.UsageSources = some(random, sources)
		case 5:
			d.PriceRuleIDs = some(random, rules)
		case 6:
			d.Statuses = some(random, append([]int{2, 4, 5}, statuses...))
		case 7:
			d.ClientIP = netip.MustParsePrefix(oneOf(random, []string{
				"10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "::/0", "2001:db8::/48", "2001:db8::1/128", "10.1.2.99/24",
			}))
		case 8:
			d.UserAgent = oneOf(random, []string{"openai", "PYTHON", "%", "_", "=", "Ä", "ä", "8"})
		case 9:
			d.Streaming = pointer(random.IntN(2) == 0)
		case 10:
			d.Changed = pointer(random.IntN(2) == 0)
		case 11:
			d.Cost = randomRange(random, []billing.Money{0, usd, 2 * usd})
		case 12:
			d.MarketCost = randomRange(random, []billing.Money{usd / 3, usd / 2})
		case 13:
			d.Latency = randomRange(random, []time.Duration{0, time.Second, 3 * time.Second})
		case 14:
			d.TTFB = randomRange(random, []time.Duration{0, time.Second, 3 * time.Second})
		case 15:
			d.PromptTokens = number(300, 600)
		case 16:
			d.CompletionTokens = number(26, 27, 28)
		case 17:
			d.CachedTokens = number(8, 9, 10)
		case 18:
			d.Tokens = number(300, 600)
		case 19:
			d.Attempts = number(0, 1, 3)
			f.Projects = some(random, projects)
		}
	}
	return f
}

func some[T any](random *rand.Rand, values []T) []T {
	return []T{oneOf(random, values), oneOf(random, values)}
}

func randomRange[T ~int64](random *rand.Rand, values []T) (r billing.Range[T]) {
	if random.IntN(3) > 0 {
		r.Min = pointer(oneOf(random, values))
	}
	if random.IntN(3) > 0 {
		r.Max = pointer(oneOf(random, values))
	}
	return r
}

func selectsDetail(d *billing.Detail, r *billing.Settlement) bool {
	u := r.Usage
	address, err := netip.ParseAddr(r.ClientIP)
	return (d.RequestID == "" || d.RequestID == r.RequestID) &&
		isOneOf(d.KeyNames, r.KeyName) && isOneOf(d.Endpoints, r.Endpoint) && isOneOf(d.Errors, r.Error) &&
		isOneOf(d.UsageSources, r.UsageSource) && isOneOf(d.PriceRuleIDs, r.PriceRuleID) &&
		(isOneOf(d.Statuses, r.Status) || slices.Contains(d.Statuses, r.Status/100)) &&
		(!d.ClientIP.IsValid() || err == nil && d.ClientIP.Contains(address)) &&
		strings.Contains(lowerASCII(r.UserAgent), lowerASCII(d.UserAgent)) &&
		(d.Streaming == nil || *d.Streaming == r.Streaming) &&
		(d.Changed == nil || *d.Changed == (len(r.Changes) > 0)) &&
		within(d.Cost, r.Cost) && within(d.MarketCost, r.MarketCost) &&
		within(d.Latency, r.Latency) && within(d.TTFB, r.TTFB) &&
		within(d.PromptTokens, u.Prompt()) && within(d.CompletionTokens, u.Completion()) &&
		within(d.CachedTokens, u.Cached()) && within(d.Tokens, u.Prompt()+u.Completion()) &&
		within(d.Attempts, int64(r.Attempts))
}

func isOneOf[T comparable](values []T, v T) bool {
	return len(values) == 0 || slices.Contains(values, v)
}

func within[T ~int64](r billing.Range[T], v T) bool {
	return (r.Min == nil || *r.Min <= v) && (r.Max == nil || v <= *r.Max)
}

func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func filtersByDetail(t *testing.T, s billing.Store) {
	random := rand.New(rand.NewPCG(3, 3))
	all := detailedHistory(random, 200)
	post(t, s, node, all...)
	var ids []string
	for _, r := range all {
		ids = append(ids, r.RequestID)
	}
	selective := 0
	for range 600 {
		f := randomDetail(random, ids)
		got, err := s.Requests(t.Context(), org, f, billing.Page{Limit: len(all)})
		check(t, err)
		var want []billing.Settlement
		for _, r := range all {
			if selects(f, r) {
				want = append(want, r)
			}
		}
		if len(want) > 0 && len(want) < len(all) {
			selective++
		}
		slices.SortFunc(want, newestFirst)
		equal(t, fmt.Sprintf("requests of %+v", f), got, want)
	}
	if selective < 300 {
		t.Errorf("only %d of the filters select some", selective)
	}
}

func filtersByOwner(t *testing.T, s billing.Store) {
	k := newKey("key_2", org, nil, "")
	k.Owner = "mem_1"
	check(t, s.CreateKey(t.Context(), k))
	theirs, mine := settlement(1, usd), settlement(2, usd)
	mine.KeyID = k.ID
	post(t, s, node, theirs, mine)
	for owner, want := range map[string][]billing.Settlement{"": {mine, theirs}, "mem_1": {mine}, "mem_2": nil} {
		got, err := s.Requests(t.Context(), org, billing.Filter{Owner: owner}, billing.Page{})
		check(t, err)
		equal(t, "requests of "+owner, got, want)
	}
}

func listsOldestFirst(t *testing.T, s billing.Store) {
	var want []billing.Settlement
	for n := range 8 {
		r := settlement(n, usd)
		if n%2 == 1 {
			r.KeyID = "key_9"
		}
		want = append(want, r)
	}
	post(t, s, node, want...)
	for _, keyIDs := range [][]string{nil, {key}, {"key_9", key, "key_x"}} {
		f := billing.Filter{KeyIDs: keyIDs}
		page := billing.Page{Limit: 3, OldestFirst: true}
		var got []billing.Settlement
		for {
			part, err := s.Requests(t.Context(), org, f, page)
			check(t, err)
			got = append(got, part...)
			if len(part) < page.Limit {
				break
			}
			page.After = part[len(part)-1].RequestID
		}
		of := slices.DeleteFunc(slices.Clone(want), func(r billing.Settlement) bool { return !selects(f, r) })
		equal(t, fmt.Sprintf("requests of %q", keyIDs), got, of)
	}
}

func keepsPriceSheets(t *testing.T, s billing.Store) {
	const sheet, odd = `{"parts":[{"rule":"r","rates":[1]}]}`, `{"parts":[]} -- "'ä`
	first, second, other, none := settlement(1, usd), settlement(2, usd), settlement(3, 0), settlement(4, usd)
	first.PriceSheet, second.PriceSheet, other.PriceSheet = sheet, sheet, odd
	post(t, s, node, first, none)
	post(t, s, node, second, other)
	post(t, s, node, first, second, other, none) // again
	for _, want := range []billing.Settlement{first, second, other, none} {
		got, err := s.Request(t.Context(), org, want.RequestID)
		check(t, err)
		equal(t, "request", got, want)
	}
	changed := first
	changed.PriceSheet = odd
	conflicts, err := s.Post(t.Context(), node, []billing.Settlement{changed})
	check(t, err)
	equal(t, "conflicts", conflicts, []string{first.RequestID})

	// What is refused as a repetition has stored no sheet that it brought.
	lost := first
	lost.PriceSheet, lost.Recovered = "only in a repetition", true
	post(t, s, node, lost)
	later := settlement(5, usd)
	later.PriceSheet = lost.PriceSheet
	post(t, s, node, later)
	got, err := s.Request(t.Context(), org, later.RequestID)
	check(t, err)
	equal(t, "request with the sheet of one that was there", got, later)
	balanced(t, s)
}
