package caddymodule

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
)

// openBooks makes books in which an organization has bought something.
func openBooks(t *testing.T) (store *sqlite.Store, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gateway.db")
	store, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	err = store.EnsureOrganization(t.Context(), billing.Organization{ID: "acme", CreatedAt: time.Now()})
	if err == nil {
		_, err = store.Append(t.Context(), billing.Entry{
			OrganizationID: "acme", Type: billing.Purchase, Amount: 5, IdempotencyKey: "1",
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return store, path
}

func tamper(t *testing.T, path, change string) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

func valueOf(t *testing.T, gauge prometheus.Gauge) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(gauge)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

// It is not parallel: the gauges are the process's.
func TestImbalanceIsShownAndLoggedOnce(t *testing.T) {
	store, path := openBooks(t)
	logged, logs := observer.New(zap.DebugLevel)
	e := &engine{store: store, verifier: newVerifier(), log: zap.New(logged)}
	verify := func(mode billing.VerifyMode, imbalance float64, messages ...string) {
		t.Helper()
		begun := time.Now().Truncate(time.Millisecond)
		if _, err := e.verify(t.Context(), billing.VerifyOptions{Mode: mode}); err != nil {
			t.Fatal(err)
		}
		if got := valueOf(t, imbalanceNanos); got != imbalance {
			t.Errorf("the gauge shows %v, want %v", got, imbalance)
		}
		at := time.UnixMilli(int64(valueOf(t, verifiedTimestamp) * 1000))
		if at.Before(begun.Add(-time.Millisecond)) || at.After(time.Now().Add(time.Millisecond)) {
			t.Errorf("verified at %s, want now", at)
		}
		var got []string
		for _, entry := range logs.TakeAll() {
			if entry.Level > zap.DebugLevel {
				got = append(got, entry.Message)
			}
		}
		if strings.Join(got, "; ") != strings.Join(messages, "; ") {
			t.Errorf("logged %q, want %q", got, messages)
		}
	}
	const wrong, again = "the books do not balance", "the books balance again"
	verify(billing.Incremental, 0)
	tamper(t, path, "UPDATE accounts SET balance = balance + 7")
	verify(billing.Incremental, 7, wrong)
	verify(billing.Incremental, 7)
	tamper(t, path, "UPDATE accounts SET balance = balance + 1")
	verify(billing.Incremental, 8, wrong)
	verify(billing.Full, 8, wrong)
	tamper(t, path, "UPDATE accounts SET balance = balance - 8")
	verify(billing.Incremental, 8, again) // until a full one has looked
	verify(billing.Full, 0, again)
	verify(billing.Full, 0)

	e.verifier.nodeLeases = func(context.Context) (billing.Money, error) { return 3, nil }
	verify(billing.Incremental, 3, wrong)
	failure := errors.New("node is confused")
	e.verifier.nodeLeases = func(context.Context) (billing.Money, error) { return 0, failure }
	if _, err := e.verify(t.Context(), billing.VerifyOptions{}); !errors.Is(err, failure) {
		t.Errorf("error is %v, want %v", err, failure)
	}
	imbalanceNanos.Set(0)
}

// verifiedStore counts verifications, the first of which fails.
type verifiedStore struct {
	billing.Store
	incremental atomic.Int32
}

func (s *verifiedStore) Verify(_ context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	if o.Mode != billing.Incremental {
		return billing.Verification{}, errors.New("everything is read")
	}
	if s.incremental.Add(1) == 1 {
		return billing.Verification{}, errors.New("store is away")
	}
	return billing.Verification{Mode: o.Mode, At: time.Now()}, nil
}

func TestBooksAreVerifiedEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(verifiedStore)
		logged, logs := observer.New(zap.WarnLevel)
		e := &engine{store: store, verifier: newVerifier(), log: zap.New(logged)}
		ctx, stop := context.WithCancel(t.Context())
		e.tasks.Go(func() { e.watchBooks(ctx) })
		for _, step := range []struct {
			wait time.Duration
			want int32
		}{{4 * time.Second, 0}, {2 * time.Second, 1}, {time.Minute, 2}, {time.Minute, 3}} {
			time.Sleep(step.wait)
			synctest.Wait()
			if n := store.incremental.Load(); n != step.want {
				t.Errorf("%d verifications after another %s, want %d", n, step.wait, step.want)
			}
		}
		if logs.FilterMessage("cannot verify the books").Len() != 1 || logs.Len() != 1 {
			t.Errorf("logged %+v", logs.All())
		}
		stop()
		e.tasks.Wait()
		if store.incremental.Load() != 3 {
			t.Error("the books are verified while the gateway stops")
		}
	})
}

func TestVerificationsWaitForEachOther(t *testing.T) {
	t.Parallel()
	e := &engine{verifier: newVerifier()}
	e.verifier.turn <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := e.verify(ctx, billing.VerifyOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want that the time is over", err)
	}
}

