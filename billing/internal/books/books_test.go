package books

import (
	"bytes"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-llm-gateway/gateway/billing"
)

var noon = time.Date(2026, 11, 18, 12, 30, 0, 0, time.UTC)

// change gives each field of a struct, and of structs in it, another value, one
// at a time.
func change[T any](t *testing.T, original T, changed func(field string, v T)) {
	t.Helper()
	var walk func(path string, index []int, typ reflect.Type)
	walk = func(path string, index []int, typ reflect.Type) {
		for i := range typ.NumField() {
			at, name := append(slices.Clone(index), i), path+typ.Field(i).Name
			v := original
			field := reflect.ValueOf(&v).Elem().FieldByIndex(at)
			switch f := field.Addr().Interface().(type) {
			case *time.Time:
				*f = f.Add(time.Microsecond)
			case *[]string:
				*f = append(slices.Clone(*f), "more")
			case **billing.Money:
				*f = new(billing.Money)
			case *billing.KeyHash:
				f[0]++
			case *[]billing.Attempt:
				*f = append(slices.Clone(*f), billing.Attempt{})
			default:
				switch field.Kind() {
				case reflect.String:
					field.SetString(field.String() + "x")
				case reflect.Int, reflect.Int64:
					field.SetInt(field.Int() + 1)
				case reflect.Bool:
					field.SetBool(!field.Bool())
				case reflect.Struct:
					walk(name+".", at, field.Type())
					continue
				default:
					t.Fatalf("%s is of a kind that this test does not know", name)
				}
			}
			changed(name, v)
		}
	}
	walk("", nil, reflect.TypeFor[T]())
}

func hashOf(s billing.Settlement) []byte {
	var d digest
	d.settlement(&s, sheetHashes{"": {}}.of(s.PriceSheet))
	return d.appendSum(nil)
}

func TestSettlementHashCoversAllFields(t *testing.T) {
	t.Parallel()
	original := billing.Settlement{RequestID: "a", KeyID: "b", At: noon, Changes: []string{"c"}}
	want := hashOf(original)
	change(t, original, func(field string, s billing.Settlement) {
		same := bytes.Equal(hashOf(s), want)
		if ignored := field == "Recovered"; same != ignored {
			t.Errorf("%s: hash is the same: %t, want %t", field, same, ignored)
		}
	})
}

func TestSettlementHashCoversAttempts(t *testing.T) {
	t.Parallel()
	hash := func(a billing.Attempt) []byte { return hashOf(billing.Settlement{AttemptLog: []billing.Attempt{a}}) }
	want := hash(billing.Attempt{})
	change(t, billing.Attempt{}, func(field string, a billing.Attempt) {
		if bytes.Equal(hash(a), want) {
			t.Errorf("%s: hash is the same", field)
		}
	})
}

func TestEntryHashCoversWhatTheCallerSays(t *testing.T) {
	t.Parallel()
	ignored := []string{"ID", "BalanceAfter", "CreatedAt", "IdempotencyKey"}
	want := EntryHash(billing.Entry{})
	change(t, billing.Entry{}, func(field string, e billing.Entry) {
		if same := bytes.Equal(EntryHash(e), want); same != slices.Contains(ignored, field) {
			t.Errorf("%s: hash is the same: %t", field, same)
		}
	})
}

func TestHashTellsFieldsApart(t *testing.T) {
	t.Parallel()
	a := hashOf(billing.Settlement{KeyID: "ab", KeyName: "c"})
	b := hashOf(billing.Settlement{KeyID: "a", KeyName: "bc"})
	if bytes.Equal(a, b) {
		t.Error("text that moved to the next field has the same hash")
	}
}

