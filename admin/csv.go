package admin

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// column is one of a CSV file whose rows are Rs.
type column[R any] struct {
	name string
	cell func(c *cells, row *R)
}

// cells is a record on its way into a CSV file.
type cells []string

// text adds a text. One that a spreadsheet would take for a formula gets an
// apostrophe, which spreadsheets take for the mark of a text; so does what
// follows a character that ends a cell for a spreadsheet that splits at others
// than commas. Quotes do not help there: they are then in the middle of a cell.
func (c *cells) text(s string) {
	if strings.ContainsAny(s, otherSeparators) {
		s = laterFormula.ReplaceAllString(s, "$1'$2")
	}
	if first, size := utf8.DecodeRuneInString(s); size > 0 && strings.ContainsRune(formulaStarts, first) {
		s = "'" + s
	}
	*c = append(*c, s)
}

// formulaStarts begin formulas, some of them in some languages only.
const formulaStarts = "=+-@\t\r\n＝＋－＠"

// otherSeparators end cells or rows where quotes are not heeded.
const otherSeparators = ";\t\r\n"

// laterFormula is what may begin a cell after them. A quote is doubled in the
// file, which is an empty text to go on after.
var laterFormula = regexp.MustCompile(`([` + otherSeparators + `]"*)([=+\-@＝＋－＠])`)

// optional adds a text, or nothing.
func (c *cells) optional(s *string) {
	if s == nil {
		s = new(string)
	}
	c.text(*s)
}

func (c *cells) number(n int64) { *c = append(*c, strconv.FormatInt(n, 10)) }

// dollars adds an amount as a decimal number, exactly.
func (c *cells) dollars(m billing.Money) { *c = append(*c, m.String()) }

func (c *cells) flag(f bool) { *c = append(*c, strconv.FormatBool(f)) }

func (c *cells) time(t time.Time) { *c = append(*c, t.Format(time.RFC3339Nano)) }

// json adds what has no form of its own in CSV; nothing for an empty list.
func (c *cells) json(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("write JSON: " + err.Error()) // lists of plain structs always encode
	}
	c.text(strings.TrimPrefix(string(b), "[]"))
}

// csvEncoder writes rows as RFC 4180 says, after a line with their names.
type csvEncoder[R any] struct {
	w       *csv.Writer
	columns []column[R]
	record  cells
}

func newCSVEncoder[R any](w io.Writer, columns []column[R]) *csvEncoder[R] {
	e := &csvEncoder[R]{w: csv.NewWriter(w), columns: columns}
	e.w.UseCRLF = true
	return e
}

func (e *csvEncoder[R]) begin() error {
	for _, c := range e.columns {
		e.record = append(e.record, c.name)
	}
	return e.write()
}

func (e *csvEncoder[R]) add(row *R) error {
	e.record = e.record[:0]
	for _, c := range e.columns {
		c.cell(&e.record, row)
	}
	return e.write()
}

func (e *csvEncoder[R]) write() error {
	if err := e.w.Write(e.record); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	return nil
}

func (e *csvEncoder[R]) flush() error {
	e.w.Flush()
	return e.w.Error()
}

func (e *csvEncoder[R]) end() error { return e.flush() }
