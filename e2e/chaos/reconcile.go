package chaos

import (
	"fmt"
	"net/http"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// What must be true once every node is up again and everything is posted:
//
//   - A request that its client saw complete has one audit row, with the usage
//     that the provider counted and its cost to the nano-USD, and one debit of
//     that cost.
//   - A request that reached the provider has one audit row.
//   - A request has at most one row, and a row with a cost one debit of it; a
//     row without a cost has none, and no debit is without its row.
//   - A request that the gateway did not live to see the end of is charged for
//     no more than was served of it, and its row says so. Where the gateway
//     ended between the journal's record and the request itself, that is the
//     prompt's estimate, for a request that was never served: counted, and the
//     price of writing down what is owed before it is.
//   - The entries of an account add up to its balance, the rows to the debits.
//   - The debits of a limit are at most the limit, and its documented bound.

// interrupted is what the row of a request says that the gateway did not live
// to see the end of.
const interrupted = "interrupted"

// limit is what may be spent, and how much more may come of the requests that
// were open when the limit was reached.
type limit struct {
	name  string
	nanos int64
	bound int64
}

// evidence is all that is known about what happened.
type evidence struct {
	attempts []*attempt
	served   []sandbox.Served
	books    *books
	limits   []limit
	// cutOff: streams that reach a limit end early, in good order.
	cutOff bool
}

// findings are what comparing it has shown.
type findings struct {
	lost, twice  int
	overspend    int64
	interrupted  int
	unserved     int // interrupted before they were sent, and charged an estimate
	endedByLimit int
	violations   []string
}

func (f *findings) violate(format string, args ...any) {
	f.violations = append(f.violations, fmt.Sprintf(format, args...))
}

// reconciliation is evidence in order, and what was found so far.
type reconciliation struct {
	findings
	evidence
	byMarker map[string]*attempt
	rows     map[string][]*row // by marker
	reached  map[string][]*sandbox.Served
	debits   map[string][]int64 // by request id
}

// reconcile compares what clients saw, what the provider served and what the
// books say.
func reconcile(e evidence) findings {
	r := &reconciliation{
		evidence: e,
		byMarker: make(map[string]*attempt, len(e.attempts)),
		rows:     make(map[string][]*row, len(e.books.rows)),
		reached:  make(map[string][]*sandbox.Served, len(e.served)),
		debits:   make(map[string][]int64, len(e.books.entries)),
	}
	for _, a := range e.attempts {
		r.byMarker[a.marker] = a
	}
	for i := range e.served {
		s := &e.served[i]
		if s.ScriptID == "" && s.Failed {
			continue // its sender died in the middle of it: the provider read no request
		}
		r.reached[s.ScriptID] = append(r.reached[s.ScriptID], s)
	}
	r.indexBooks()
	for _, a := range e.attempts {
		r.checkAttempt(a)
	}
	r.checkServed()
	r.checkSums()
	return r.findings
}

// indexBooks checks that ids are unique and that rows and debits correspond.
func (r *reconciliation) indexBooks() {
	for _, e := range r.books.entries {
		if e.kind == "usage_debit" {
			r.debits[e.requestID] = append(r.debits[e.requestID], -e.amount)
		}
	}
	ids := make(map[string]bool, len(r.books.rows)) // unique among all organizations, here
	for i := range r.books.rows {
		b := &r.books.rows[i]
		if ids[b.requestID] {
			r.violate("request id %s has two rows", b.requestID)
		}
		ids[b.requestID] = true
		r.rows[b.marker] = append(r.rows[b.marker], b)
		if r.byMarker[b.marker] == nil {
			r.violate("row %s is of a request that no client sent: %q", b.requestID, b.marker)
		}
		r.checkDebit(b)
	}
	for id, debits := range r.debits {
		if !ids[id] {
			r.violate("debit of %d for request %s, which has no row", debits, id)
		}
		if len(debits) > 1 {
			r.twice++
			r.violate("request %s is debited %d times: %d", id, len(debits), debits)
		}
	}
}

func (r *reconciliation) checkDebit(b *row) {
	debits := r.debits[b.requestID]
	switch {
	case b.cost == 0 && len(debits) > 0:
		r.violate("request %s cost nothing and is debited %d", b.requestID, debits)
	case b.cost != 0 && len(debits) == 0:
		r.lost++
		r.violate("request %s cost %d and is not debited", b.requestID, b.cost)
	case b.cost != 0 && debits[0] != b.cost:
		r.violate("request %s cost %d and is debited %d", b.requestID, b.cost, debits)
	}
}

func (r *reconciliation) checkAttempt(a *attempt) {
	rows, served := r.rows[a.marker], r.reached[a.marker]
	if len(rows) > 1 {
		r.violate("%s has %d rows", a.marker, len(rows))
		return
	}
	if len(served) > 1 {
		r.violate("%s reached the provider %d times", a.marker, len(served))
		return
	}
	switch {
	case len(rows) == 0 && len(served) == 0:
		if a.complete {
			r.lost++
			r.violate("%s is complete for its client, and unknown to all others", a.marker)
		}
	case len(rows) == 0:
		r.lost++
		r.violate("%s was served (status %d, complete for its client: %t) and has no row", a.marker, served[0].Status, a.complete)
	case len(served) == 0:
		r.checkUnserved(a, rows[0])
	default:
		r.checkCharge(a, rows[0], served[0])
	}
}

// checkUnserved: what never reached the provider costs nothing.
func (r *reconciliation) checkUnserved(a *attempt, b *row) {
	switch {
	case a.complete:
		r.violate("%s is complete for its client, and the provider has not seen it", a.marker)
	case b.cost == 0:
	case b.err == interrupted && b.source == metering.SourceEstimated && b.usage.Completion() == 0:
		r.interrupted++
		r.unserved++
	default:
		r.violate("%s was never served and cost %d: %s", a.marker, b.cost, b)
	}
}

func (r *reconciliation) checkCharge(a *attempt, b *row, s *sandbox.Served) {
	if a.organization != b.organization {
		r.violate("%s is of organization %s, its row of %s", a.marker, a.organization, b.organization)
	}
	if a.requestID != "" && a.requestID != b.requestID {
		r.violate("%s has request id %s for its client and %s in its row", a.marker, a.requestID, b.requestID)
	}
	priced, err := cost(a.model, b.usage)
	if err != nil {
		r.violate("%s: %v", a.marker, err)
		return
	}
	if priced != b.cost {
		r.violate("%s: its row's usage costs %d, its row says %d: %s", a.marker, priced, b.cost, b)
	}
	if a.complete && a.hasUsage && (a.usage.Prompt() != b.usage.Prompt() || a.usage.Completion() != b.usage.Completion()) {
		r.violate("%s: its client was told of %s, its row says %s", a.marker, show(a.usage), b)
	}
	exact := b.usage.Prompt() == s.Usage.Prompt() && b.usage.Completion() == s.Usage.Completion()
	within := b.usage.Prompt() <= s.Usage.Prompt() && b.usage.Completion() <= s.Usage.Completion()
	final := b.source == metering.SourceProvider || b.source == metering.SourceDrained
	switch {
	case s.Failed || s.Status != http.StatusOK:
		if s.Status != 0 || b.cost > 0 && b.err != interrupted {
			r.violate("%s failed at the provider, which nothing here asks for: %s", a.marker, show(s.Usage))
		}
	case final && exact:
	case final:
		r.violate("%s: the provider counted %s, its row says %s", a.marker, show(s.Usage), b)
	case a.complete && r.cutOff && b.err != "":
		r.endedByLimit++
	case a.complete:
		r.violate("%s is complete for its client; its row is not: %s", a.marker, b)
	case b.source != metering.SourcePartial && b.source != metering.SourceEstimated:
		r.violate("%s was served %s; its row has no source: %s", a.marker, show(s.Usage), b)
	case !within:
		r.violate("%s was served %s, and charged for more: %s", a.marker, show(s.Usage), b)
	case b.err == interrupted:
		r.interrupted++
	case b.err == "":
		r.violate("%s is incomplete; its row does not say why: %s", a.marker, b)
	}
}

// show is a usage in a few words.
func show(u metering.Usage) string { return fmt.Sprintf("%d+%d tokens", u.Prompt(), u.Completion()) }

func (b *row) String() string {
	return fmt.Sprintf("%s: %s, cost %d, %s, error %q", b.requestID, show(b.usage), b.cost, b.source, b.err)
}

// checkServed: what reached the provider came from a client here.
func (r *reconciliation) checkServed() {
	for marker, served := range r.reached {
		if r.byMarker[marker] == nil {
			r.violate("the provider served %d requests of %q, which no client sent", len(served), marker)
		}
	}
}

// checkSums compares balances with entries, rows with debits, and debits with
// limits.
func (r *reconciliation) checkSums() {
	balances := make(map[string]int64)
	var rows, debits int64
	for _, e := range r.books.entries {
		balances[e.organization] += e.amount
		if e.kind == "usage_debit" {
			debits -= e.amount
		}
	}
	for _, b := range r.books.rows {
		rows += b.cost
	}
	for _, a := range r.books.accounts {
		if balances[a.organization] != a.balance {
			r.violate("entries of %s sum to %d, its balance is %d", a.organization, balances[a.organization], a.balance)
		}
		delete(balances, a.organization)
	}
	for organization, balance := range balances {
		r.violate("%s has entries of %d and no account", organization, balance)
	}
	if rows != debits {
		r.violate("rows cost %d, debits are %d", rows, debits)
	}
	for _, l := range r.limits {
		r.overspend = max(r.overspend, debits-l.nanos)
		if debits > l.nanos+l.bound {
			r.violate("%s: %d spent of %d; at most %d more is allowed", l.name, debits, l.nanos, l.bound)
		}
	}
}

// costs is what each request cost, by its marker.
func (b *books) costs() map[string]int64 {
	costs := make(map[string]int64, len(b.rows))
	for _, r := range b.rows {
		costs[r.marker] = r.cost
	}
	return costs
}

// spent is the sum of all debits.
func (b *books) spent() int64 {
	var sum int64
	for _, e := range b.entries {
		if e.kind == "usage_debit" {
			sum -= e.amount
		}
	}
	return sum
}
