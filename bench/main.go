// Command bench measures what the gateway costs next to a plain reverse_proxy
// of the same binary: CPU seconds of the gateway's process per 1,000
// requests, for chat requests over keep-alive connections and for streams.
// Both are measured in turns in one process and against one upstream, and
// the result is their ratio: absolute figures depend on the machine.
//
//	go run ./bench -bin bin/caddy -store sqlite
//
// With -usage it measures how long questions about a year's usage take, with few
// requests and with many.
//
//	go run ./bench -usage -store sqlite
//
// With -export it measures the memory of a gateway that exports the audit.
//
//	go run ./bench -export -store sqlite
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

func main() {
	var (
		b     bench
		u     usageBench
		usage bool
	)
	flag.StringVar(&b.bin, "bin", "bin/caddy", "the gateway's binary")
	flag.StringVar(&b.store, "store", "sqlite", "sqlite or postgres")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each side is measured")
	flag.IntVar(&b.connections, "connections", 16, "concurrent requests")
	flag.IntVar(&b.chats, "chats", 10_000, "chat requests in each round")
	flag.IntVar(&b.streams, "streams", 2_000, "streams in each round")
	flag.BoolVar(&usage, "usage", false, "measure questions about usage instead")
	flag.IntVar(&u.few, "few", 100_000, "requests of a year, few of them")
	flag.IntVar(&u.many, "many", 10_000_000, "requests of a year, many of them")
	exported := flag.Bool("export", false, "measure an export of the audit instead")
	requests := flag.Int("requests", 5_000_000, "requests to export")
	flag.Parse()
	if b.store != "sqlite" && b.store != "postgres" {
		fmt.Fprintf(os.Stderr, "bench: unknown store %q: use sqlite or postgres\n", b.store)
		os.Exit(2)
	}
	run := b.run
	if usage {
		u.store, u.rounds = b.store, 4*b.rounds // an answer is quick
		run = func() error {
			// Interrupted, it still removes what it has filled.
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return u.run(ctx)
		}
	}
	if *exported {
		run = func() error { return b.runExport(*requests) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, store          string
	rounds, connections int
	chats, streams      int

	gateway *exec.Cmd
	dir     string // for the books and the journal
	admin   string // Caddy's admin endpoint
	key     string
}

// side is one way to the same upstream.
type side struct {
	name, url, credential string
}

// load is one kind of request.
type load struct {
	name     string
	requests int
	body     string
	script   [2]string // a header for the sandbox
}

const operatorToken = "bench-operator-token"

func (b *bench) run() error {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: sandbox.New()}
	defer func() { _ = server.Close() }()
	go func() { _ = server.Serve(upstream) }() // until Close
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	storage := "sqlite " + filepath.Join(b.dir, "gateway.db")
	if b.store == "postgres" {
		dsn, stop, err := pgtest.Start()
		if err != nil {
			return err
		}
		defer stop()
		storage = `postgres "` + dsn + `"`
	}
	sides, err := b.start(upstream.Addr().String(), storage)
	if err != nil {
		return err
	}
	defer b.stop()

	filler := strings.Repeat("lorem ipsum dolor sit amet ", 34) // a request of about 1 KB
	message := `"messages":[{"role":"system","content":"` + filler + `"},{"role":"user","content":"Hello"}]`
	for _, l := range []load{
		{"chat", b.chats, `{"model":"gpt-4o",` + message + `}`, [2]string{"X-Sandbox-Text-Bytes", "500"}},
		{"stream of 50 events", b.streams, `{"model":"gpt-4o","stream":true,` + message + `}`, [2]string{"X-Sandbox-Chunks", "50"}},
	} {
		if err := b.compare(l, sides); err != nil {
			return err
		}
	}
	return nil
}

// compare measures a load on both sides in turns and prints medians.
func (b *bench) compare(l load, sides [2]side) error {
	var cpu [2][]float64
	for round := range b.rounds + 1 {
		for i, s := range sides {
			spent, err := b.measure(l, s)
			if err != nil {
				return fmt.Errorf("%s through %s: %w", l.name, s.name, err)
			}
			if round > 0 { // the first one warms up
				cpu[i] = append(cpu[i], spent/float64(l.requests)*1000)
			}
		}
	}
	ratios := make([]float64, b.rounds)
	for i := range ratios {
		ratios[i] = cpu[0][i] / cpu[1][i]
	}
	fmt.Printf("%-20s %s: %.3f, reverse_proxy: %.3f CPU s per 1,000 requests (%s); ratio %.2f (rounds %.2f)\n",
		l.name, sides[0].name, median(cpu[0]), median(cpu[1]), b.store, median(ratios), ratios)
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// measure returns the CPU seconds that the gateway's process spends on a
// load, posting to the store included.
func (b *bench) measure(l load, s side) (float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: b.connections}}
	defer client.CloseIdleConnections()
	before, err := cpuSeconds(b.gateway.Process.Pid)
	if err != nil {
		return 0, err
	}
	var left atomic.Int64
	left.Store(int64(l.requests))
	var failed atomic.Pointer[error]
	var group sync.WaitGroup
	for range b.connections {
		group.Go(func() {
			for left.Add(-1) >= 0 && failed.Load() == nil {
				if err := request(client, l, s); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	if err := b.flush(); err != nil {
		return 0, err
	}
	after, err := cpuSeconds(b.gateway.Process.Pid)
	return after - before, err
}

func request(client *http.Client, l load, s side) error {
	req, err := http.NewRequest(http.MethodPost, s.url+"/chat/completions", strings.NewReader(l.body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.credential)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(l.script[0], l.script[1])
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s: %s", res.Status, b)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// cpuSeconds is the user and system time of a process so far.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("cannot read the process's CPU time")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const ticksPerSecond = 100
	return float64(user+system) / ticksPerSecond, err
}

// start runs the gateway with both sides configured.
func (b *bench) start(upstream, storage string) (sides [2]side, err error) {
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return sides, err
		}
	}
	b.admin = "127.0.0.1:" + ports[2]
	config := filepath.Join(b.dir, "Caddyfile")
	err = os.WriteFile(config, fmt.Appendf(nil, `{
	admin %s
	persist_config off
	log {
		level ERROR
	}
	llm_gateway {
		storage %s
		journal %s
		admin_token %s
		discount 20%%
		billing development {
			package all 1.00 1000000.00
		}
		provider openai {
			api_key sandbox
			base_url http://%s/v1
		}
	}
}
http://127.0.0.1:%s {
	llm_gateway
	llm_gateway_admin
}
http://127.0.0.1:%s {
	reverse_proxy %s
}
`, b.admin, storage, filepath.Join(b.dir, "journal"), operatorToken, upstream, ports[0], ports[1], upstream), 0o600)
	if err != nil {
		return sides, err
	}
	b.gateway = exec.Command(b.bin, "run", "--config", config)
	b.gateway.Stderr = os.Stderr
	if err := b.gateway.Start(); err != nil {
		return sides, err
	}
	gateway := "http://127.0.0.1:" + ports[0]
	if err := b.setUp(gateway); err != nil {
		b.stop()
		return sides, err
	}
	return [2]side{
		{"llm_gateway", gateway + "/openai/v1", b.key},
		{"reverse_proxy", "http://127.0.0.1:" + ports[1] + "/v1", "sandbox"},
	}, nil
}

func (b *bench) stop() {
	// It may have ended by itself; then there is nothing to stop.
	_ = b.gateway.Process.Signal(os.Interrupt)
	_ = b.gateway.Wait()
}

// setUp waits for the gateway, buys credits and makes a key.
func (b *bench) setUp(gateway string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for !serves(gateway) {
		select {
		case <-ctx.Done():
			return errors.New("the gateway did not start")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if _, err := manage(gateway+"/v1/billing/purchase", `{"package_id":"all"}`); err != nil {
		return err
	}
	created, err := manage(gateway+"/v1/keys", `{"name":"bench"}`)
	if err != nil {
		return err
	}
	var answer struct {
		Key string `json:"key"`
	}
	err = json.Unmarshal(created, &answer)
	b.key = answer.Key
	return err
}

func serves(gateway string) bool {
	res, err := http.Get(gateway + "/v1/openapi.json")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func manage(url, body string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+operatorToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, answer)
	}
	return answer, err
}

// flush waits until all settlements are in the store.
func (b *bench) flush() error {
	client := http.Client{Timeout: time.Minute}
	res, err := client.Post("http://"+b.admin+"/llm_gateway/flush", "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("flush: %s", res.Status)
	}
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
