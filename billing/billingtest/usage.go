package billingtest

import (
	"cmp"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // not every machine has zones

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testUsage(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"it is what the rows come to":              groupsUsage,
		"dates without requests are there":         listsEachDate,
		"keys have the names that they have now":   namesKeys,
		"there are not too many groups":            boundsGroups,
		"a sum that overflows is an error":         refusesTooLargeSums,
		"nothing is grouped into nothing":          groupsNothing,
		"what arrives meanwhile is in all or none": keepsUsageConsistent,
	})
}

// A zone is a way to tell which date a moment is in, from nothing but what a
// clock there shows.
var usageZones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe",
	"Pacific/Apia", "Pacific/Chatham",
}

// year is a set of requests over a year: many of them around changes of clocks
// and at the edges of quarters, hours and days.
func year(random *rand.Rand, requests int) []billing.Settlement {
	moved := []time.Time{
		time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC), // Berlin
		time.Date(2026, 3, 8, 7, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC), // New York
		time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 15, 30, 0, 0, time.UTC), // Lord Howe
		time.Date(2026, 4, 4, 14, 0, 0, 0, time.UTC), time.Date(2026, 9, 26, 14, 0, 0, 0, time.UTC), // Chatham
	}
	batch := make([]billing.Settlement, requests)
	for n := range batch {
		at := noon.Add(-time.Duration(random.Int64N(int64(365 * 24 * time.Hour))))
		if random.IntN(2) == 0 {
			at = moved[random.IntN(len(moved))].Add(time.Duration(random.Int64N(int64(72*time.Hour))) - 36*time.Hour)
		}
		at = at.Truncate(time.Microsecond)
		edge := at.Truncate([]time.Duration{15 * time.Minute, time.Hour, 24 * time.Hour}[random.IntN(3)])
		switch random.IntN(4) {
		case 0:
			at = edge
		case 1:
			at = edge.Add(-time.Microsecond)
		}
		r := settlementAt(n, at, billing.Money(random.Int64N(int64(usd))))
		r.KeyID = fmt.Sprintf("key_%d", random.IntN(3))
		r.Provider = []string{"openai", "anthropic"}[random.IntN(2)]
		r.Model = []string{"small", "large"}[random.IntN(2)]
		r.Project = []string{"", "search"}[random.IntN(2)]
		r.Usage.Input, r.Usage.Reasoning = random.Int64N(1000), random.Int64N(9)
		r.MarketCost = billing.Money(random.Int64N(int64(usd)))
		batch[n] = r
	}
	return batch
}

// pickUsage chooses a question: a span and filters, and what to group by.
func pickUsage(random *rand.Rand) (billing.Filter, billing.Grouping) {
	pick := func(values ...string) string { return values[random.IntN(len(values))] }
	moment := func() time.Time {
		at := noon.Add(time.Duration(random.Int64N(int64(400*24*time.Hour))) - 390*24*time.Hour)
		return at.Truncate([]time.Duration{1, time.Microsecond, 15 * time.Minute, 24 * time.Hour}[random.IntN(4)])
	}
	f := billing.Filter{
		From: moment(), To: moment(),
		KeyIDs:    pickSome(random, "key_0", "key_1", "key_x"),
		Owner:     pick("", "", "", "mem_a", "mem_b"),
		Projects:  pickSome(random, "search", ""),
		Providers: pickSome(random, "openai", "anthropic"),
		Models:    pickSome(random, "small", "large"),
	}
	if f.To.Before(f.From) {
		f.From, f.To = f.To, f.From
	}
	switch random.IntN(5) {
	case 0:
		f.From = time.Time{}
	case 1:
		f.To = time.Time{}
	}
	by := []billing.Dimension{billing.ByDate, billing.ByKey, billing.ByProvider, billing.ByModel, billing.ByProject}
	random.Shuffle(len(by), func(i, j int) { by[i], by[j] = by[j], by[i] })
	zone, err := time.LoadLocation(pick(usageZones...))
	if err != nil {
		panic(err) // it is one of the program's own
	}
	return f, billing.Grouping{
		By:       by[:random.IntN(4)],
		Interval: []billing.Interval{"", billing.Hour, billing.Day, billing.Week, billing.Month}[random.IntN(5)],
		Zone:     zone, WeekStart: billing.WeekStarts[random.IntN(3)],
	}
}

// sums are totals of any size.
type sums [7]big.Int

func (s *sums) add(t billing.Totals) {
	for i, n := range []int64{
		t.Requests, t.PromptTokens, t.CompletionTokens, t.CachedTokens, t.ReasoningTokens, int64(t.Cost), int64(t.MarketCost),
	} {
		s[i].Add(&s[i], big.NewInt(n))
	}
}

func (s *sums) String() string {
	var text string
	for i := range s {
		text += " " + s[i].String()
	}
	return text
}

