// Package columns are the columns of tables that both stores lay out alike: what
// they are called, and what they are scanned into. Placeholders, and the forms
// that times are written in, are each store's own.
package columns

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// Row is a row, or the current one of several.
type Row interface{ Scan(dest ...any) error }

// Time scans a time in UTC, be it one of the database's or a number of
// microseconds; NULL is the zero time.
type Time struct{ To *time.Time }

// Scan implements sql.Scanner.
func (c Time) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*c.To = time.Time{}
	case time.Time:
		*c.To = v.UTC()
	case int64:
		*c.To = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("%T is not a time", v)
	}
	return nil
}

// Hash scans the hash of a secret.
type Hash struct{ To *billing.KeyHash }

// Scan implements sql.Scanner.
func (c Hash) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(c.To) {
		return fmt.Errorf("%T of %d bytes is not a hash", v, len(b))
	}
	copy(c.To[:], b)
	return nil
}

type (
	// List scans a list of texts.
	List = array[string]
	// Attempts scans the attempts at a request.
	Attempts = array[billing.Attempt]
)

// array scans a JSON array.
type array[T string | billing.Attempt] struct{ To *[]T }

// Scan implements sql.Scanner.
func (c array[T]) Scan(v any) error {
	var err error
	switch v := v.(type) {
	case string:
		*c.To, err = books.DecodeList[T](v)
	case []byte:
		*c.To, err = books.DecodeList[T](string(v))
	default:
		err = fmt.Errorf("%T is not a list", v)
	}
	return err
}

// Ignored scans what is not wanted.
type Ignored struct{}

// Scan implements sql.Scanner.
func (Ignored) Scan(any) error { return nil }

// OptionalAmount stores nil as NULL.
func OptionalAmount(m *billing.Money) any {
	if m == nil {
		return nil
	}
	return int64(*m)
}

// OptionalJSON stores nil as NULL.
func OptionalJSON(object json.RawMessage) any {
	if object == nil {
		return nil
	}
	return string(object)
}
