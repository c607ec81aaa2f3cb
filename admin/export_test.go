package admin

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

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