func TestUsageIsCutWithoutGapOrOverlap(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	zones := []*time.Location{nil, time.FixedZone("", 20_700), time.FixedZone("", -44*60-30)}
	for _, name := range []string{"America/New_York", "Australia/Lord_Howe", "Pacific/Chatham"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		zones = append(zones, zone)
	}
	begins := []time.Time{ // the clocks of those are moved soon after
		noon, time.Date(2026, 10, 31, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC), time.Date(2026, 9, 25, 0, 0, 0, 0, time.UTC),
	}
	intervals := []billing.Interval{billing.Hour, billing.Day, billing.Week, billing.Month}
	begin := noon
	moment := func() time.Time {
		at := begin.Add(time.Duration(random.Int64N(int64(100 * time.Hour)))).Truncate(time.Microsecond)
		return at.Truncate([]time.Duration{1, time.Minute, 15 * time.Minute, time.Hour, 24 * time.Hour}[random.IntN(5)])
	}
	for range 2000 {
		begin = begins[random.IntN(len(begins))]
		rowsFrom := begin.Truncate(24 * time.Hour).Add(48 * time.Hour)
		f := billing.Filter{From: moment(), To: moment(), KeyIDs: [][]string{nil, {"key"}}[random.IntN(2)]}
		g := billing.Grouping{
			By:       []billing.Dimension{billing.ByModel, billing.ByDate}[:random.IntN(3)],
			Interval: intervals[random.IntN(4)], Zone: zones[random.IntN(len(zones))],
		}
		q, err := NewUsageQuery(f, g, Span{}, rowsFrom)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range q.Rows {
			if r.To.Sub(r.From) >= KeyQuarters.Grain || r.From.Before(rowsFrom) {
				t.Fatalf("%+v by %+v: rows of %v", f, g, r)
			}
		}
		c := newCalendar(g)
		for range 20 {
			at := moment()
			found := make(map[int]int) // by date
			pieces := make(map[int]int)
			for _, part := range slices.Concat(q.Rollups, q.Rows) {
				if part.contains(at) {
					pieces[part.Piece] += part.Sign
				}
			}
			for _, s := range q.Shares {
				found[s.Date] += s.Sign * pieces[s.Piece]
			}
			maps.DeleteFunc(found, func(_, times int) bool { return times == 0 })
			want := make(map[int]int)
			if (Span{q.from, q.to}).contains(at) {
				want[max(0, slices.IndexFunc(q.starts, func(start time.Time) bool { return start.Equal(c.start(at)) }))] = 1
			}
			if at.Before(rowsFrom) && len(found) == len(want) {
				continue // which date it is in may have been rounded
			}
			if !maps.Equal(found, want) {
				t.Fatalf("%+v by %+v: %s is in %v, want %v", f, g, at, found, want)
			}
		}
	}
}

// What leads to a bound from where a rollup of a day begins is short, wherever
// in the day it is.
func TestBoundsAreAFewRollupsFromDays(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02T15:04:05", "2026-11-"+text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	part := func(sign int, series, from, to string) Part {
		return Part{Series: series, Span: Span{at(from), at(to)}, Sign: sign}
	}
	for bound, want := range map[string][]Part{
		"01T00:00:00": nil,
		"01T18:30:00": { // a day at +05:30
			part(-1, "all_6h", "01T18:00:00", "02T00:00:00"),
			part(1, "all_30m", "01T18:00:00", "01T18:30:00"),
		},
		"01T15:00:00": { // at +09:00
			part(-1, "all_6h", "01T18:00:00", "02T00:00:00"),
			part(-1, "all_3h", "01T15:00:00", "01T18:00:00"),
		},
		"01T11:15:00": { // at +12:45
			part(1, "all_6h", "01T00:00:00", "01T12:00:00"),
			part(-1, "all_1h", "01T11:00:00", "01T12:00:00"),
			part(1, "all_15m", "01T11:00:00", "01T11:15:00"),
		},
		"01T04:30:00": { // at -04:30
			part(1, "all_6h", "01T00:00:00", "01T06:00:00"),
			part(-1, "all_1h", "01T05:00:00", "01T06:00:00"),
			part(-1, "all_30m", "01T04:30:00", "01T05:00:00"),
		},
		"01T21:52:29": {
			part(-1, "all_3h", "01T21:00:00", "02T00:00:00"),
			part(1, "all_1h", "01T21:00:00", "01T22:00:00"),
			part(-1, "all_15m", "01T21:45:00", "01T22:00:00"),
			part(1, "", "01T21:45:00", "01T21:52:29"),
		},
	} {
		near, got := approach(at(bound), AllSeries)
		if !near.Equal(near.Truncate(24 * time.Hour)) {
			t.Errorf("the approach to %s begins at %s", bound, near)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("parts that lead to %s (-want +got):\n%s", bound, diff)
		}
	}
}