func TestLedgerVerifyCommand(t *testing.T) {
	store, path := openBooks(t)
	t.Setenv("BOOKS", path)
	config := writeFile(t, "{\n\tllm_gateway {\n\t\tstorage sqlite {env.BOOKS}\n\t}\n}\n")
	other := writeFile(t, ":8080 {\n\trespond hello\n}\n")
	run := func(code int, want string, flags ...string) {
		t.Helper()
		out, got, err := runVerify(t, flags...)
		text := out
		if err != nil {
			text += err.Error()
		}
		if got != code || !strings.Contains(text, want) {
			t.Errorf("%q: code %d and %q, want %d and %q", flags, got, text, code, want)
		}
	}
	run(0, "imbalance 0, 1 entries and 0 requests read", "--sqlite", path)
	run(0, "balances    0\n", "--config", config, "--adapter", "caddyfile")
	run(0, `"imbalance_nanos":0,"checks":[{"name":"balances"`, "--sqlite", path, "--json")
	run(0, "incremental verification", "--sqlite", path, "--mode", "incremental")

	tamper(t, path, "UPDATE accounts SET balance = balance + 7")
	run(1, "  acme: account: balance is 12, expected 5\n", "--sqlite", path)
	run(1, errImbalance.Error(), "--config", config, "--adapter", "caddyfile")

	run(2, "no such file", "--sqlite", path+".missing")
	run(2, "cannot parse", "--postgres", "postgres://a:b@c:d")
	run(2, "has no llm_gateway", "--config", other, "--adapter", "caddyfile")
	run(2, "name one of", "--sqlite", path, "--url", "127.0.0.1:1")
	run(2, "unknown --mode", "--sqlite", path, "--mode", "half")
	run(2, "at least 1", "--sqlite", path, "--examples", "0")
	run(2, "GATEWAY_ADMIN_TOKEN", "--url", "127.0.0.1:1")
	t.Setenv("GATEWAY_ADMIN_TOKEN", "token")
	run(2, "connection refused", "--url", "127.0.0.1:1")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	run(1, "balance is 12", "--sqlite", path)
	tamper(t, path, "DELETE FROM goose_db_version WHERE version_id > 2")
	run(2, "database schema is version 2", "--sqlite", path)
}

// Caddy ends with an exitError's code, and otherwise with 1.
func TestWrongFlagsAreNoImbalance(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"stray"}, {"--mode", "half"}} {
		cmd := new(ledgerVerify).command()
		cmd.SetArgs(args)
		cmd.SilenceUsage = true
		err := cmd.ExecuteContext(t.Context())
		if err == nil || fmt.Sprintf("%T", err) != "*caddycmd.exitError" {
			t.Errorf("%q: error is %T %[2]v", args, err)
		}
	}
}

func TestLedgerVerifyCommandAsksAGateway(t *testing.T) {
	t.Setenv("GATEWAY_ADMIN_TOKEN", "operator-token")
	answer, status := `{"error":"no such route"}`, http.StatusNotFound
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer operator-token" || r.URL.String() != "/v1/ledger/verify?examples=5&mode=full" {
			t.Errorf("asked %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer gateway.Close()
	if _, code, err := runVerify(t, "--url", gateway.URL); code != 2 || !strings.Contains(err.Error(), "no such route") {
		t.Errorf("code %d, %v", code, err)
	}
	status, answer = http.StatusOK, `{}`
	if _, code, err := runVerify(t, "--url", gateway.URL); code != 2 || !strings.Contains(err.Error(), "no checks") {
		t.Errorf("code %d, %v", code, err)
	}
	answer = `{"imbalance_nanos":7,"mode":"full","checks":[{"name":"balances","imbalance_nanos":7,"examples":[` +
		`{"organization_id":"acme","subject":"account","field":"balance","expected":"5","found":"12"}]}]}`
	t.Chdir(t.TempDir())
	if _, code, err := runVerify(t); code != 2 || !strings.Contains(err.Error(), "--url or $GATEWAY_URL") {
		t.Errorf("code %d, %v", code, err)
	}
	t.Setenv("GATEWAY_URL", gateway.URL)
	out, code, err := runVerify(t)
	if code != 1 || !errors.Is(err, errImbalance) || !strings.Contains(out, "acme: account: balance is 12, expected 5") {
		t.Errorf("code %d, %v: %s", code, err, out)
	}
}

// runVerify runs the command as Caddy does, up to the exit code.
func runVerify(t *testing.T, flags ...string) (out string, code int, err error) {
	t.Helper()
	var v ledgerVerify
	cmd := v.command()
	if err := cmd.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	code, err = v.run(t.Context(), &text)
	return text.String(), code, err
}

func writeFile(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
