package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// jsonEncoder writes rows as the lists of this API have them.
type jsonEncoder[R any] struct {
	w                    io.Writer
	open, between, close string
	buffer               bytes.Buffer
	started              bool
}

func (e *jsonEncoder[R]) begin() error {
	e.buffer.WriteString(e.open)
	return nil
}

func (e *jsonEncoder[R]) add(row *R) error {
	if e.started {
		e.buffer.WriteString(e.between)
	}
	e.started = true
	if err := jsonFormat.Marshal(&e.buffer, row); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	e.buffer.Truncate(len(bytes.TrimRight(e.buffer.Bytes(), "\n")))
	return nil
}

func (e *jsonEncoder[R]) flush() error {
	_, err := e.buffer.WriteTo(e.w)
	return err
}

func (e *jsonEncoder[R]) end() error {
	if e.started || e.open != "" {
		e.buffer.WriteString(e.close)
	}
	return e.flush()
}

// accepts tells whether an Accept-Encoding header takes an encoding.
func accepts(header, encoding string) bool {
	taken := false
	for part := range strings.SplitSeq(header, ",") {
		name, parameter, _ := strings.Cut(part, ";")
		name = strings.TrimSpace(name)
		if name != "*" && !strings.EqualFold(name, encoding) {
			continue
		}
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
			var err error
			if weight, err = strconv.ParseFloat(q, 64); err != nil {
				weight = 0
			}
		}
		taken = weight > 0
		if name != "*" {
			return taken
		}
	}
	return taken
}

func strayRow() error {
	var f faults
	f.add("query.after", "expected the id of a row of this list, with the same filters")
	return f.err()
}

// exportError explains an error before the first row: there is no other id to
// not find than that of the row to go on from.
func exportError(name string, err error) error {
	if errors.Is(err, billing.ErrNotFound) {
		return strayRow()
	}
	return fmt.Errorf("exporting %s: %w", name, err)
}

var errTooManyExports = &problem{
	status:  http.StatusTooManyRequests,
	Message: fmt.Sprintf("%d exports of the organization are running, which is the most: try again when one has ended", maxExports),
	// Nobody knows when that is: it depends on their clients.
	retryAfter: 5,
}