// label is the name of the group that a request is in.
func label(r billing.Settlement, g billing.Grouping) string {
	text := ""
	for _, by := range g.By {
		switch by {
		case billing.ByDate:
			text += " " + dateOf(r.At.In(g.Zone), g)
		case billing.ByKey:
			text += " " + r.KeyID
		case billing.ByProvider:
			text += " " + r.Provider
		case billing.ByModel:
			text += " " + r.Model
		case billing.ByProject:
			text += " " + r.Project
		}
	}
	return text
}

// dateOf reads a clock.
func dateOf(at time.Time, g billing.Grouping) string {
	switch cmp.Or(g.Interval, billing.Day) {
	case billing.Hour:
		return at.Format("2006-01-02T15Z07:00")
	case billing.Week:
		for at.Weekday() != g.WeekStart.Weekday() {
			at = time.Date(at.Year(), at.Month(), at.Day()-1, 12, 0, 0, 0, at.Location())
		}
		return at.Format(time.DateOnly)
	case billing.Month:
		return at.Format("2006-01")
	default:
		return at.Format(time.DateOnly)
	}
}

func groupsUsage(t *testing.T, s billing.Store) {
	random := rand.New(rand.NewPCG(3, 3))
	all := year(random, 600)
	for part := range slices.Chunk(all, 100) {
		post(t, s, node, part...)
	}
	owners := map[string]string{"key_0": "mem_a", "key_2": "mem_a", "key_x": "mem_b"}
	for id, owner := range owners {
		k := newKey(id, org, nil, "")
		k.Owner = owner
		check(t, s.CreateKey(t.Context(), k))
	}
	var some int
	for range 300 {
		f, g := pickUsage(random)
		if g.Interval == billing.Hour && f.To.Sub(f.From) > 100*24*time.Hour {
			f.From = f.To.Add(-100 * 24 * time.Hour)
		}
		name := fmt.Sprintf("usage of %+v by %v of %s from %s in %s", f, g.By, g.Interval, g.WeekStart, g.Zone)
		u, err := s.Usage(t.Context(), org, f, g)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, got := map[string]*sums{}, map[string]*sums{}
		put := func(to map[string]*sums, name string, totals billing.Totals) {
			if to[name] == nil {
				to[name] = &sums{}
			}
			to[name].add(totals)
		}
		const total = "total"
		for _, r := range all {
			if selects(f, r) && (f.Owner == "" || f.Owner == owners[r.KeyID]) {
				put(want, total, billing.TotalsOf(r))
				put(want, label(r, g), billing.TotalsOf(r))
			}
		}
		for _, group := range u.Groups {
			r := billing.Settlement{
				At: group.Start, KeyID: group.KeyID, Provider: group.Provider, Model: group.Model, Project: group.Project,
			}
			if group.Totals != (billing.Totals{}) {
				put(got, total, group.Totals)
				put(got, label(r, g), group.Totals)
			}
		}
		if len(g.By) == 0 {
			put(want, "", billing.Totals{})
			if len(u.Groups) > 0 {
				t.Errorf("%s has groups", name)
			}
			put(got, "", u.Totals)
			put(got, total, u.Totals)
			put(want, total, billing.Totals{})
		}
		texts := func(from map[string]*sums) map[string]string {
			out := make(map[string]string)
			for name, s := range from {
				out[name] = s.String()
			}
			return out
		}
		equal(t, name, texts(got), texts(want))
		var whole billing.Totals
		for _, group := range u.Groups {
			whole = whole.Plus(group.Totals)
		}
		if len(g.By) > 0 && whole != u.Totals {
			t.Errorf("%s: groups come to %+v, totals are %+v", name, whole, u.Totals)
		}
		if len(u.Groups) > 1 {
			some++
		}
	}
	if some < 100 {
		t.Errorf("only %d answers have several groups", some)
	}
	balanced(t, s)
}

func listsEachDate(t *testing.T, s billing.Store) {
	post(t, s, node, settlementAt(1, noon, usd), settlementAt(2, noon.AddDate(0, 0, 2), 2*usd))
	zone := time.FixedZone("", int(5.5*60*60))
	for name, test := range map[string]struct {
		filter   billing.Filter
		grouping billing.Grouping
		want     []string
	}{
		"of the span": {
			billing.Filter{From: noon.AddDate(0, 0, -1), To: noon.AddDate(0, 0, 1)}, billing.Grouping{},
			[]string{"2026-11-17T00:00:00Z 0", "2026-11-18T00:00:00Z 1", "2026-11-19T00:00:00Z 0"},
		},
		"from the first request to the last": {
			billing.Filter{}, billing.Grouping{},
			[]string{"2026-11-18T00:00:00Z 1", "2026-11-19T00:00:00Z 0", "2026-11-20T00:00:00Z 1"},
		},
		"of a zone, whole at either end": {
			billing.Filter{From: noon, To: noon.Add(time.Hour)}, billing.Grouping{Zone: zone},
			[]string{"2026-11-18T00:00:00+05:30 1"},
		},
		"months": {
			billing.Filter{From: noon, To: noon.AddDate(0, 1, 0)}, billing.Grouping{Interval: billing.Month},
			[]string{"2026-11-01T00:00:00Z 2", "2026-12-01T00:00:00Z 0"},
		},
	} {
		test.grouping.By = []billing.Dimension{billing.ByDate}
		u, err := s.Usage(t.Context(), org, test.filter, test.grouping)
		check(t, err)
		var got []string
		for _, g := range u.Groups {
			got = append(got, fmt.Sprint(g.Start.Format(time.RFC3339), " ", g.Requests))
		}
		equal(t, "dates "+name, got, test.want)
	}
}

