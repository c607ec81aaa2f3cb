package billingtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testQuotas(t *testing.T, open Open) {
	cases(t, open, map[string]func(t *testing.T, s billing.Store){
		"nodes are granted no more than the limit":           drawsToTheLimit,
		"what a node wants no more of is there for others":   drawsWhatIsGivenBack,
		"use above a grant counts as granted":                drawsBesideADebt,
		"a node keeps nothing that is too little for it":     drawsNothingUseless,
		"a changed limit applies to the next draw":           drawsByTheNewLimit,
		"a draw that comes late changes nothing":             ignoresLateDraws,
		"a draw may be repeated":                             repeatsDraws,
		"each kind, subject and minute counts for itself":    keepsQuotasApart,
		"the end of a process frees its open requests alone": freesConcurrency,
		"ended minutes are forgotten":                        forgetsEndedMinutes,
		"of many ended minutes nothing is left":              forgetsAll,
		"draws of many nodes at once keep the limit":         drawsConcurrently,
	})
}

func keyRPM() billing.Quota {
	return billing.Quota{Kind: billing.KeyRPM, OrganizationID: org, Subject: key, Start: noon}
}

func concurrency() billing.Quota {
	return billing.Quota{Kind: billing.KeyConcurrency, OrganizationID: org, Subject: key}
}

// serials numbers the draws of all tests.
var serials atomic.Int64

// draw draws from one quota. Least is what was used, if it is not given.
func draw(t *testing.T, s billing.Store, node string, q billing.Quota, limit, used, want int64, least ...int64) billing.Drawn {
	t.Helper()
	d := billing.Draw{Quota: q, Limit: limit, Used: used, Want: want, Least: used, Serial: serials.Add(1)}
	if len(least) > 0 {
		d.Least = least[0]
	}
	drawn, err := s.Draw(t.Context(), node, []billing.Draw{d})
	check(t, err)
	if len(drawn) != 1 {
		t.Fatalf("%d answers to a draw", len(drawn))
	}
	return drawn[0]
}

func drawsToTheLimit(t *testing.T, s billing.Store) {
	equal(t, "first", draw(t, s, "a", keyRPM(), 10, 0, 6), billing.Drawn{Granted: 6})
	equal(t, "second", draw(t, s, "b", keyRPM(), 10, 0, 6), billing.Drawn{Granted: 4, UnusedElsewhere: 6})
	equal(t, "third", draw(t, s, "c", keyRPM(), 10, 0, 6), billing.Drawn{Granted: 0, UnusedElsewhere: 10})
	equal(t, "more for the first", draw(t, s, "a", keyRPM(), 10, 5, 9), billing.Drawn{Granted: 6, UnusedElsewhere: 4})
	equal(t, "what others see", draw(t, s, "c", keyRPM(), 10, 0, 6),
		billing.Drawn{Granted: 0, UsedElsewhere: 5, UnusedElsewhere: 5})
}

func drawsWhatIsGivenBack(t *testing.T, s billing.Store) {
	draw(t, s, "a", keyRPM(), 10, 0, 10)
	equal(t, "giver", draw(t, s, "a", keyRPM(), 10, 3, 3), billing.Drawn{Granted: 3})
	equal(t, "taker", draw(t, s, "b", keyRPM(), 10, 0, 10), billing.Drawn{Granted: 7, UsedElsewhere: 3})
}

func drawsBesideADebt(t *testing.T, s billing.Store) {
	draw(t, s, "a", keyRPM(), 10, 0, 4)
	equal(t, "debtor", draw(t, s, "a", keyRPM(), 10, 9, 9), billing.Drawn{Granted: 9})
	equal(t, "deeper", draw(t, s, "a", keyRPM(), 10, 12, 12), billing.Drawn{Granted: 10})
	equal(t, "other", draw(t, s, "b", keyRPM(), 10, 0, 1), billing.Drawn{Granted: 0, UsedElsewhere: 12})
}

