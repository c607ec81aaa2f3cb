package billingtest

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// RunRetention tests that old requests are dropped and the books stay right. raw
// and unlock are those of RunProofs. age makes the database one that has been in
// use for at least six months.
func RunRetention(t *testing.T, open Open, raw func(t *testing.T) *sql.DB, age func(t *testing.T, s billing.Store), unlock ...string) {
	for name, test := range map[string]func(t *testing.T, a *aged){
		"old requests are dropped and the books stay right":   dropsRequests,
		"usage before what is kept has whole quarters":        reportsDroppedUsage,
		"a replay of what is dropped changes nothing":         replaysDropped,
		"what comes late is booked once, and dropped later":   postsLate,
		"what has an odd id is kept for as long as it is new": keepsOddIDs,
		"what is not proven is not dropped":                   refusesToDropUnproven,
		"what was dropped stays in the proof":                 provesDropped,
		"the last weeks are kept whatever is asked for":       keepsTheLastWeeks,
		"nothing else can be deleted or brought back":         refusesToDelete,
		"nodes drop and post at once":                         dropsAndPosts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, open)
			age(t, s)
			a := &aged{tampered: &tampered{Store: s, db: raw(t)}, unlock: unlock, open: open}
			a.fill(t)
			test(t, a)
		})
	}
}

// aged are books of some months.
type aged struct {
	*tampered
	unlock []string
	open   Open
	rows   []billing.Settlement
	cost   billing.Money
}

// keptFrom is what tests drop before: the beginning of a month.
var keptFrom = monthsAgo(2)

func monthsAgo(n int) time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month()-time.Month(n), 1, 0, 0, 0, 0, time.UTC)
}

// fill posts requests of five months, with and without cost, some at the very
// edges of months.
func (a *aged) fill(t *testing.T) {
	t.Helper()
	buy(t, a.Store, 100*usd)
	for month := 5; month >= 1; month-- {
		for _, at := range []time.Time{
			monthsAgo(month), monthsAgo(month).Add(50*time.Hour + 20*time.Minute), monthsAgo(month - 1).Add(-time.Microsecond),
		} {
			n := len(a.rows)
			paid, free := settlementAt(n, at, usd), settlementAt(n+1, at, 0)
			free.KeyID = "key_2"
			a.rows = append(a.rows, paid, free)
			a.cost += usd
		}
	}
	post(t, a.Store, node, a.rows...)
}

// old are the rows before what is kept.
func (a *aged) old() []billing.Settlement {
	return slices.DeleteFunc(slices.Clone(a.rows), func(s billing.Settlement) bool { return !s.At.Before(keptFrom) })
}

func (a *aged) drop(t *testing.T) int64 {
	t.Helper()
	n, err := a.DropRequests(t.Context(), keptFrom)
	check(t, err)
	return n
}

// holds checks that these requests are there, newest first, and that all other
// books are those of all that were ever posted.
func (a *aged) holds(t *testing.T, when string, rows ...billing.Settlement) {
	t.Helper()
	found, err := a.Requests(t.Context(), org, billing.Filter{}, billing.Page{Limit: 1000})
	check(t, err)
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].RequestID
	}
	want := make([]string, len(rows))
	for i := range rows {
		want[i] = rows[i].RequestID
	}
	slices.Sort(want)
	slices.Reverse(want)
	equal(t, "requests "+when, ids, want)
	usage, err := a.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{})
	check(t, err)
	equal(t, "usage "+when, usage.Totals, totalsOf(a.rows))
	equal(t, "balance "+when, balanceOf(t, a.Store, org), 100*usd-a.cost)
	balanced(t, a.Store)
}

func totalsOf(rows []billing.Settlement) (t billing.Totals) {
	for _, r := range rows {
		t = t.Plus(billing.TotalsOf(r))
	}
	return t
}

