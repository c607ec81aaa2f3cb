package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// none is shown where there is no value.
const none = "-"

// answer asks the API, and prints its JSON or shows it with show.
func answer[T any](ctx context.Context, s *session, k call, show func(io.Writer, T) error) error {
	body, header, err := s.exchange(ctx, k)
	if err != nil {
		return err
	}
	if s.json {
		return printJSON(s.onScreen(false), body)
	}
	v, err := decode[T](s.client, body)
	if err != nil {
		return err
	}
	if versioned, ok := any(&v).(interface{ readFrom(h http.Header) }); ok {
		versioned.readFrom(header)
	}
	return show(s.out, v)
}

// decode reads an answer.
func decode[T any](c *client, body []byte) (T, error) {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("%s answers what this version does not understand: %w; --json shows it", c.base, err)
	}
	return v, nil
}

// printJSON prints the API's bytes, and a line break if they do not end in
// one.
func printJSON(w io.Writer, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	if body[len(body)-1] != '\n' {
		body = append(body[:len(body):len(body)], '\n')
	}
	_, err := w.Write(body)
	return err
}

// column is one of a table.
type column struct {
	title string
	// right aligns numbers by their ends.
	right bool
}

func left(title string) column  { return column{title: title} }
func right(title string) column { return column{title: title, right: true} }

// table prints rows under titles, aligned.
func table(w io.Writer, columns []column, rows [][]string) error {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.title)
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	for _, row := range append([][]string{titles}, rows...) {
		var line strings.Builder
		for i, c := range columns {
			if i > 0 {
				line.WriteString("  ")
			}
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(row[i]))
			if c.right {
				line.WriteString(space + row[i])
			} else {
				line.WriteString(row[i] + space)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// field is a line of what is shown of one thing.
type field struct{ name, value string }

// fields prints names and values, aligned.
func fields(w io.Writer, all ...field) error {
	width := 0
	for _, f := range all {
		width = max(width, len(f.name))
	}
	for _, f := range all {
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, f.name, f.value); err != nil {
			return err
		}
	}
	return nil
}

// withWarning adds what the API warns of, if it does.
func withWarning(warning string, all ...field) []field {
	if warning == "" {
		return all
	}
	return append(all, field{"Warning", printable(warning)})
}

// usd writes an amount in dollars, exactly.
func usd(m metering.Money) string {
	text := m.String()
	if digits, negative := strings.CutPrefix(text, "-"); negative {
		return "-$" + digits
	}
	return "$" + text
}

// dollars is an amount of dollars as the API writes it, a JSON number.
type dollars json.Number

func (d *dollars) UnmarshalJSON(b []byte) error {
	*d = dollars(b)
	return nil
}

// limit writes an amount that may be missing, with all its decimals.
func limit(d *dollars) string {
	if d == nil {
		return none
	}
	m, err := metering.ParseUSD(string(*d))
	if err != nil {
		return printable(string(*d))
	}
	return usd(m)
}

// number writes a limit that may be missing.
func number(n *int64) string {
	if n == nil {
		return none
	}
	return count(*n)
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

// text writes a text that may be missing.
func text(s *string) string {
	if s == nil || *s == "" {
		return none
	}
	return printable(*s)
}

// moment writes a time that may be missing, in UTC.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return none
	}
	return t.UTC().Format(time.RFC3339)
}

// each writes a list of which an empty one stands for all.
func each(list []string) string {
	if len(list) == 0 {
		return "all"
	}
	return printable(strings.Join(list, ", "))
}

// printable replaces what would move a terminal's cursor, or worse: names and
// user agents are what clients say that they are.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return utf8.RuneError
	}, s)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