func drawsNothingUseless(t *testing.T, s billing.Store) {
	draw(t, s, "a", keyRPM(), 10, 4, 6)
	equal(t, "too little", draw(t, s, "b", keyRPM(), 10, 1, 7, 6),
		billing.Drawn{Granted: 1, UsedElsewhere: 4, UnusedElsewhere: 2})
	equal(t, "enough", draw(t, s, "b", keyRPM(), 10, 1, 7, 4),
		billing.Drawn{Granted: 4, UsedElsewhere: 4, UnusedElsewhere: 2})
}

func drawsByTheNewLimit(t *testing.T, s billing.Store) {
	draw(t, s, "a", keyRPM(), 10, 4, 8)
	equal(t, "lower", draw(t, s, "a", keyRPM(), 5, 4, 8), billing.Drawn{Granted: 5})
	equal(t, "lower, elsewhere", draw(t, s, "b", keyRPM(), 5, 0, 5), billing.Drawn{UsedElsewhere: 4, UnusedElsewhere: 1})
	equal(t, "higher", draw(t, s, "b", keyRPM(), 20, 0, 20),
		billing.Drawn{Granted: 15, UsedElsewhere: 4, UnusedElsewhere: 1})
}

func ignoresLateDraws(t *testing.T, s billing.Store) {
	late := billing.Draw{Quota: keyRPM(), Limit: 10, Used: 1, Want: 2, Serial: serials.Add(1)}
	draw(t, s, "a", keyRPM(), 10, 5, 8)
	drawn, err := s.Draw(t.Context(), "a", []billing.Draw{late})
	check(t, err)
	equal(t, "late", drawn, []billing.Drawn{{Granted: 8}})
	equal(t, "others", draw(t, s, "b", keyRPM(), 10, 0, 10),
		billing.Drawn{Granted: 2, UsedElsewhere: 5, UnusedElsewhere: 3})
}

func repeatsDraws(t *testing.T, s billing.Store) {
	for range 3 {
		equal(t, "drawn", draw(t, s, "a", keyRPM(), 10, 2, 7), billing.Drawn{Granted: 7})
	}
}

func keepsQuotasApart(t *testing.T, s billing.Store) {
	quotas := []billing.Quota{keyRPM(), concurrency()}
	for _, change := range []func(*billing.Quota){
		func(q *billing.Quota) { q.Kind = billing.KeyTPM },
		func(q *billing.Quota) { q.Kind, q.Subject = billing.OrganizationRPM, "" },
		func(q *billing.Quota) { q.OrganizationID = other },
		func(q *billing.Quota) { q.Subject = "key_2" },
		func(q *billing.Quota) { q.Start = q.Start.Add(time.Minute) },
	} {
		q := keyRPM()
		change(&q)
		quotas = append(quotas, q)
	}
	var draws []billing.Draw
	var want []billing.Drawn
	for i, q := range quotas {
		n := int64(i + 1)
		draws = append(draws, billing.Draw{Quota: q, Limit: n, Want: 100, Serial: serials.Add(1)})
		want = append(want, billing.Drawn{Granted: n})
	}
	drawn, err := s.Draw(t.Context(), "a", draws)
	check(t, err)
	equal(t, "drawn", drawn, want)
}

func freesConcurrency(t *testing.T, s billing.Store) {
	later := keyRPM()
	later.Start = noon.Add(time.Minute)
	for name, end := range map[string]func(n billing.Node) error{
		"start of a successor": func(n billing.Node) error {
			n.Incarnation, n.StartedAt = "2", noon.Add(30*time.Second)
			return s.Join(t.Context(), n)
		},
		"expiry": func(n billing.Node) error { _, err := s.Expire(t.Context(), n.ID, 1); return err },
		"leave":  func(n billing.Node) error { return s.Leave(t.Context(), n) },
	} {
		n := newNode("node_"+name, "1")
		check(t, s.Join(t.Context(), n))
		check(t, s.Join(t.Context(), newNode(n.ID+"b", "1")))
		draw(t, s, n.Holder(), concurrency(), 10, 4, 5)
		draw(t, s, n.ID+"b.1", concurrency(), 10, 1, 1)
		draw(t, s, n.Holder(), keyRPM(), 10, 4, 5)
		draw(t, s, n.Holder(), later, 10, 0, 10)
		check(t, end(n))
		equal(t, name+": open requests", draw(t, s, "x", concurrency(), 10, 0, 0), billing.Drawn{UsedElsewhere: 1})
		equal(t, name+": the minute", draw(t, s, "x", keyRPM(), 10, 0, 0),
			billing.Drawn{UsedElsewhere: 4, UnusedElsewhere: 1})
		ahead := billing.Drawn{UnusedElsewhere: 10}
		if name == "start of a successor" {
			ahead = billing.Drawn{}
		}
		equal(t, name+": the next minute", draw(t, s, "x", later, 10, 0, 0), ahead)
		draw(t, s, n.ID+"b.1", concurrency(), 10, 0, 0)
		draw(t, s, n.Holder(), keyRPM(), 10, 0, 0)
		draw(t, s, n.Holder(), later, 10, 0, 0)
	}
}

