package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// figures are what a scenario did and what came of it.
type figures struct {
	scenario string
	began    time.Time

	kills, outages, reloads int
	audits                  int // of the books while they were written

	requests, complete, left int
	broken                   int
	connections              int            // failed before an answer
	refused                  map[string]int // by the gateway's error, or status
	errors                   map[string]int // 5xx, in the same way
	rate                     float64        // complete requests in a second
	lag                      time.Duration
	lagSamples               int
	reached                  map[string]bool // the markers of requests that the provider has seen
	findings
	notes []string
}

func newFigures(scenario string) *figures {
	return &figures{scenario: scenario, began: time.Now(), refused: make(map[string]int), errors: make(map[string]int)}
}

// note is something that the report says of the scenario.
func (f *figures) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// take counts what clients saw, and what reconciling has found.
func (f *figures) take(e evidence, found findings) {
	f.reached = make(map[string]bool, len(e.served))
	for _, s := range e.served {
		f.reached[s.ScriptID] = true
	}
	first, last := time.Time{}, time.Time{}
	for _, a := range e.attempts {
		if first.IsZero() || a.sent.Before(first) {
			first = a.sent
		}
		if a.ended.After(last) {
			last = a.ended
		}
		f.count(a)
	}
	if took := last.Sub(first).Seconds(); took > 0 {
		f.rate = float64(f.complete) / took
	}
	found.violations = append(f.violations, found.violations...)
	f.findings = found
}

func (f *figures) count(a *attempt) {
	f.requests++
	switch {
	case a.complete:
		f.complete++
	case a.left:
		f.left++
	case a.status == 0:
		f.connections++
	case a.failed():
		f.errors[cmp.Or(a.refusal, fmt.Sprintf("status %d", a.status))]++
	case a.broken():
		f.broken++
	default:
		f.refused[cmp.Or(a.refusal, fmt.Sprintf("status %d", a.status))]++
	}
}

// kind names the way a connection failed.
func kind(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "ended early"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	default:
		return err.Error()
	}
}

// expect states what clients may see in a scenario; all else is a violation.
type expect struct {
	// dying: nodes die, and with them connections and answers.
	dying bool
	// leaving: nodes go away in good order. A connection that fails has not
	// taken a request to the provider, so that its client may send it again.
	leaving bool
	// unavailable tells which requests may be answered 503 `ledger
	// unavailable`, since no spend can be authorized; nil is none.
	unavailable func(*attempt) bool
	// refused: a limit is reached.
	refused bool
	// limited: a limit on requests, tokens or open requests is reached.
	limited bool
}

// unavailable is the gateway's error for requests that cannot be authorized.
const unavailable = "ledger unavailable"

// unexpected says what is wrong with what a client saw, if anything. reached
// tells that the provider has seen the request.
func (e expect) unexpected(a *attempt, reached bool) string {
	switch {
	case a.complete, a.left:
		return ""
	case a.status == 0:
		if e.dying || e.leaving && !reached {
			return ""
		}
		return "connection " + kind(a.err)
	case a.broken():
		if e.dying {
			return ""
		}
		return fmt.Sprintf("broken answer (stream: %t): %s", a.stream, kind(a.err))
	case a.refusal == unavailable && e.unavailable != nil && e.unavailable(a):
		return ""
	case a.status == http.StatusForbidden && e.refused, a.status == http.StatusTooManyRequests && e.limited:
		return ""
	}
	return fmt.Sprintf("%d %s", a.status, a.refusal)
}

// check compares what clients saw with what they may see.
func (f *figures) check(attempts []*attempt, e expect) {
	const shown = 10
	times := make(map[string]int)
	for _, a := range attempts {
		what := e.unexpected(a, f.reached[a.marker])
		if what == "" {
			continue
		}
		if times[what]++; times[what] <= shown {
			f.violate("%s, request %s on node %d at %s: %s", a.marker, cmp.Or(a.requestID, "-"), a.node,
				a.sent.Format("15:04:05.000"), what)
		}
	}
	for what, n := range times {
		if n > shown {
			f.violate("%d times: %s", n, what)
		}
	}
}

// table is the report of all scenarios, in Markdown.
func table(all []*figures, seed uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Seed %d.\n\n", seed)
	b.WriteString("| Scenario | Result | Requests complete | Per second | Kills | Outages | Reloads | Debits lost | Debits twice | " +
		"Overspend, nano-USD | Audits under load | 5xx seen by clients | Refused | Broken answers | Failed connections | Interrupted, of these not served | Longest posting lag |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, f := range all {
		result := "ok"
		if len(f.violations) > 0 {
			result = fmt.Sprintf("%d violations", len(f.violations))
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %d | %d | %d | %d | %d | %d | %d | %s | %s | %d | %d | %d, %d | %s of %d |\n",
			f.scenario, result, f.complete, f.rate, f.kills, f.outages, f.reloads, f.lost, f.twice,
			f.overspend, f.audits, counts(f.errors), counts(f.refused), f.broken, f.connections,
			f.interrupted, f.unserved, f.lag.Round(time.Millisecond), f.lagSamples)
	}
	for _, f := range all {
		for _, note := range f.notes {
			fmt.Fprintf(&b, "\n- %s: %s", f.scenario, note)
		}
	}
	return b.String()
}

func counts(m map[string]int) string {
	if len(m) == 0 {
		return "0"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
	}
	return strings.Join(parts, ", ")
}

// progress tells what happens, as it happens.
func (c *cluster) progress(format string, args ...any) {
	f := c.figures
	fmt.Fprintf(os.Stderr, "%6.1fs %-12s %s\n", time.Since(f.began).Seconds(), f.scenario, fmt.Sprintf(format, args...))
}

// hash makes a seed of a name, so that scenarios do not depend on each other.
func hash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
