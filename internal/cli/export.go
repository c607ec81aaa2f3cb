package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// partSuffix ends the name of a file that is not complete yet.
const partSuffix = ".part"

// toStdout is the name of no file.
const toStdout = "-"

const exportHelp = `

The rows are written as they arrive, in whatever number. With --output they go
to FILE.part, which becomes FILE when all have arrived: so a file of that name
is complete. When the connection is cut the command ends with 1, and with
--resume and the same other flags it goes on where FILE.part ends (CSV and JSON
lines).`

var exportFormats = []string{"csv", "json", "jsonl"}

// export are the flags of a command that exports rows.
type export struct {
	path           string
	query          func() (url.Values, error)
	format, output string
	after          string
	resume         bool
}

// addExport makes the command export the rows of a path that the query
// selects.
func addExport(cmd *cobra.Command, s *settings, path string, query func() (url.Values, error)) {
	e := &export{path: path, query: query}
	flags := cmd.Flags()
	flags.StringVar(&e.format, "format", "", "csv, json (an array) or jsonl (an object a line); by default what the file's name ends in, or csv")
	flags.StringVarP(&e.output, "output", "o", toStdout, "file to write; - is the standard output")
	flags.StringVar(&e.after, "after", "", "begin after the row of this id")
	flags.BoolVar(&e.resume, "resume", false, "go on with a file that was cut, if there is one")
	complete(cmd, "format", exportFormats...)
	cmd.RunE = s.run(func(ctx context.Context, s *session, _ []string) error { return e.run(ctx, s) })
}

func (e *export) run(ctx context.Context, s *session) error {
	if err := e.check(s.json); err != nil {
		return err
	}
	if e.output == toStdout {
		return e.copyTo(ctx, s, s.onScreen(e.format == "csv"), e.newRows())
	}
	part, err := e.openPart()
	if err != nil {
		return err
	}
	if err := errors.Join(e.fill(ctx, s, part), part.file.Close()); err != nil {
		if part.rows.read == 0 {
			return errors.Join(err, os.Remove(part.file.Name()))
		}
		return fmt.Errorf("%w\n  %s has the first %s rows: %s", err, part.file.Name(), humanize.Comma(part.rows.data()), e.howToGoOn())
	}
	if err := os.Rename(part.file.Name(), e.output); err != nil {
		return fmt.Errorf("name the complete file: %w", err)
	}
	fmt.Fprintf(s.notes, "Wrote %s rows, %s, to %s\n", humanize.Comma(part.rows.data()), humanize.IBytes(uint64(part.rows.read)), e.output)
	return nil
}

func (e *export) check(json bool) error {
	if json {
		return misusef("--json has no use here: choose a --format")
	}
	if e.format == "" {
		e.format = "csv"
		if ext := strings.TrimPrefix(filepath.Ext(e.output), "."); slices.Contains(exportFormats, ext) {
			e.format = ext
		}
	}
	switch {
	case !slices.Contains(exportFormats, e.format):
		return misusef("--format %q: expected csv, json or jsonl", e.format)
	case e.resume && e.output == toStdout:
		return misusef("--resume needs a file: name it with --output")
	case e.resume && e.format == "json":
		return misusef("--resume cannot go on in the middle of a JSON array: use --format jsonl or csv")
	case e.resume && e.after != "":
		return misusef("use one of --resume and --after: the file tells where it ends")
	}
	return nil
}

func (e *export) howToGoOn() string {
	if e.format == "json" {
		return "begin anew, or use --format jsonl, which can go on"
	}
	return "go on with --resume"
}

// fill writes what is missing to the part, and makes sure that it is on disk.
func (e *export) fill(ctx context.Context, s *session, p *part) error {
	if err := e.copyTo(ctx, s, p.file, p.rows); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("write the file: %w", err)
	}
	return nil
}

// copyTo copies the answer as it arrives. An answer that was cut is an error.
func (e *export) copyTo(ctx context.Context, s *session, w io.Writer, r *rows) error {
	q, err := e.query()
	if err != nil {
		return err
	}
	q.Set("format", e.format)
	addIf(q, "after", cmp.Or(r.lastID, e.after))
	k := get(e.path, q)
	res, err := s.open(ctx, k)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body := io.Reader(res.Body)
	if r.header != "" {
		if body, err = r.withoutHeader(body); err != nil {
			return err
		}
	}
	before := r.data()
	p := progress{notes: s.notes, rows: r, shown: isTerminal(s.notes)}
	_, err = io.Copy(io.MultiWriter(w, r, &p), body)
	p.end()
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("write the file: %w", err)
	}
	if err != nil {
		return fmt.Errorf("the export is not complete: %w", s.explain(ctx, k, err))
	}
	return checkComplete(res, r.data()-before)
}

// completeTrailer is what the API ends a complete export with: how many rows
// it has.
const completeTrailer = "X-Export-Complete"

// checkComplete compares what has arrived with what the API says at the end, if
// the answer has come on a way that lets that through.
func checkComplete(res *http.Response, arrived int64) error {
	values, announced := res.Trailer[completeTrailer]
	if !announced {
		return nil
	}
	if len(values) != 1 || values[0] != count(arrived) {
		return fmt.Errorf("the export is not complete: %d rows have arrived, and the gateway tells of %q", arrived, values)
	}
	return nil
}

// part is a file that is being written.
type part struct {
	file *os.File
	rows *rows
}

// openPart opens the file, cut to its complete rows if it is to be gone on
// with. It is for its owner alone: rows tell who did what, from where.
func (e *export) openPart() (*part, error) {
	mode := os.O_RDWR | os.O_CREATE
	if !e.resume {
		mode |= os.O_TRUNC
	}
	f, err := os.OpenFile(e.output+partSuffix, mode, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the file: %w", err)
	}
	p := &part{file: f, rows: e.newRows()}
	if e.resume {
		err = p.rows.readFrom(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("go on with %s: %w", f.Name(), err), f.Close())
	}
	return p, nil
}

// progress tells on a terminal how far an export is.
type progress struct {
	notes io.Writer
	rows  *rows
	shown bool
	last  time.Time
}

const progressInterval = 500 * time.Millisecond

func (p *progress) Write(b []byte) (int, error) {
	if p.shown && time.Since(p.last) > progressInterval {
		p.last = time.Now()
		p.show()
	}
	return len(b), nil
}

func (p *progress) show() {
	fmt.Fprintf(p.notes, "\r%s rows, %s  ", humanize.Comma(p.rows.data()), humanize.IBytes(uint64(p.rows.read)))
}

// end leaves the line to what is written next.
func (p *progress) end() {
	if p.shown && !p.last.IsZero() {
		p.show()
		fmt.Fprintf(p.notes, "\n")
	}
}
