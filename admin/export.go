package admin

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/klauspost/compress/gzip"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// exportPage is how many rows are read from the store at once, and are all
	// that an export keeps in memory.
	exportPage = 500
	// exportPatience is how long a client may take for the bytes of one page.
	exportPatience = time.Minute
	// maxExports is how many exports an organization may run at once on a node.
	maxExports = 4
	// completeTrailer says, after the last byte of a file, how many rows it has.
	completeTrailer = "X-Export-Complete"
)

// exported is a list that can be exported: of Ts, each a row R of the file.
type exported[T, R any] struct {
	name  string
	start billing.Page
	// page reads the next part. An export holds nothing of the store between two
	// parts, however slow its client is: no connection, and no snapshot that
	// would keep a database from cleaning up.
	page func(ctx context.Context, page billing.Page) ([]T, error)
	// find returns the element of an id, if that is selected.
	find func(ctx context.Context, id string) ([]T, error)
	id   func(*T) string
	// confirm fails once the caller may read no more of it.
	confirm func() error
	row     func(T) R
	columns []column[R]
}

// ExportOptions are the parameters of a file.
type ExportOptions struct {
	Format         string `query:"format" enum:"csv,json,jsonl" default:"csv" doc:"csv: RFC 4180 with a header line; json: an array; jsonl: one object a line."`
	After          string `query:"after" maxLength:"200" doc:"The id in the last row of a file that broke off, with the same other parameters: what comes after that row."`
	AcceptEncoding string `header:"Accept-Encoding" hidden:"true"`
}

// encoder writes rows in one of the formats.
type encoder[R any] interface {
	begin() error
	add(row *R) error
	// flush hands on what was added so far, and end all there is.
	flush() error
	end() error
}

var exportTypes = map[string]string{
	"csv":   "text/csv; charset=utf-8; header=present",
	"json":  "application/json",
	"jsonl": "application/jsonl",
}

// registerExport adds an operation that answers a file.
func registerExport[I any](a *api, op huma.Operation, handle func(context.Context, *I) (*huma.StreamResponse, error)) {
	content := make(map[string]*huma.MediaType)
	for format, mediaType := range map[string]*huma.Schema{
		"text/csv":          {Type: huma.TypeString},
		"application/json":  {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject}},
		"application/jsonl": {Type: huma.TypeString},
	} {
		content[format] = &huma.MediaType{Schema: mediaType}
	}
	op.Description = "The file is written as it is read. A trailer, " + completeTrailer + ", ends a file that is whole, with the number of its rows; " +
		"one that is not ends with the connection, and `after` goes on from its last row."
	op.Responses = map[string]*huma.Response{"200": {Description: "The file", Content: content}}
	register(a, op, handle)
}

// export answers a file. What goes wrong before its first row is an answer of
// its own; what goes wrong later breaks the connection off, so that no client
// takes a part for the whole.
func export[T, R any](ctx context.Context, a *api, in *ExportOptions, x exported[T, R]) (*huma.StreamResponse, error) {
	if !billing.IsPlainText(in.After) {
		return nil, strayRow()
	}
	org := organizationOf(ctx)
	if !a.exports.begin(org) {
		return nil, errTooManyExports
	}
	var answer *huma.StreamResponse
	defer func() {
		if answer == nil { // nobody will write it, and end it
			a.exports.end(org)
		}
	}()
	page := x.start
	page.After, page.Limit = in.After, exportPage
	first, err := x.first(ctx, page)
	if err != nil {
		return nil, exportError(x.name, err)
	}
	reader := ctx
	x.confirm = func() (err error) {
		if reader, err = a.confirm(reader, "export-"+x.name); err != nil {
			return err
		}
		if was, is := callerOf(ctx).role, callerOf(reader).role; was != is {
			return fmt.Errorf("the reader was %s and is %s now, who may see other rows", was, is)
		}
		return nil
	}
	answer = &huma.StreamResponse{Body: func(hc huma.Context) {
		defer a.exports.end(org)
		r, w := humago.Unwrap(hc)
		file := newExportWriter(w, in, x.name)
		if r.Method == http.MethodHead {
			return // it asks for the headers, and no rows need be read for them
		}
		rows, err := x.write(r.Context(), file, page, first)
		if err != nil {
			if r.Context().Err() == nil {
				a.gateway.Logger().Warn("an export broke off", "list", x.name, "rows", rows, "error", err)
			}
			panic(http.ErrAbortHandler)
		}
		w.Header().Set(completeTrailer, strconv.Itoa(rows))
	}}
	return answer, nil
}

