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

// cells is a record on its way into a CSV file. Files have millions of records:
// all cells of one are written to one buffer, and become strings together.
type cells struct {
	buffer []byte
	ends   []int // of the cells, in the buffer
	record []string
}

func (c *cells) reset() { c.buffer, c.ends, c.record = c.buffer[:0], c.ends[:0], c.record[:0] }

// end ends a cell.
func (c *cells) end() { c.ends = append(c.ends, len(c.buffer)) }

// strings returns the cells, until the next reset.
func (c *cells) strings() []string {
	all, start := string(c.buffer), 0
	for _, end := range c.ends {
		c.record = append(c.record, all[start:end])
		start = end
	}
	return c.record
}

// text adds a text. One that a spreadsheet would take for a formula gets an
// apostrophe, which spreadsheets take for the mark of a text; so does what
// follows a character that ends a cell for a spreadsheet that splits at others
// than commas. Quotes do not help there: they are then in the middle of a cell.
func (c *cells) text(s string) {
	if strings.ContainsAny(s, otherSeparators) {
		s = laterFormula.ReplaceAllString(s, "$1'$2")
	}
	if first, size := utf8.DecodeRuneInString(s); size > 0 && strings.ContainsRune(formulaStarts, first) {
		c.buffer = append(c.buffer, '\'')
	}
	c.buffer = append(c.buffer, s...)
	c.end()
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
		c.end()
		return
	}
	c.text(*s)
}

func (c *cells) number(n int64) {
	c.buffer = strconv.AppendInt(c.buffer, n, 10)
	c.end()
}

// dollars adds an amount as a decimal number, exactly.
func (c *cells) dollars(m billing.Money) {
	c.buffer = m.AppendTo(c.buffer)
	c.end()
}

func (c *cells) flag(f bool) {
	c.buffer = strconv.AppendBool(c.buffer, f)
	c.end()
}

func (c *cells) time(t time.Time) {
	c.buffer = t.AppendFormat(c.buffer, time.RFC3339Nano)
	c.end()
}

// addList adds a list as JSON, as it has no form of its own in CSV; nothing for
// an empty one.
func addList[T any](c *cells, list []T) {
	if len(list) == 0 {
		c.end()
		return
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic("write JSON: " + err.Error()) // lists of plain structs always encode
	}
	c.text(string(b))
}

// csvEncoder writes rows as RFC 4180 says, after a line with their names.
type csvEncoder[R any] struct {
	w       *csv.Writer
	columns []column[R]
	cells   cells
}

func newCSVEncoder[R any](w io.Writer, columns []column[R]) *csvEncoder[R] {
	e := &csvEncoder[R]{w: csv.NewWriter(w), columns: columns}
	e.w.UseCRLF = true
	return e
}

func (e *csvEncoder[R]) begin() error {
	for _, c := range e.columns {
		e.cells.text(c.name)
	}
	return e.write()
}

func (e *csvEncoder[R]) add(row *R) error {
	for _, c := range e.columns {
		c.cell(&e.cells, row)
	}
	return e.write()
}

func (e *csvEncoder[R]) write() error {
	if err := e.w.Write(e.cells.strings()); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	e.cells.reset()
	return nil
}

func (e *csvEncoder[R]) flush() error {
	e.w.Flush()
	return e.w.Error()
}

func (e *csvEncoder[R]) end() error { return e.flush() }
