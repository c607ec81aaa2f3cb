package cli

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// rows follows an export that is written to it, and knows where its rows end.
type rows struct {
	csv      bool
	inQuotes bool // CSV: a line break belongs to a field
	first    byte // of the line so far; 0 at its start
	lines    int64
	objects  int64 // lines that are JSON objects
	read     int64 // bytes so far
	// start and end are of the last complete row.
	start, end int64
	// header is CSV's first row, of a file that is gone on with.
	header string
	// lastID is the id of the last row of such a file.
	lastID string
}

func (e *export) newRows() *rows { return &rows{csv: e.format == "csv"} }

// data is how many complete rows there are, CSV's header apart.
func (r *rows) data() int64 {
	if r.csv {
		return max(r.lines-1, 0)
	}
	return r.objects
}

// Write never fails.
func (r *rows) Write(b []byte) (int, error) {
	for i, c := range b {
		switch {
		case c == '"' && r.csv:
			r.inQuotes = !r.inQuotes // a doubled one does so twice
		case c == '\n' && !r.inQuotes:
			r.lines++
			if r.first == '{' {
				r.objects++
			}
			r.start, r.end, r.first = r.end, r.read+int64(i)+1, 0
			continue
		}
		if r.first == 0 {
			r.first = c
		}
	}
	r.read += int64(len(b))
	return len(b), nil
}

// readFrom finds the end of the last complete row in a file, and cuts off what
// follows it.
func (r *rows) readFrom(f *os.File) error {
	if _, err := io.Copy(r, f); err != nil {
		return err
	}
	if err := f.Truncate(r.end); err != nil {
		return err
	}
	if _, err := f.Seek(r.end, io.SeekStart); err != nil {
		return err
	}
	r.inQuotes, r.first, r.read = false, 0, r.end
	if r.lines == 0 {
		return nil
	}
	row := make([]byte, r.end-r.start)
	if _, err := f.ReadAt(row, r.start); err != nil {
		return err
	}
	if !r.csv {
		return r.readID(row)
	}
	first, err := csvRow(io.NewSectionReader(f, 0, r.end))
	if err != nil {
		return err
	}
	r.header = first
	if r.lines == 1 {
		return nil
	}
	return r.readID(append([]byte(first), row...))
}

// readID reads the id of the last row: of a line of JSON, or of a CSV header
// and row.
func (r *rows) readID(text []byte) error {
	var fields map[string]any
	if r.csv {
		records, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
		if err != nil {
			return fmt.Errorf("read its last row: %w", err)
		}
		fields = map[string]any{}
		for i, name := range records[0] {
			fields[name] = records[1][i]
		}
	} else if err := json.Unmarshal(text, &fields); err != nil {
		return fmt.Errorf("read its last row: %w", err)
	}
	for _, name := range []string{"id", "request_id"} {
		if id, _ := fields[name].(string); id != "" {
			r.lastID = id
			return nil
		}
	}
	return errors.New("its last row has no id: begin anew, without --resume")
}

// withoutHeader takes the header from an answer that goes on with a file, of
// which it must be the header too.
func (r *rows) withoutHeader(body io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(body)
	got, err := csvRow(buffered)
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	if columns(got) != columns(r.header) {
		return nil, errors.New("the gateway exports other columns than the file has: begin anew, without --resume")
	}
	return buffered, nil
}

// csvRow reads the first row, which has no line breaks in it: a header.
func csvRow(r io.Reader) (string, error) {
	buffered, ok := r.(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReader(r)
	}
	return buffered.ReadString('\n')
}

func columns(header string) string { return strings.TrimRight(header, "\r\n") }
