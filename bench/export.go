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
	for _, compressed := range []bool{false, true} {
		if err := b.export(gateway, compressed, requests, want); err != nil {
			return err
		}
	}
	return nil
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

// export reads a CSV file of all requests and checks its sum.
func (b *bench) export(gateway string, compressed bool, requests int, want billing.Money) error {
	encoding := "identity"
	if compressed {
		encoding = "gzip"
	}
	before, err := b.memory("VmRSS")
	if err != nil {
		return err
	}
	cpu, err := cpuSeconds(b.gateway.Process.Pid)
	if err != nil {
		return err
	}
	began := time.Now()
	res, err := get(gateway+"/v1/audit/export?format=csv&order=asc", encoding)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	rows, sum, err := sumOf(res.Body, compressed)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := cpuSeconds(b.gateway.Process.Pid)
	if err != nil {
		return err
	}
	peak, err := b.memory("VmHWM")
	if err != nil {
		return err
	}
	if rows != requests || sum != want || res.Trailer.Get("X-Export-Complete") != strconv.Itoa(requests) {
		return fmt.Errorf("the export has %d rows of %d nano-USD (trailer %q), the usage is %d requests of %d",
			rows, sum, res.Trailer.Get("X-Export-Complete"), requests, want)
	}
	fmt.Printf("export (%s, %s): %d rows in %s, %.1f CPU s; sum %d nano-USD, as /v1/usage; memory %.1f MiB before, at most %.1f MiB\n",
		b.store, encoding, rows, took.Round(time.Second), after-cpu, sum, float64(before)/1024, float64(peak)/1024)
	return nil
}

func sumOf(body io.Reader, compressed bool) (rows int, sum billing.Money, err error) {
	if compressed {
		z, err := gzip.NewReader(body)
		if err != nil {
			return 0, 0, err
		}
		// To its end, so that the trailer is read.
		defer func() { _, _ = io.Copy(io.Discard, body) }()
		body = z
	}
	r := csv.NewReader(body)
	r.ReuseRecord = true
	names, err := r.Read()
	if err != nil {
		return 0, 0, err
	}
	cost := slices.Index(names, "cost_nanos")
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, sum, nil
		}
		if err != nil {
			return rows, sum, err
		}
		n, err := strconv.ParseInt(record[cost], 10, 64)
		if err != nil {
			return rows, sum, err
		}
		rows, sum = rows+1, sum+billing.Money(n)
	}
}

// memory is a figure of the gateway's process, in KiB.
func (b *bench) memory(figure string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.gateway.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s", figure)
}
