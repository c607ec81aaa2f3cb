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

// The series. Zones are off UTC by whole quarters of hours: so all dates are
// sums of quarters. What is asked of all keys does not read a rollup for each
// of them, and what is asked of a year does not read its quarters.
var (
	KeyQuarters = Series{"key_15m", 15 * time.Minute, true}
	KeyHours    = Series{"key_1h", time.Hour, true}
	KeyDays     = Series{"key_1d", 24 * time.Hour, true}
	AllQuarters = Series{"all_15m", 15 * time.Minute, false}
	AllHours    = Series{"all_1h", time.Hour, false}
	AllDays     = Series{"all_1d", 24 * time.Hour, false}
)

// DerivedSeries are sums of KeyQuarters.
var DerivedSeries = []Series{KeyHours, KeyDays, AllQuarters, AllHours, AllDays}

// coarsestFirst are the series that sums of some keys, or of all, are made of.
func coarsestFirst(byKey bool) []Series {
	if byKey {
		return []Series{KeyDays, KeyHours, KeyQuarters}
	}
	return []Series{AllDays, AllHours, AllQuarters}
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
