package proof

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// nothing is what is found where something is missing.
const nothing = "nothing"

// report collects differences.
type report struct {
	checks   []billing.Check
	examples int
	// found counts all differences.
	found int
}

func newReport(examples int) *report {
	r := &report{examples: examples}
	for _, name := range billing.Checks {
		r.checks = append(r.checks, billing.Check{Name: name})
	}
	return r
}

// add reports a difference that weighs as much as amount says, whatever its
// sign, and at least 1.
func (r *report) add(check string, amount billing.Money, d billing.Difference) {
	r.found++
	for i := range r.checks {
		c := &r.checks[i]
		if c.Name != check {
			continue
		}
		c.Imbalance = billing.AddImbalance(c.Imbalance, max(1, absolute(amount)))
		if len(c.Examples) < r.examples {
			c.Examples = append(c.Examples, d)
		}
	}
}

func absolute(m billing.Money) billing.Money {
	if m == math.MinInt64 {
		return math.MaxInt64
	}
	return max(m, -m)
}

// subject is what a check looks at.
type subject struct {
	report    *report
	check     string
	org, name string
}

func (r *report) of(check, org, name string) subject { return subject{r, check, org, name} }

// number compares two numbers or amounts.
func (s subject) number(field string, expected, found int64) {
	if expected == found {
		return
	}
	s.add(difference(expected, found), field, strconv.FormatInt(expected, 10), strconv.FormatInt(found, 10))
}

// difference does not wrap.
func difference(a, b int64) billing.Money {
	d := a - b
	if (a >= 0) != (b >= 0) && (d >= 0) != (a >= 0) {
		return math.MaxInt64
	}
	return billing.Money(d)
}

// text compares two texts, whose difference weighs 1.
func (s subject) text(field, expected, found string) {
	if expected != found {
		s.add(1, field, strconv.Quote(expected), strconv.Quote(found))
	}
}

func (s subject) time(field string, expected, found time.Time) {
	if !expected.Equal(found) {
		s.add(1, field, expected.Format(time.RFC3339Nano), found.Format(time.RFC3339Nano))
	}
}

func (s subject) hash(expected, found []byte) {
	if string(expected) != string(found) {
		s.add(1, "hash", shortHash(expected), shortHash(found))
	}
}

// shortHash is enough of a hash to tell two apart.
func shortHash(h []byte) string { return hex.EncodeToString(h[:min(len(h), 8)]) }

func (s subject) add(amount billing.Money, field, expected, found string) {
	s.report.add(s.check, amount, billing.Difference{
		OrganizationID: s.org, Subject: s.name, Field: field, Expected: expected, Found: found,
	})
}

// totals compares the sums of requests.
func (s subject) totals(expected, found billing.Totals) {
	s.number("requests", expected.Requests, found.Requests)
	s.number("prompt_tokens", expected.PromptTokens, found.PromptTokens)
	s.number("completion_tokens", expected.CompletionTokens, found.CompletionTokens)
	s.number("cached_tokens", expected.CachedTokens, found.CachedTokens)
	s.number("reasoning_tokens", expected.ReasoningTokens, found.ReasoningTokens)
	s.number("cost", int64(expected.Cost), int64(found.Cost))
	s.number("market_cost", int64(expected.MarketCost), int64(found.MarketCost))
}

// allowance reports an allowance whose settled sum is not the sum of costs.
func (r *report) allowance(d sumDifference) {
	r.of(billing.CheckAllowances, d.allowance.OrganizationID, allowanceName(d.allowance)).number("settled", d.expected, d.found)
}

// lease reports an allowance whose leased sum is not the sum of its leases.
func (r *report) lease(d sumDifference) {
	r.of(billing.CheckLeases, d.allowance.OrganizationID, allowanceName(d.allowance)).number("leased", d.expected, d.found)
}

func allowanceName(a billing.Allowance) string {
	name := "allowance " + string(a.Kind)
	if a.Subject != "" {
		name += " " + a.Subject
	}
	return fmt.Sprintf("%s %s from %s", name, a.Period, a.Start.Format(time.DateOnly))
}

func rollupName(k books.RollupKey) string {
	return strings.TrimRight(fmt.Sprintf("rollup %s %s %s %s %s %s", k.Series, k.Start.Format("2006-01-02T15:04Z"), k.KeyID, k.Provider, k.Model, k.Project), " ")
}

func hourName(t time.Time) string { return t.Format("2006-01-02T15Z") }
func entryName(seq int64) string  { return "entry " + strconv.FormatInt(seq, 10) }
func requestName(id string) string {
	return "request " + id
}
