package books

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Series is a kind of rollups: how long each of them is, and whether there is
// one for each key.
type Series struct {
	Name  string
	Grain time.Duration
	ByKey bool
}

// KeySeries and AllSeries are the series of each key and of all keys, the
// coarsest first. Zones are off UTC by whole quarters of hours: so all dates are
// sums of quarters. What is asked of all keys does not read a rollup for each of
// them, and what is asked of a year reads its days, and at the edges of dates one
// or two rollups of each of the others.
var (
	KeySeries = []Series{
		{"key_1d", 24 * time.Hour, true},
		{"key_6h", 6 * time.Hour, true},
		{"key_3h", 3 * time.Hour, true},
		{"key_1h", time.Hour, true},
		{"key_30m", 30 * time.Minute, true},
		{"key_15m", 15 * time.Minute, true},
	}
	AllSeries = []Series{
		{"all_1d", 24 * time.Hour, false},
		{"all_6h", 6 * time.Hour, false},
		{"all_3h", 3 * time.Hour, false},
		{"all_1h", time.Hour, false},
		{"all_30m", 30 * time.Minute, false},
		{"all_15m", 15 * time.Minute, false},
	}
)

// AllQuarters has a rollup for each quarter of an hour with requests, and the
// rollups of all other series are sums of KeyQuarters.
var (
	AllQuarters   = AllSeries[len(AllSeries)-1]
	KeyQuarters   = KeySeries[len(KeySeries)-1]
	DerivedSeries = slices.Concat(KeySeries[:len(KeySeries)-1], AllSeries)
)

// SeriesNames returns the names of all series.
func SeriesNames() []string {
	names := make([]string, 0, len(KeySeries)+len(AllSeries))
	for _, s := range slices.Concat(KeySeries, AllSeries) {
		names = append(names, s.Name)
	}
	return names
}

// seriesUpTo returns the series of some keys, or of all, whose rollups are no
// longer than that.
func seriesUpTo(longest time.Duration, byKey bool) []Series {
	series := AllSeries
	if byKey {
		series = KeySeries
	}
	return slices.DeleteFunc(slices.Clone(series), func(s Series) bool { return s.Grain > longest })
}

// Rollup is the sum of the requests of one organization, key, project, provider
// and model that arrived in a span of time.
type Rollup struct {
	RollupKey
	billing.Totals
}

// RollupKey names a rollup.
type RollupKey struct {
	OrganizationID string
	// Series is the name of the series.
	Series string
	Start  time.Time
	// KeyID is "" in the series of all keys.
	KeyID    string
	Project  string
	Provider string
	Model    string
}

// Compare orders the names of rollups.
func (k RollupKey) Compare(other RollupKey) int {
	return cmp.Or(
		cmp.Compare(k.Series, other.Series),
		cmp.Compare(k.OrganizationID, other.OrganizationID),
		k.Start.Compare(other.Start),
		cmp.Compare(k.KeyID, other.KeyID),
		cmp.Compare(k.Project, other.Project),
		cmp.Compare(k.Provider, other.Provider),
		cmp.Compare(k.Model, other.Model),
	)
}

// In returns the name of the rollup of a series that this one is a part of.
func (k RollupKey) In(s Series) RollupKey {
	k.Series, k.Start = s.Name, k.Start.Truncate(s.Grain)
	if !s.ByKey {
		k.KeyID = ""
	}
	return k
}

// Rollups returns the rollups of all series that rows are added to, in the
// order of their names.
func Rollups(rows []Row) []Rollup {
	sums := make(map[RollupKey]billing.Totals, 8)
	for i := range rows {
		r := &rows[i]
		k := RollupKey{
			OrganizationID: r.OrganizationID,
			Start:          r.At,
			KeyID:          r.KeyID,
			Project:        r.Project,
			Provider:       r.Provider,
			Model:          r.Model,
		}.In(KeyQuarters)
		sums[k] = sums[k].Plus(billing.TotalsOf(*r.Settlement))
	}
	list := make([]Rollup, 0, len(sums)*(1+len(DerivedSeries)))
	list = appendRollups(list, sums)
	for _, s := range DerivedSeries {
		coarse := make(map[RollupKey]billing.Totals, len(sums))
		for k, t := range sums {
			in := k.In(s)
			coarse[in] = coarse[in].Plus(t)
		}
		list = appendRollups(list, coarse)
	}
	slices.SortFunc(list, func(a, b Rollup) int { return a.Compare(b.RollupKey) })
	return list
}

func appendRollups(list []Rollup, sums map[RollupKey]billing.Totals) []Rollup {
	for k, t := range sums {
		list = append(list, Rollup{RollupKey: k, Totals: t})
	}
	return list
}
