package main

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// runExport fills a store with requests, exports all of them through a gateway,
// and compares the sum with the usage report's. It prints what the gateway's
// process needed.
func (b *bench) runExport(requests int) (err error) {
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	path := filepath.Join(b.dir, "gateway.db")
	storage, open := "sqlite "+path, func(ctx context.Context) (billing.Store, error) { return sqlite.Open(ctx, path) }
	if b.store == "postgres" {
		dsn, stop, err := pgtest.Start()
		if err != nil {
			return err
		}
		defer stop()
		storage, open = `postgres "`+dsn+`"`, func(ctx context.Context) (billing.Store, error) { return postgres.Open(ctx, dsn) }
	}
	began := time.Now()
	if err := fillMonth(open, requests); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	fmt.Printf("%d requests posted to %s in %s\n", requests, b.store, time.Since(began).Round(time.Second))
	sides, err := b.start("127.0.0.1:1", storage)
	if err != nil {
		return err
	}
	defer b.stop()
	gateway := strings.TrimSuffix(sides[0].url, "/openai/v1")
	want, err := usageCost(gateway)
	if err != nil {
		return err
	}
	for _, d := range []download{
		{format: "csv", encoding: "identity", clients: 1},
		{format: "csv", encoding: "gzip", clients: 1},
		{format: "jsonl", encoding: "identity", clients: 1},
		{format: "csv", encoding: "identity", clients: 2},
	} {
		if err := b.export(gateway, d, total{requests, want}); err != nil {
			return err
		}
	}
	return b.rest()
}

// fillMonth posts requests of the last month, in the order of their times.
func fillMonth(open func(context.Context) (billing.Store, error), requests int) (err error) {
	ctx := context.Background()
	store, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	org := billing.Organization{ID: billing.DefaultOrganization, Name: "Default", CreatedAt: time.Now()}
	if err := store.EnsureOrganization(ctx, org); err != nil {
		return err
	}
	const batch = 1000
	month := 30 * 24 * time.Hour
	start := time.Now().Add(-month)
	random := rand.New(rand.NewPCG(1, 1))
	for done := 0; done < requests; done += batch {
		settlements := make([]billing.Settlement, min(batch, requests-done))
		for i := range settlements {
			at := start.Add(time.Duration(float64(month) * float64(done+i) / float64(requests)))
			settlements[i] = settlementOf(random, at)
		}
		if _, err := store.Post(ctx, "bench", settlements); err != nil {
			return err
		}
	}
	return nil
}

func settlementOf(random *rand.Rand, at time.Time) billing.Settlement {
	cost := billing.Money(1 + random.Int64N(50_000_000))
	key := strconv.Itoa(random.IntN(50))
	return billing.Settlement{
		RequestID: billing.NewID("req", at), OrganizationID: billing.DefaultOrganization, At: at,
		KeyID: "key_" + key, KeyName: "service " + key, Project: "search",
		Provider: "openai", Model: "gpt-4o-2024-08-06", Endpoint: "chat/completions",
		Usage:       metering.Usage{Input: random.Int64N(5000), CacheRead: 1024, Output: random.Int64N(800)},
		UsageSource: metering.SourceProvider, ServiceTier: "default",
		Cost: cost, MarketCost: cost + cost/4, PriceRuleID: "openai/gpt-4o",
		PriceSheet: `{"discount":200000,"parts":[{"rule":"openai/gpt-4o","rates":[2500000000,0,0,1250000000,0,0,0,10000000000,0,0,0]}]}`,
		Latency:    time.Duration(random.Int64N(int64(5 * time.Second))), TTFB: 300 * time.Millisecond, Status: http.StatusOK,
		ClientIP: "10.1.2.3", UserAgent: "OpenAI/Python 2.8.1", Streaming: random.IntN(2) == 0, Attempts: 1,
		AttemptLog: []billing.Attempt{{Provider: "openai", Model: "gpt-4o", Credential: "default", Status: 200, Duration: time.Second}},
	}
}