func dropsRequests(t *testing.T, a *aged) {
	a.holds(t, "at first", a.rows...)
	from, err := a.RequestsKept(t.Context())
	check(t, err)
	equal(t, "all are kept", from, time.Time{})
	old := a.old()
	equal(t, "dropped", a.drop(t), int64(len(old)))
	from, err = a.RequestsKept(t.Context())
	check(t, err)
	equal(t, "kept from", from, keptFrom)
	a.holds(t, "afterwards", a.rows[len(old):]...)
	equal(t, "dropped again", a.drop(t), 0)

	for _, id := range []string{old[0].RequestID, billing.NewID(billing.RequestIDPrefix, old[0].At)} {
		_, err = a.Request(t.Context(), org, id)
		if !errors.Is(err, billing.ErrNotFound) || !errors.Is(err, billing.ErrNotKept) {
			t.Errorf("error for an old request is %v", err)
		}
	}
	_, err = a.Request(t.Context(), org, billing.NewID(billing.RequestIDPrefix, keptFrom))
	if !errors.Is(err, billing.ErrNotFound) || errors.Is(err, billing.ErrNotKept) {
		t.Errorf("error for an unknown request is %v", err)
	}
	reopened := reopen(t, a.open)
	from, err = reopened.RequestsKept(t.Context())
	check(t, err)
	equal(t, "kept from, after a restart", from, keptFrom)
}

func reportsDroppedUsage(t *testing.T, a *aged) {
	a.drop(t)
	const quarter = 15 * time.Minute
	at := monthsAgo(4).Add(50*time.Hour + 20*time.Minute) // has a row with a cost and one without
	start := at.Truncate(quarter)
	for name, f := range map[string]struct {
		from, to time.Time
		want     int64
	}{
		"the quarter":         {start, start.Add(quarter), 2},
		"the quarter before":  {start.Add(-quarter), start, 0},
		"the quarter after":   {start.Add(quarter), start.Add(2 * quarter), 0},
		"from within it":      {at.Add(time.Minute), at.Add(3 * time.Hour), 2},
		"to within it":        {at.Add(-3 * time.Hour), at.Add(time.Minute), 0},
		"within it":           {at.Add(time.Minute), at.Add(2 * time.Minute), 0},
		"nothing":             {at, at, 0},
		"until what has rows": {at.Add(time.Minute), monthsAgo(1).Add(time.Microsecond), int64(len(a.rows)) - 2*4 - 2*2},
	} {
		usage, err := a.Usage(t.Context(), org, billing.Filter{From: f.from, To: f.to}, billing.Grouping{})
		check(t, err)
		equal(t, name, usage.Requests, f.want)
		equal(t, name+": from", usage.From, f.from.Truncate(quarter))
	}
	byDay, err := a.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{By: []billing.Dimension{billing.ByDate, billing.ByKey}})
	check(t, err)
	var sum billing.Totals
	for _, g := range byDay.Groups {
		sum = sum.Plus(g.Totals)
	}
	equal(t, "sum of the days", sum, totalsOf(a.rows))
}

func replaysDropped(t *testing.T, a *aged) {
	old := a.old()
	a.drop(t)
	post(t, a.Store, node, old...)
	post(t, a.Store, node, a.rows...)
	a.holds(t, "after the replay", a.rows[len(old):]...)

	paid, free := old[0], old[1]
	paid.UserAgent, free.UserAgent = "other", "other"
	conflicts, err := a.Post(t.Context(), node, []billing.Settlement{paid, free, a.rows[len(old)]})
	check(t, err)
	equal(t, "conflicts", conflicts, []string{paid.RequestID})
	paid.Recovered = true
	conflicts, err = a.Post(t.Context(), node, []billing.Settlement{paid})
	check(t, err)
	equal(t, "conflicts of a recovered one", conflicts, nil)
	a.holds(t, "after another replay", a.rows[len(old):]...)
}

func postsLate(t *testing.T, a *aged) {
	kept := a.rows[len(a.old()):]
	a.drop(t)
	late, free := settlementAt(500, monthsAgo(4).Add(time.Hour), usd), settlementAt(501, monthsAgo(4).Add(time.Hour), 0)
	a.rows, a.cost = append(a.rows, late), a.cost+usd
	for range 2 {
		post(t, a.Store, node, late, free)
		a.holds(t, "with a late one", append(slices.Clone(kept), late)...)
	}
	equal(t, "dropped later", a.drop(t), 1)
	a.holds(t, "without it", kept...)
	post(t, a.Store, node, late)
	a.holds(t, "after its replay", kept...)
}