// first reads the first part. It goes on after a row of the same list only: one
// of the organization, and of the same filters.
func (x *exported[T, R]) first(ctx context.Context, page billing.Page) ([]T, error) {
	if page.After != "" {
		found, err := x.find(ctx, page.After)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, billing.ErrNotFound
		}
	}
	return x.page(ctx, page)
}

func (x *exported[T, R]) write(ctx context.Context, w *exportWriter, page billing.Page, part []T) (rows int, err error) {
	encode := x.encoder(w)
	if err := encode.begin(); err != nil {
		return 0, err
	}
	var row R // on the heap, once
	for {
		for i := range part {
			row = x.row(part[i])
			if err := encode.add(&row); err != nil {
				return rows, err
			}
			rows++
		}
		if len(part) < page.Limit {
			break
		}
		if err := encode.flush(); err != nil {
			return rows, err
		}
		if err := w.Flush(); err != nil {
			return rows, err
		}
		page.After = x.id(&part[len(part)-1])
		if err := x.confirm(); err != nil {
			return rows, err
		}
		if part, err = x.page(ctx, page); err != nil {
			return rows, err
		}
	}
	if err := encode.end(); err != nil {
		return rows, err
	}
	return rows, w.Close()
}

func (x *exported[T, R]) encoder(w *exportWriter) encoder[R] {
	switch w.format {
	case "csv":
		return newCSVEncoder(w, x.columns)
	case "json":
		return &jsonEncoder[R]{w: w, open: "[\n", between: ",\n", close: "\n]\n"}
	default:
		return &jsonEncoder[R]{w: w, between: "\n", close: "\n"}
	}
}

// exportWriter writes a file to a client that may be slow, but not dead.
type exportWriter struct {
	io.Writer
	format  string
	gzip    *gzip.Writer // nil if the client does not take it
	control *http.ResponseController
}

func newExportWriter(w http.ResponseWriter, in *ExportOptions, name string) *exportWriter {
	x := &exportWriter{Writer: w, format: in.Format, control: http.NewResponseController(w)}
	maps.Copy(w.Header(), http.Header{
		"Content-Type":        {exportTypes[in.Format]},
		"Content-Disposition": {fmt.Sprintf(`attachment; filename="%s-%s.%s"`, name, time.Now().UTC().Format("20060102-150405"), in.Format)},
		"Trailer":             {completeTrailer},
	})
	w.Header().Add("Vary", "Accept-Encoding")
	if accepts(in.AcceptEncoding, "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		x.gzip, _ = gzip.NewWriterLevel(w, gzip.BestSpeed) // fails for unknown levels only
		x.Writer = x.gzip
	}
	x.extend()
	return x
}

// extend gives the client time for more. Where a writer knows no deadlines, the
// server's own hold.
func (x *exportWriter) extend() {
	_ = x.control.SetReadDeadline(time.Time{})
	_ = x.control.SetWriteDeadline(time.Now().Add(exportPatience))
}

// Flush sends what is written so far.
func (x *exportWriter) Flush() error {
	if x.gzip != nil {
		if err := x.gzip.Flush(); err != nil {
			return err
		}
	}
	if err := x.control.Flush(); err != nil {
		return fmt.Errorf("sending a part: %w", err)
	}
	x.extend()
	return nil
}

// Close ends the file. The connection may serve other requests after it.
func (x *exportWriter) Close() error {
	if x.gzip != nil {
		if err := x.gzip.Close(); err != nil {
			return err
		}
	}
	if err := x.control.Flush(); err != nil {
		return fmt.Errorf("sending the end: %w", err)
	}
	_ = x.control.SetWriteDeadline(time.Time{})
	return nil
}

// exports counts the open exports of each organization.
type exports struct {
	mu   sync.Mutex
	open map[string]int
}

func (e *exports) begin(org string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open[org] == maxExports {
		return false
	}
	if e.open == nil {
		e.open = make(map[string]int)
	}
	e.open[org]++
	return true
}

func (e *exports) end(org string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open[org]--; e.open[org] == 0 {
		delete(e.open, org)
	}
}