func get(url, encoding string) (*http.Response, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+operatorToken)
	r.Header.Set("Accept-Encoding", encoding)
	res, err := http.DefaultClient.Do(r)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		err = errors.Join(fmt.Errorf("%s: %s: %s", url, res.Status, text), res.Body.Close())
	}
	return res, err
}

func usageCost(gateway string) (billing.Money, error) {
	res, err := get(gateway+"/v1/usage", "identity")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var answer struct {
		Totals struct {
			CostNanos billing.Money `json:"cost_nanos"`
		}
	}
	err = json.NewDecoder(res.Body).Decode(&answer)
	return answer.Totals.CostNanos, err
}

// download is one way to export all requests.
type download struct {
	format, encoding string
	clients          int // that do so at once
}

func (d download) String() string {
	clients := ""
	if d.clients > 1 {
		clients = fmt.Sprintf(", %d at once", d.clients)
	}
	return d.format + ", " + d.encoding + clients
}

// total is what a file adds up to.
type total struct {
	rows int
	cost billing.Money
}

// export lets clients read files of all requests, checks their sums, and prints
// what they took of the gateway. It fails if that is too much memory.
func (b *bench) export(gateway string, d download, want total) error {
	watch, err := watchMemory(b.gateway.Process.Pid)
	if err != nil {
		return err
	}
	cpu, err := cpuSeconds(b.gateway.Process.Pid)
	if err != nil {
		return errors.Join(err, watch.stop())
	}
	began := time.Now()
	results := make(chan error, d.clients)
	for range d.clients {
		go func() { results <- d.read(gateway, want) }()
	}
	for range d.clients {
		err = errors.Join(err, <-results)
	}
	took := time.Since(began)
	if err := errors.Join(err, watch.stop()); err != nil {
		return err
	}
	after, err := cpuSeconds(b.gateway.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("export (%s, %s): %d rows in %s, %.1f CPU s; sum %d nano-USD, as /v1/usage; %s\n",
		b.store, d, want.rows, took.Round(time.Second), after-cpu, want.cost, watch)
	if own := watch.most.own(); own > maxOwnMemory {
		return fmt.Errorf("export (%s): the gateway had %s of its own, more than %s", d, own, maxOwnMemory)
	}
	return nil
}

// read exports all requests once.
func (d download) read(gateway string, want total) error {
	res, err := get(gateway+"/v1/audit/export?order=asc&format="+d.format, d.encoding)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var file io.Reader = res.Body
	if d.encoding == "gzip" {
		if file, err = gzip.NewReader(res.Body); err != nil {
			return err
		}
	}
	sum := sumOfCSV
	if d.format == "jsonl" {
		sum = sumOfLines
	}
	got, err := sum(file)
	if err != nil {
		return err
	}
	// To its end, so that the trailer is read.
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if trailer := res.Trailer.Get("X-Export-Complete"); got != want || trailer != strconv.Itoa(want.rows) {
		return fmt.Errorf("the export (%s) has %d rows of %d nano-USD (trailer %q), the usage is %d requests of %d",
			d, got.rows, got.cost, trailer, want.rows, want.cost)
	}
	return nil
}

func sumOfCSV(file io.Reader) (sum total, err error) {
	r := csv.NewReader(file)
	r.ReuseRecord = true
	names, err := r.Read()
	if err != nil {
		return sum, err
	}
	cost := slices.Index(names, "cost_nanos")
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
		n, err := strconv.ParseInt(record[cost], 10, 64)
		if err != nil {
			return sum, err
		}
		sum = total{sum.rows + 1, sum.cost + billing.Money(n)}
	}
}

func sumOfLines(file io.Reader) (sum total, err error) {
	d := json.NewDecoder(file)
	for {
		var row struct {
			CostNanos billing.Money `json:"cost_nanos"`
		}
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return sum, nil
		} else if err != nil {
			return sum, err
		}
		sum = total{sum.rows + 1, sum.cost + row.CostNanos}
	}
}