func forgetsEndedMinutes(t *testing.T, s billing.Store) {
	draw(t, s, "a", keyRPM(), 10, 3, 3)
	draw(t, s, "a", concurrency(), 10, 3, 3)
	forget(t, s, noon)
	equal(t, "not before", draw(t, s, "b", keyRPM(), 10, 0, 0), billing.Drawn{UsedElsewhere: 3})
	forget(t, s, noon.Add(time.Second))
	equal(t, "the minute", draw(t, s, "b", keyRPM(), 10, 0, 0), billing.Drawn{})
	equal(t, "open requests", draw(t, s, "b", concurrency(), 10, 0, 0), billing.Drawn{UsedElsewhere: 3})
}

// forgetsAll removes many ended minutes, as nodes do: until there are no more.
func forgetsAll(t *testing.T, s billing.Store) {
	const keys = 2500
	draws := make([]billing.Draw, keys)
	for i := range draws {
		draws[i] = billing.Draw{Quota: keyRPM(), Limit: 10, Used: 1, Want: 1, Serial: serials.Add(1)}
		draws[i].Quota.Subject = fmt.Sprint("key_", i)
	}
	_, err := s.Draw(t.Context(), "a", draws)
	check(t, err)
	if calls := forget(t, s, noon.Add(time.Second)); calls < 2 || calls > keys/100 {
		t.Errorf("removed in %d calls", calls)
	}
	for i := range draws {
		draws[i].Used, draws[i].Want = 0, 0
	}
	drawn, err := s.Draw(t.Context(), "b", draws)
	check(t, err)
	for i := range drawn {
		equal(t, "what is left of "+draws[i].Quota.Subject, drawn[i], billing.Drawn{})
	}
}

// forget removes ended minutes until there are no more.
func forget(t *testing.T, s billing.Store, before time.Time) (calls int) {
	t.Helper()
	for more := true; more; calls++ {
		var err error
		more, err = s.ForgetQuotas(t.Context(), before)
		check(t, err)
	}
	return calls
}

// Nodes draw and give back at random, from two quotas in either order: the
// sum of what they have never passes the limits.
func drawsConcurrently(t *testing.T, s billing.Store) {
	const limit = 20
	quotas := []billing.Quota{keyRPM(), concurrency()}
	var held [2]atomic.Int64
	var nodes sync.WaitGroup
	for _, node := range []string{"a", "b", "c"} {
		nodes.Go(func() {
			var granted [2]int64
			for range 60 {
				order := rand.Perm(2)
				draws := make([]billing.Draw, 2)
				for i, q := range order {
					want := rand.Int64N(limit + 1)
					held[q].Add(-max(0, granted[q]-want)) // before others may have it
					granted[q] = min(granted[q], want)
					draws[i] = billing.Draw{Quota: quotas[q], Limit: limit, Want: want, Serial: serials.Add(1)}
				}
				drawn, err := s.Draw(context.WithoutCancel(t.Context()), node, draws)
				if err != nil {
					t.Errorf("draw: %v", err)
					return
				}
				for i, q := range order {
					if sum := held[q].Add(drawn[i].Granted - granted[q]); sum > limit {
						t.Errorf("%d of %d granted", sum, limit)
					}
					granted[q] = drawn[i].Granted
				}
			}
		})
	}
	nodes.Wait()
}