func keepsOddIDs(t *testing.T, a *aged) {
	kept := a.rows[len(a.old()):]
	misnamed := settlementAt(600, monthsAgo(4), usd)
	misnamed.At = time.Now().UTC().Truncate(time.Microsecond).Add(-time.Hour)
	freeToo := misnamed
	freeToo.RequestID, freeToo.Cost = requestIDAt(601, monthsAgo(4)), 0
	ahead := settlementAt(602, time.Now().AddDate(30, 0, 0), usd)
	ahead.At = monthsAgo(4)
	strange := settlementAt(603, monthsAgo(3), usd)
	strange.RequestID = "~ any \"text\""
	odd := []billing.Settlement{misnamed, freeToo, ahead, strange}
	post(t, a.Store, node, odd...)
	a.rows, a.cost = append(a.rows, odd...), a.cost+3*usd
	a.holds(t, "with odd ids", a.rows...)
	kept = append(slices.Clone(kept), odd...)
	for range 2 {
		a.drop(t)
		a.holds(t, "after the drop", kept...)
		post(t, a.Store, node, odd...)
		a.holds(t, "after a replay", kept...)
	}
}

func refusesToDropUnproven(t *testing.T, a *aged) {
	old := a.old()
	check(t, func() error { _, err := a.Verify(t.Context(), billing.VerifyOptions{}); return err }())
	a.exec(t, a.unlock...)
	refuses := func(what, do, undo string) {
		t.Helper()
		a.change(t, do)
		n, err := a.DropRequests(t.Context(), keptFrom)
		if n != 0 || !errors.Is(err, billing.ErrUnproven) {
			t.Errorf("%s: dropped %d, error is %v", what, n, err)
		}
		a.change(t, undo)
	}
	paid, free := old[0].RequestID, old[1].RequestID // of the month that is dropped first
	for _, id := range []string{paid, free} {
		refuses("text of "+id, fmt.Sprintf("UPDATE requests SET user_agent = 'other' WHERE request_id = '%s'", id),
			fmt.Sprintf("UPDATE requests SET user_agent = '%s' WHERE request_id = '%s'", old[0].UserAgent, id))
	}
	refuses("amount", "UPDATE entries SET amount = amount - 1 WHERE request_id = '"+paid+"'",
		"UPDATE entries SET amount = amount + 1 WHERE request_id = '"+paid+"'")
	rollup := "UPDATE rollups SET requests = requests %s 1 WHERE series = '%s' AND key_id = '%s' " +
		"AND start = (SELECT min(start) FROM rollups WHERE series = '%[2]s')"
	for series, keyID := range map[string]string{"key_15m": "key_2", "all_1h": ""} {
		refuses("rollup of "+series, fmt.Sprintf(rollup, "+", series, keyID), fmt.Sprintf(rollup, "-", series, keyID))
	}
	refuses("balance", "UPDATE accounts SET balance = balance + 1 WHERE organization_id = '"+org+"'",
		"UPDATE accounts SET balance = balance - 1 WHERE organization_id = '"+org+"'")
	a.holds(t, "after it was put right", a.rows...)
	equal(t, "dropped then", a.drop(t), int64(len(old)))
}

func provesDropped(t *testing.T, a *aged) {
	a.drop(t)
	a.exec(t, a.unlock...)
	where := "WHERE key_id = '" + key + "' AND start = (SELECT min(start) FROM dropped_requests)"
	for column, checks := range map[string][]string{
		"requests": {billing.CheckRollups}, "market_cost": {billing.CheckRollups},
		"cost":   {billing.CheckRollups, billing.CheckDebits},
		"debits": {billing.CheckDebits},
	} {
		a.change(t, fmt.Sprintf("UPDATE dropped_requests SET %s = %[1]s + 1 %s", column, where))
		for _, check := range checks {
			a.fails(t, "sum of "+column, billing.Full, check)
		}
		a.change(t, fmt.Sprintf("UPDATE dropped_requests SET %s = %[1]s - 1 %s", column, where))
	}
	balanced(t, a.Store)
	a.exec(t, "DELETE FROM verified_ledgers", "DELETE FROM verified_hours")
	for range 2 {
		equal(t, "failed checks, all over again", verify(t, a.Store, billing.Incremental).Failed(), nil)
	}
	a.change(t, "DELETE FROM requests WHERE request_id = '"+a.rows[len(a.old())].RequestID+"'")
	a.fails(t, "deleted request that is kept", billing.Full, billing.CheckDebits)
}

