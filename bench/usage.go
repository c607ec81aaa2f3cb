package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// usageBench measures the same questions about usage on books of a year with
// few requests and with many.
type usageBench struct {
	store     string
	few, many int
	rounds    int
}

const (
	benchOrganization = billing.DefaultOrganization
	// postedAtOnce is large: it is the books that are measured.
	postedAtOnce = 5000
)

// yearEnd is in the middle of everything.
var yearEnd = time.Date(2026, 11, 18, 12, 34, 56, 0, time.UTC)

// question is a query of usage.
type question struct {
	name     string
	filter   billing.Filter
	grouping billing.Grouping
}

func questions() []question {
	year := billing.Filter{From: yearEnd.AddDate(-1, 0, 0), To: yearEnd}
	week := billing.Filter{From: yearEnd.AddDate(0, 0, -7), To: yearEnd}
	days := billing.Filter{From: time.Date(2026, 11, 11, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 18, 0, 0, 0, 0, time.UTC)}
	month := billing.Filter{From: yearEnd.AddDate(0, 0, -30), To: yearEnd}
	ofKey := year
	ofKey.KeyIDs = []string{"key_1"}
	zone := func(offset time.Duration) *time.Location {
		return time.FixedZone(offset.String(), int(offset.Seconds()))
	}
	germany, india, japan, chatham := zone(time.Hour), zone(5*time.Hour+30*time.Minute), zone(9*time.Hour), zone(12*time.Hour+45*time.Minute)
	by := func(zone *time.Location, dimensions ...billing.Dimension) billing.Grouping {
		return billing.Grouping{By: dimensions, Zone: zone}
	}
	return []question{
		{"a year, in one sum", year, billing.Grouping{}},
		{"a year by day", year, by(nil, billing.ByDate)},
		{"a year by day and model", year, by(nil, billing.ByDate, billing.ByModel)},
		{"a year by key", year, by(nil, billing.ByKey)},
		{"a year by key and model", year, by(nil, billing.ByKey, billing.ByModel)},
		{"a year by day at +01:00", year, by(germany, billing.ByDate)},
		{"a year by day at +05:30", year, by(india, billing.ByDate)},
		{"a year by day and model at +05:30", year, by(india, billing.ByDate, billing.ByModel)},
		{"a year by month at +05:30", year, billing.Grouping{By: []billing.Dimension{billing.ByDate}, Interval: billing.Month, Zone: india}},
		{"30 days by hour", month, billing.Grouping{By: []billing.Dimension{billing.ByDate}, Interval: billing.Hour}},
		{"30 days by hour at +05:30", month, billing.Grouping{By: []billing.Dimension{billing.ByDate}, Interval: billing.Hour, Zone: india}},
		{"a week, in one sum", week, billing.Grouping{}},
		{"seven days by day and key", days, by(nil, billing.ByDate, billing.ByKey)},
		{"a year of a key by day", ofKey, by(nil, billing.ByDate)},
		{"a year of a key by day at +05:30", ofKey, by(india, billing.ByDate)},
		{"a year of a key by day and model at +05:30", ofKey, by(india, billing.ByDate, billing.ByModel)},
		{"a year of a key by day at +09:00", ofKey, by(japan, billing.ByDate)},
		{"a year of a key by day at +12:45", ofKey, by(chatham, billing.ByDate)},
	}
}

func (b *usageBench) run(ctx context.Context) error {
	few, done, err := b.books(ctx, b.few)
	if err != nil {
		return err
	}
	defer done()
	many, done, err := b.books(ctx, b.many)
	if err != nil {
		return err
	}
	defer done()
	asked := questions()
	took, err := b.ask(ctx, asked, few, many)
	if err != nil {
		return err
	}
	fmt.Printf("%-42s %12d %12d  ratio (%s)\n", "requests", b.few, b.many, b.store)
	for i, q := range asked {
		fmt.Printf("%-42s %12s %12s  %.2f\n", q.name, took[i][0].Round(10*time.Microsecond), took[i][1].Round(10*time.Microsecond),
			float64(took[i][1])/float64(took[i][0]))
	}
	return nil
}