func namesKeys(t *testing.T, s billing.Store) {
	unknown := settlement(2, usd)
	unknown.KeyID = "key_x"
	post(t, s, node, settlement(1, usd), unknown)
	_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error { k.Name = "renamed"; return nil })
	check(t, err)
	u, err := s.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{By: []billing.Dimension{billing.ByKey}})
	check(t, err)
	one := billing.TotalsOf(unknown)
	equal(t, "groups", u.Groups, []billing.UsageGroup{{KeyID: key, KeyName: "renamed", Totals: one}, {KeyID: "key_x", Totals: one}})
}

func boundsGroups(t *testing.T, s billing.Store) {
	post(t, s, node, settlementAt(1, noon.AddDate(-3, 0, 0), usd), settlement(2, usd))
	by := billing.Grouping{By: []billing.Dimension{billing.ByDate}, Interval: billing.Hour}
	for name, f := range map[string]billing.Filter{
		"a span of three years": {From: noon.AddDate(-3, 0, 0), To: noon},
		"all that there is":     {},
	} {
		_, err := s.Usage(t.Context(), org, f, by)
		equal(t, "error for "+name, err, billing.ErrTooManyGroups)
	}
	from := noon.Truncate(time.Hour)
	u, err := s.Usage(t.Context(), org, billing.Filter{From: from, To: from.Add(billing.MaxUsageGroups * time.Hour)}, by)
	check(t, err)
	equal(t, "most groups", len(u.Groups), billing.MaxUsageGroups)

	var batch []billing.Settlement
	for n := range billing.MaxUsageGroups {
		r := settlement(10+n, 0)
		r.Model = fmt.Sprint("model ", n)
		batch = append(batch, r)
	}
	post(t, s, node, batch...)
	_, err = s.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{By: []billing.Dimension{billing.ByModel}})
	equal(t, "error for models", err, billing.ErrTooManyGroups)
}

func refusesTooLargeSums(t *testing.T, s billing.Store) {
	const most = 1<<63 - 1
	for n := range 3 {
		r := settlementAt(n, noon.AddDate(0, 0, n), 0) // no sum that is kept overflows
		r.MarketCost = most / 2
		post(t, s, node, r)
	}
	for name, g := range map[string]billing.Grouping{"one sum": {}, "dates": {By: []billing.Dimension{billing.ByDate}}} {
		if u, err := s.Usage(t.Context(), org, billing.Filter{}, g); err == nil {
			t.Errorf("%s: the market cost is %d", name, u.MarketCost)
		}
	}
}

func groupsNothing(t *testing.T, s billing.Store) {
	for _, by := range []billing.Dimension{billing.ByDate, billing.ByKey} {
		u, err := s.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{By: []billing.Dimension{by}})
		check(t, err)
		equal(t, fmt.Sprintf("usage by %s", by), u, billing.Usage{})
	}
}

// Totals and groups, rollups and rows, are of one moment, whatever is posted.
func keepsUsageConsistent(t *testing.T, s billing.Store) {
	const posts, size = 40, 5
	done := make(chan error, 1)
	go func() {
		var err error
		for n := range posts {
			var batch []billing.Settlement
			for i := range size {
				// One in the first hour, which is of rows, and others in rollups.
				batch = append(batch, settlementAt(n*size+i, noon.AddDate(0, 0, i).Add(time.Second), usd))
			}
			if _, e := s.Post(t.Context(), node, batch); e != nil {
				err = e
			}
		}
		done <- err
	}()
	from := billing.Filter{From: noon.Add(time.Microsecond)}
	for {
		u, err := s.Usage(t.Context(), org, from, billing.Grouping{By: []billing.Dimension{billing.ByDate}})
		check(t, err)
		for _, g := range u.Groups {
			if g.Requests*size != u.Requests {
				t.Fatalf("a part of a batch is there: %+v", u)
			}
		}
		select {
		case err := <-done:
			check(t, err)
			return
		default:
		}
	}
}
