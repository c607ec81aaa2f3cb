package admin

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// failingStore fails after some pages.
type failingStore struct {
	billing.Store
	mu   sync.Mutex
	left int
}

func (s *failingStore) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	s.mu.Lock()
	s.left--
	failed := s.left < 0
	s.mu.Unlock()
	if failed {
		return nil, errors.New("the disk is on fire")
	}
	return s.Store.Requests(ctx, org, f, page)
}

func TestExportThatFailsIsNoWholeFile(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	manyRequests(t, g)
	for _, format := range []string{"csv", "json", "jsonl"} {
		for _, encoding := range []string{"", "gzip"} {
			broken := testGateway{store: &failingStore{Store: g.store, left: 2}, token: testToken}
			f := download(t, serve(t, &broken)+"/v1/audit/export?format="+format, encoding)
			if f.err == nil || f.rows != "" {
				t.Errorf("%s %s: error %v, trailer %q, want a broken connection", format, encoding, f.err, f.rows)
			}
			if format == "json" && json.Valid(f.body) {
				t.Error("a part is valid JSON")
			}
		}
	}
	away := testGateway{store: &failingStore{Store: g.store}, token: testToken}
	if f := download(t, serve(t, &away)+"/v1/audit/export", ""); f.status != http.StatusInternalServerError {
		t.Errorf("status %d before the first row, want 500", f.status)
	}
}

// heldStore waits in the second page of an export.
type heldStore struct {
	billing.Store
	reached, ended chan struct{}
}

func (s *heldStore) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	if page.After == "" {
		return s.Store.Requests(ctx, org, f, page)
	}
	s.reached <- struct{}{}
	<-ctx.Done()
	s.ended <- struct{}{}
	return nil, ctx.Err()
}

func TestExportsAreBoundedAndEndWithTheirClients(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	manyRequests(t, g)
	held := &heldStore{Store: g.store, reached: make(chan struct{}), ended: make(chan struct{})}
	gateway := serve(t, &testGateway{store: held, token: testToken})
	address, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	var clients []net.Conn
	for range maxExports {
		conn, err := net.Dial("tcp", address.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/audit/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testToken)
		clients = append(clients, conn)
		<-held.reached
	}
	f := download(t, gateway+"/v1/audit/export", "")
	if f.status != http.StatusTooManyRequests || !strings.Contains(string(f.body), "exports of the organization are running") {
		t.Errorf("status %d: %s, want 429", f.status, f.body)
	}
	checkpoint(t, g.path)
	for _, conn := range clients {
		conn.Close()
		<-held.ended
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		f := download(t, gateway+"/v1/audit/export?request_id=r00001", "")
		if f.status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("status %d after all clients have left", f.status)
		}
	}
}

// checkpoint copies all of the write-ahead log into the file, which nobody who
// reads an older state may hinder.
func checkpoint(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var busy, log, done int
	if err := db.QueryRowContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &done); err != nil {
		t.Fatal(err)
	}
	if busy != 0 {
		t.Error("open exports keep the log from being truncated")
	}
}

// endlessStore has as many requests as are asked for, and keeps none.
type endlessStore struct {
	billing.Store
	total, given int
	peak         uint64
}

func (s *endlessStore) Requests(_ context.Context, _ string, _ billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	if s.given%(100*exportPage) == 0 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s.peak = max(s.peak, m.HeapObjects)
	}
	n := min(page.Limit, s.total-s.given)
	part := make([]billing.Settlement, n)
	for i := range part {
		part[i] = request(fmt.Sprintf("r%09d", s.given+i), "key_a", day(1, 12), billing.Money(s.given+i))
	}
	s.given += n
	return part, nil
}

// Not parallel: the heap is the whole process's.
func TestExportOfManyRowsKeepsFew(t *testing.T) {
	g := newGateway(t)
	const total = 200_000
	s := &endlessStore{Store: g.store, total: total}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/audit/export?format=csv", nil)
	r.Header.Set("Authorization", "Bearer "+testToken)
	sum := &sumWriter{header: http.Header{}}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	New(&testGateway{store: s, token: testToken}).ServeHTTP(sum, r)
	if want := int64(total) * (total - 1) / 2; sum.total != want || sum.rows != total {
		t.Errorf("%d rows with the sum %d, want %d with %d", sum.rows, sum.total, total, want)
	}
	// The API itself has some 50,000 objects; the rows would have millions.
	if s.peak > before.HeapObjects+total {
		t.Errorf("%d objects on the heap in the export, %d before it", s.peak, before.HeapObjects)
	}
}

func TestHeadersOfAnExportNeedNoRows(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := &endlessStore{Store: g.store, total: 10 * exportPage}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/v1/audit/export", nil)
	r.Header.Set("Authorization", "Bearer "+testToken)
	w := httptest.NewRecorder()
	New(&testGateway{store: s, token: testToken}).ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != exportTypes["csv"] || s.given > exportPage {
		t.Errorf("status %d, type %q, %d rows were read", w.Code, w.Header().Get("Content-Type"), s.given)
	}
}

// boundsStore keeps until when rows were asked for.
type boundsStore struct {
	billing.Store
	until []time.Time
}

func (s *boundsStore) Requests(_ context.Context, _ string, f billing.Filter, _ billing.Page) ([]billing.Settlement, error) {
	s.until = append(s.until, f.To)
	return nil, nil
}

func (s *boundsStore) Transactions(_ context.Context, _ string, f billing.EntryFilter, _ billing.Page) ([]billing.Entry, error) {
	s.until = append(s.until, f.To)
	return nil, nil
}

func TestExportsDoNotRunAfterWhatArrives(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	s := &boundsStore{Store: g.store}
	c := newClient(t, &testGateway{store: s, token: testToken})
	for _, list := range []string{"/v1/audit", "/v1/billing/transactions"} {
		c.do(http.MethodGet, list+"/export?format=json&order=asc", "").want(t, http.StatusOK)
		c.do(http.MethodGet, list+"/export?format=json", "").want(t, http.StatusOK)
	}
	if len(s.until) != 4 || s.until[0].IsZero() || !s.until[1].IsZero() || s.until[2].IsZero() || !s.until[3].IsZero() {
		t.Errorf("rows were asked for until %v", s.until)
	}
}

// sumWriter is a client that adds up the costs of a CSV file.
type sumWriter struct {
	header      http.Header
	rest        []byte
	total, rows int64
}

func (w *sumWriter) Header() http.Header { return w.header }
func (w *sumWriter) WriteHeader(int)     {}
func (w *sumWriter) Flush()              {}

func (w *sumWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		fields := strings.Split(string(w.rest[:i]), ",")
		w.rest = append(w.rest[:0], w.rest[i+1:]...)
		if len(fields) < 12 {
			return 0, fmt.Errorf("not a row: %q", fields)
		}
		if fields[0] == "request_id" {
			continue
		}
		cost, err := strconv.ParseInt(fields[11], 10, 64)
		if err != nil {
			return 0, err
		}
		w.total += cost
		w.rows++
	}
}