// ask asks the stores in turns, each question in each round, and returns how long
// the fastest answer of each took: whatever else the machine does only adds to
// that, and is seldom there in all rounds. Each question is asked once more just
// before, so that what it reads is in memory.
func (b *usageBench) ask(ctx context.Context, questions []question, few, many billing.Store) ([][2]time.Duration, error) {
	fastest := make([][2]time.Duration, len(questions))
	for round := range b.rounds {
		for i, q := range questions {
			for n, s := range []billing.Store{few, many} {
				var begun time.Time
				for range 2 {
					begun = time.Now()
					if _, err := s.Usage(ctx, benchOrganization, q.filter, q.grouping); err != nil {
						return nil, fmt.Errorf("%s: %w", q.name, err)
					}
				}
				if took := time.Since(begun); round == 0 || took < fastest[i][n] {
					fastest[i][n] = took
				}
			}
		}
	}
	return fastest, nil
}

// books returns a store with so many requests. Done removes it.
func (b *usageBench) books(ctx context.Context, requests int) (s billing.Store, done func(), err error) {
	s, tidy, remove, err := b.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		_ = s.Close() // it is removed
		remove()
	}
	begun := time.Now()
	sum, err := fillYear(ctx, s, requests)
	if err == nil {
		fmt.Fprintf(os.Stderr, "bench: posted %d requests to %s in %s\n", requests, b.store, time.Since(begun).Round(time.Second))
		err = tidy()
	}
	var all billing.Usage
	if err == nil {
		all, err = s.Usage(ctx, benchOrganization, billing.Filter{}, billing.Grouping{})
	}
	if err == nil && all.Totals != sum {
		err = fmt.Errorf("usage is %+v, posted were %+v", all.Totals, sum)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("fill the store: %w", err)
	}
	return s, done, nil
}

// open opens an empty store. Tidy does what a database does by itself sooner or
// later, and done removes it.
func (b *usageBench) open(ctx context.Context) (s billing.Store, tidy func() error, done func(), err error) {
	if b.store == "postgres" {
		dsn, stop, err := pgtest.Start()
		if err != nil {
			return nil, nil, nil, err
		}
		if s, err = postgres.Open(ctx, dsn); err != nil {
			stop()
			return nil, nil, nil, err
		}
		return s, func() error { return vacuum(ctx, dsn) }, stop, nil
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	if s, err = sqlite.Open(ctx, filepath.Join(dir, "gateway.db")); err != nil {
		done()
		return nil, nil, nil, err
	}
	return s, func() error { return nil }, done, nil
}

func vacuum(ctx context.Context, dsn string) (err error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM ANALYZE")
	return err
}

// fillYear posts requests that are spread evenly over a year: of ten keys in two
// projects, each with four models. One in four costs something.
func fillYear(ctx context.Context, s billing.Store, requests int) (sum billing.Totals, err error) {
	random := rand.New(rand.NewPCG(1, 1))
	from := yearEnd.AddDate(-1, 0, 0)
	step := yearEnd.Sub(from) / time.Duration(requests)
	batch := make([]billing.Settlement, 0, postedAtOnce)
	for n := range requests {
		at := from.Add(time.Duration(n) * step)
		key := random.IntN(10)
		r := billing.Settlement{
			RequestID:      billing.NewID(billing.RequestIDPrefix, at),
			OrganizationID: benchOrganization,
			KeyID:          fmt.Sprintf("key_%d", key),
			Project:        []string{"search", "support"}[key%2],
			Provider:       "openai",
			Model:          []string{"large", "medium", "small", "tiny"}[random.IntN(4)],
			At:             at.Truncate(time.Microsecond),
			Usage:          metering.Usage{Input: random.Int64N(2000), CacheRead: random.Int64N(1000), Output: random.Int64N(500)},
			UsageSource:    metering.SourceProvider,
			MarketCost:     billing.Money(random.Int64N(int64(metering.USD / 100))),
			Status:         200,
			Attempts:       1,
		}
		if n%4 == 0 {
			r.Cost = r.MarketCost
		}
		batch = append(batch, r)
		sum = sum.Plus(billing.TotalsOf(r))
		if len(batch) == cap(batch) || n == requests-1 {
			if _, err := s.Post(ctx, "bench", batch); err != nil {
				return sum, err
			}
			batch = batch[:0]
		}
	}
	return sum, nil
}