func keepsTheLastWeeks(t *testing.T, a *aged) {
	recent := settlementAt(700, time.Now().UTC().Truncate(time.Microsecond).Add(-billing.MinRetention+time.Hour), usd)
	post(t, a.Store, node, recent)
	a.rows, a.cost = append(a.rows, recent), a.cost+usd
	_, err := a.DropRequests(t.Context(), time.Now().AddDate(1, 0, 0))
	check(t, err)
	_, err = a.Request(t.Context(), org, recent.RequestID)
	check(t, err)
	from, err := a.RequestsKept(t.Context())
	check(t, err)
	if from.After(time.Now().Add(-billing.MinRetention)) {
		t.Errorf("requests are kept from %s only", from)
	}
	balanced(t, a.Store)
}

func refusesToDelete(t *testing.T, a *aged) {
	a.drop(t)
	for _, change := range []string{
		"DELETE FROM requests WHERE request_id = '" + a.rows[len(a.old())].RequestID + "'",
		"DELETE FROM requests",
		"UPDATE requests_kept SET first_id = 'req_0'",
		"UPDATE requests_kept SET first_id = '', kept_from = NULL",
		"DELETE FROM requests_kept",
	} {
		if _, err := a.db.ExecContext(t.Context(), change); err == nil {
			t.Errorf("%s is allowed", change)
		}
	}
	a.holds(t, "afterwards", a.rows[len(a.old()):]...)
}

func dropsAndPosts(t *testing.T, a *aged) {
	stores := []billing.Store{a.Store, reopen(t, a.open)}
	var (
		wg      sync.WaitGroup
		dropped [2]int64
	)
	now := time.Now().UTC().Truncate(time.Microsecond)
	posted := make([]billing.Settlement, 40)
	for i := range posted {
		posted[i] = settlementAt(800+i, now.Add(time.Duration(i)*time.Second), usd/100)
	}
	for i, s := range stores {
		wg.Go(func() {
			var err error
			if dropped[i], err = s.DropRequests(t.Context(), keptFrom); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		for i := range posted {
			if _, err := a.Post(t.Context(), node, posted[i:i+1]); err != nil {
				t.Error(err)
			}
		}
	})
	done := make(chan struct{})
	var asked sync.WaitGroup
	asked.Go(func() { a.asksForUsage(t, done) })
	wg.Wait()
	close(done)
	asked.Wait()
	old := a.old()
	equal(t, "dropped", dropped[0]+dropped[1], int64(len(old)))
	a.rows, a.cost = append(a.rows, posted...), a.cost+40*(usd/100)
	a.holds(t, "afterwards", a.rows[len(old):]...)
}

// asksForUsage asks, until done, for a time that cuts quarters on both sides:
// while these have rows, and when they have none any more.
func (a *aged) asksForUsage(t *testing.T, done <-chan struct{}) {
	cut := 50*time.Hour + 21*time.Minute
	f := billing.Filter{From: monthsAgo(4).Add(cut), To: monthsAgo(3).Add(cut)}
	rows := a.old()
	for {
		u, err := a.Usage(t.Context(), org, f, billing.Grouping{})
		if err != nil {
			t.Error(err)
			return
		}
		var want int64
		for _, r := range rows {
			if !r.At.Before(u.From) && r.At.Before(u.To) {
				want++
			}
		}
		if u.Requests != want {
			t.Errorf("%d requests from %s to %s, want %d", u.Requests, u.From, u.To, want)
			return
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