// Days are made of a few rollups each, in whatever zone, and none is read twice.
func TestDaysAreAFewRollups(t *testing.T) {
	t.Parallel()
	const days = 30
	for offset := -14 * time.Hour; offset <= 14*time.Hour; offset += 15 * time.Minute {
		zone := time.FixedZone(offset.String(), int(offset.Seconds()))
		from := time.Date(2026, 11, 1, 0, 0, 0, 0, zone)
		f := billing.Filter{From: from, To: from.AddDate(0, 0, days)}
		q, err := NewUsageQuery(f, billing.Grouping{By: []billing.Dimension{billing.ByDate}, Zone: zone}, Span{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if len(q.Rows) > 0 {
			t.Errorf("days at %s are made of rows: %v", offset, q.Rows)
		}
		read := make(map[RollupKey]bool)
		for _, p := range q.Rollups {
			s := AllSeries[slices.IndexFunc(AllSeries, func(s Series) bool { return s.Name == p.Series })]
			for start := p.From; start.Before(p.To); start = start.Add(s.Grain) {
				k := RollupKey{Series: s.Name, Start: start}
				if start != start.Truncate(s.Grain) || read[k] {
					t.Errorf("days at %s read %s of %s twice, or a part of it", offset, s.Name, start)
				}
				read[k] = true
			}
		}
		if most := 6*(days+1) + 1; len(read) > most {
			t.Errorf("%d days at %s are made of %d rollups, want at most %d", days, offset, len(read), most)
		}
	}
}

// A span is made of no rollups that are longer: a minute is not a day less the
// rest of it.
func TestSpansReadNoLongerRollups(t *testing.T) {
	t.Parallel()
	for length, want := range map[time.Duration][]string{
		time.Minute:      {""},
		20 * time.Minute: {"", "all_15m"},
		50 * time.Minute: {"", "all_15m", "all_30m"},
	} {
		q, err := NewUsageQuery(billing.Filter{From: noon.Add(time.Second), To: noon.Add(time.Second + length)}, billing.Grouping{}, Span{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range slices.Concat(q.Rows, q.Rollups) {
			got = append(got, p.Series)
		}
		slices.Sort(got)
		if diff := gocmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("series for %s (-want +got):\n%s", length, diff)
		}
	}
}

func TestSpanOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		filter billing.Filter
		want   Span
	}{
		"open":                  {billing.Filter{}, Always},
		"beyond what is stored": {billing.Filter{To: Always.To.AddDate(1, 0, 0)}, Always},
		"parts of microseconds": {
			billing.Filter{From: noon.Add(1), To: noon.Add(1001)},
			Span{From: noon.Add(time.Microsecond), To: noon.Add(2 * time.Microsecond)},
		},
	} {
		if diff := gocmp.Diff(test.want, SpanOf(test.filter)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestGrant(t *testing.T) {
	t.Parallel()
	limit := func(m billing.Money) *PeriodLimit { return &PeriodLimit{Limit: &m, Reset: billing.Daily} }
	key := billing.Allowance{OrganizationID: "org", Kind: billing.KeySpend, Subject: "key", Period: billing.Daily}
	budget := billing.BudgetOf("org", billing.Daily, noon, billing.Sunday)
	project := billing.Allowance{OrganizationID: "org", Kind: billing.ProjectBudget, Subject: "search", Period: billing.Daily}
	week := billing.BudgetOf("org", billing.Weekly, noon, billing.Monday)
	weekly := func(m billing.Money) PeriodLimit { return PeriodLimit{Limit: &m, Reset: billing.Weekly} }
	const most = math.MaxInt64
	for name, test := range map[string]struct {
		allowance billing.Allowance
		state     State
		want      billing.Money
		granted   billing.Money
	}{
		"credits":                  {billing.CreditsOf("org"), State{Credited: 10, Settled: 3, Leased: 2}, 9, 5},
		"less than is left":        {billing.CreditsOf("org"), State{Credited: 10, Settled: 3, Leased: 2}, 4, 4},
		"overspent credits":        {billing.CreditsOf("org"), State{Credited: 10, Settled: 30}, 1, 0},
		"overleased credits":       {billing.CreditsOf("org"), State{Credited: 10, Leased: 30}, 1, 0},
		"credits below zero":       {billing.CreditsOf("org"), State{Credited: math.MinInt64, Settled: most, Leased: most}, 1, 0},
		"all there is":             {billing.CreditsOf("org"), State{Credited: most}, most, most},
		"no budget":                {budget, State{Settled: 5}, most, most - 5},
		"no budget, all amounts":   {budget, State{Settled: most, Leased: most}, 1, 0},
		"budget":                   {budget, State{Settled: 1, Leased: 1, Budget: *limit(3)}, 9, 1},
		"budget of nothing":        {budget, State{Budget: *limit(0)}, 9, 0},
		"budget of another period": {billing.BudgetOf("org", billing.Weekly, noon, billing.Sunday), State{Budget: *limit(3)}, 9, 0},
		"budget beside a key":      {budget, State{Budget: *limit(3), Key: limit(1)}, 9, 3},
		"project's budget":         {project, State{Settled: 1, Project: *limit(3), Budget: *limit(1)}, 9, 2},
		"project without settings": {project, State{Budget: *limit(1)}, 9, 9},
		"own week":                 {week, State{Budget: weekly(3), WeekStart: billing.Monday}, 9, 3},
		"any week":                 {week, State{Budget: weekly(3)}, 9, 3},
		"another week":             {week, State{Budget: weekly(3), WeekStart: billing.Saturday}, 9, 0},
		"limited key":              {key, State{Settled: 1, Key: limit(3)}, 9, 2},
		"key of nothing":           {key, State{Key: limit(0)}, 9, 0},
		"key without limit":        {key, State{Key: &PeriodLimit{}}, 9, 9},
		"unknown key":              {key, State{}, 9, 0},
	} {
		got := test.state.Grant(billing.Want{Allowance: test.allowance, Need: test.want})
		if got != test.granted {
			t.Errorf("%s: granted %d, want %d", name, got, test.granted)
		}
	}
}

func TestEntryIDsSortLikeTheirNumbers(t *testing.T) {
	t.Parallel()
	var last string
	for _, seq := range []int64{1, 2, 9, 10, 99, 12345, 1e12} {
		id := EntryID(seq)
		if id <= last {
			t.Errorf("id %q of %d sorts before %q", id, seq, last)
		}
		last = id
		if got, err := EntrySeq(id); err != nil || got != seq {
			t.Errorf("EntrySeq(%q) = %d, %v; want %d", id, got, err, seq)
		}
	}
	for _, id := range []string{"", "ent_", "ent_1", "1", "ent_00000000000000x1", "req_0000000000000001"} {
		_, err := EntrySeq(id)
		if diff := gocmp.Diff(billing.ErrNotFound, err, cmpopts.EquateErrors()); diff != "" {
			t.Errorf("EntrySeq(%q) (-want +got):\n%s", id, diff)
		}
	}
}

func TestNewRowsRefusesCostsThatOverflow(t *testing.T) {
	t.Parallel()
	huge := billing.Settlement{RequestID: "a", OrganizationID: "org", At: noon, Cost: math.MaxInt64/2 + 1}
	if _, err := NewRows([]billing.Settlement{huge}); err != nil {
		t.Errorf("one: %v", err)
	}
	if _, err := NewRows([]billing.Settlement{huge, huge}); err == nil {
		t.Error("two were accepted")
	}
}
