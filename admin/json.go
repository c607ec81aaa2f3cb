package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// jsonFormat reads and writes bodies. Unlike huma's default it refuses text
// that is not UTF-8, instead of replacing it, and numbers beyond a float64
// reach validation, which knows their field's name.
var jsonFormat = huma.Format{
	Marshal:   huma.DefaultJSONFormat.Marshal,
	Unmarshal: unmarshalJSON,
}

func unmarshalJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("the text is not valid UTF-8")
	}
	generic, ok := v.(*any)
	if !ok {
		return json.Unmarshal(data, v)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(generic); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	*generic = withFloats(*generic)
	return nil
}

// withFloats replaces numbers by floats, infinite ones if need be: the kind
// that huma's validation understands. They are looked at there and dropped.
func withFloats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // fails beyond the range, with the infinity that is wanted
		return f
	case []any:
		for i := range v {
			v[i] = withFloats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = withFloats(v[k])
		}
	}
	return v
}

// optional is a nullable field of a body that knows whether it was there:
// absent leaves a value as it is, null clears it.
type optional[T any] struct {
	Set   bool
	Null  bool
	Value T
}

func (o *optional[T]) UnmarshalJSON(b []byte) error {
	o.Set = true
	if string(b) == "null" {
		o.Null = true
		return nil
	}
	return json.Unmarshal(b, &o.Value)
}

// Schema is T's, or null.
func (optional[T]) Schema(r huma.Registry) *huma.Schema {
	s := huma.SchemaFromType(r, reflect.TypeFor[T]())
	s.Nullable = s.Type != "" // else it says so itself
	if len(s.Enum) > 0 {
		s.Enum = append(s.Enum, nil)
	}
	return s
}
