package admin

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// file is an export as a client has it.
type file struct {
	status int
	header http.Header
	body   []byte
	rows   string // of the trailer
	err    error  // while reading the body
}

// serve runs the API on a connection, as trailers and aborts need one.
func serve(t *testing.T, g Gateway) string {
	t.Helper()
	server := httptest.NewServer(New(g))
	t.Cleanup(server.Close)
	return server.URL
}

func download(t *testing.T, target, encoding string) file {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	r.Header.Set("Accept-Encoding", encoding)
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	f := file{status: res.StatusCode, header: res.Header}
	f.body, f.err = io.ReadAll(res.Body)
	f.rows = res.Trailer.Get(completeTrailer)
	return f
}

// manyRequests posts more than two pages of an export, and returns them oldest
// first.
func manyRequests(t *testing.T, g *testGateway) []billing.Settlement {
	t.Helper()
	var all []billing.Settlement
	for n := range 2*exportPage + 17 {
		s := request(fmt.Sprintf("r%05d", n), "key_a", day(1+n%3, 12), billing.Money(n))
		s.MarketCost = s.Cost + 1
		all = append(all, s)
	}
	g.post(t, all...)
	return all
}

func TestExportHasTheRowsOfTheList(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	all := manyRequests(t, g)
	gateway := serve(t, g)
	var want []AuditRow
	for _, s := range all {
		want = append(want, newAuditRow(s))
	}
	for format, read := range map[string]func([]byte) ([]AuditRow, error){
		"json": func(b []byte) (rows []AuditRow, err error) {
			err = json.Unmarshal(b, &rows)
			return rows, err
		},
		"jsonl": func(b []byte) (rows []AuditRow, err error) {
			d := json.NewDecoder(bytes.NewReader(b))
			for {
				var row AuditRow
				if err := d.Decode(&row); errors.Is(err, io.EOF) {
					return rows, nil
				} else if err != nil {
					return rows, err
				}
				rows = append(rows, row)
			}
		},
	} {
		f := download(t, gateway+"/v1/audit/export?order=asc&format="+format, "")
		if f.status != http.StatusOK || f.err != nil || f.rows != strconv.Itoa(len(all)) {
			t.Fatalf("%s: status %d, %s rows, error %v", format, f.status, f.rows, f.err)
		}
		got, err := read(f.body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
		if got := f.header.Get("Content-Type"); got != exportTypes[format] {
			t.Errorf("content type %q", got)
		}
	}
	if lines := bytes.Count(download(t, gateway+"/v1/audit/export?format=jsonl", "").body, []byte("\n")); lines != len(all) {
		t.Errorf("%d lines, want %d", lines, len(all))
	}
}

// records reads a CSV file as RFC 4180 has it.
func records(t *testing.T, b []byte) (names []string, rows [][]string) {
	t.Helper()
	if bytes.Count(b, []byte("\n")) != bytes.Count(b, []byte("\r\n")) {
		t.Error("a line does not end in CRLF")
	}
	all, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all[0], all[1:]
}

func columnOf(t *testing.T, names []string, rows [][]string, name string) []string {
	t.Helper()
	for i := range names {
		if names[i] != name {
			continue
		}
		var values []string
		for _, r := range rows {
			values = append(values, r[i])
		}
		return values
	}
	t.Fatalf("no column %s in %v", name, names)
	return nil
}

func TestExportIsResumedAfterARow(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	all := manyRequests(t, g)
	gateway := serve(t, g)
	for _, order := range []string{"asc", "desc"} {
		whole := download(t, gateway+"/v1/audit/export?order="+order, "")
		names, rows := records(t, whole.body)
		if len(rows) != len(all) {
			t.Fatalf("%d rows, want %d", len(rows), len(all))
		}
		ids := columnOf(t, names, rows, "request_id")
		at := exportPage + 3
		rest := download(t, gateway+"/v1/audit/export?order="+order+"&after="+ids[at], "")
		_, left := records(t, rest.body)
		if diff := cmp.Diff(rows[at+1:], left); diff != "" {
			t.Errorf("%s after row %d (-want +got):\n%s", order, at, diff)
		}
		if rest.rows != strconv.Itoa(len(left)) {
			t.Errorf("%s rows in the trailer, want %d", rest.rows, len(left))
		}
	}
}

func TestCSVIsSafeForSpreadsheets(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	hostile := []string{
		`=HYPERLINK("http://x","y")`, "+1", "-2+3", "@SUM(A1)", "\tx", "plain", `a "quoted", text`, "two\nlines",
		"＝1", "", "'already", "a=b", "\xff\xfe=1", "'; DROP TABLE requests; --",
		"a;=cmd", "a\t+cmd", "a\n@cmd", `a;";""-cmd`, ";＝cmd", "a; =b, c",
	}
	for i, text := range hostile {
		s := request(fmt.Sprintf("r%02d", i), "key_a", day(1, 12), 1_500_000_001)
		s.UserAgent, s.KeyName = text, text
		s.Changes = []string{text}
		g.post(t, s)
	}
	f := download(t, serve(t, g)+"/v1/audit/export?order=asc", "")
	names, rows := records(t, f.body)
	want := []string{
		`'=HYPERLINK("http://x","y")`, "'+1", "'-2+3", "'@SUM(A1)", "'\tx", "plain", `a "quoted", text`, "two\nlines",
		"'＝1", "", "'already", "a=b", "\uFFFD=1", "'; DROP TABLE requests; --",
		"a;'=cmd", "a\t'+cmd", "a\n'@cmd", `a;";""'-cmd`, ";'＝cmd", "a; =b, c",
	}
	for _, column := range []string{"user_agent", "key_name"} {
		if diff := cmp.Diff(want, columnOf(t, names, rows, column)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", column, diff)
		}
	}
	// Who splits at other characters takes quotes for text, except at the start of
	// a cell.
	for _, separator := range ";\t" {
		others := csv.NewReader(bytes.NewReader(f.body))
		others.Comma, others.LazyQuotes, others.FieldsPerRecord = separator, true, -1
		lines, err := others.ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, cell := range slices.Concat(lines...) {
			if cell != "" && strings.ContainsRune(formulaStarts, []rune(cell)[0]) {
				t.Errorf("split at %q there is a cell %q", separator, cell)
			}
		}
	}
	for column, value := range map[string]string{"cost_usd": "1.500000001", "cost_nanos": "1500000001", "status": "200", "streaming": "true"} {
		if got := columnOf(t, names, rows, column)[0]; got != value {
			t.Errorf("%s is %s, want %s", column, got, value)
		}
	}
}

func TestExportOfTransactions(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
	g.post(t, request("r1", "key_a", day(1, 12), 1_250_000_000))
	names, rows := records(t, download(t, serve(t, g)+"/v1/billing/transactions/export?order=asc", "").body)
	if diff := cmp.Diff([]string{"10.00", "-1.25"}, columnOf(t, names, rows, "amount_usd")); diff != "" {
		t.Errorf("amounts (-want +got):\n%s", diff)
	}
	c.do(http.MethodGet, "/v1/billing/transactions/export?format=json&type=usage_debit", "").
		want(t, http.StatusOK, `"request_id":"r1"`).lacks(t, `"purchase"`)
	c.do(http.MethodGet, "/v1/billing/transactions?type=purchase", "").want(t, http.StatusOK, `"purchase"`).lacks(t, `"usage_debit"`)
	c.do(http.MethodGet, "/v1/billing/transactions/export?after=x", "").
		want(t, http.StatusUnprocessableEntity, `"location":"query.after"`)
}

func TestExportIsCompressedWhenAsked(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	manyRequests(t, g)
	target := serve(t, g) + "/v1/audit/export"
	plain := download(t, target, "identity")
	for header, compressed := range map[string]bool{
		"gzip": true, "br, gzip;q=0.5": true, "*": true, "GZIP": true,
		"": false, "br": false, "gzip;q=0": false, "*, gzip;q=0": false, "gzip;q=x": false,
	} {
		f := download(t, target, header)
		if got := f.header.Get("Content-Encoding") == "gzip"; got != compressed {
			t.Errorf("%q: compressed %t, want %t", header, got, compressed)
			continue
		}
		body := f.body
		if compressed {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(body, plain.body) || f.rows != plain.rows {
			t.Errorf("%q: another file", header)
		}
	}
}

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
