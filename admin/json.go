package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
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
	if hasHalfPair(data) {
		return errors.New(`a text has one half of a surrogate pair, \ud800 to \udfff, without the other`)
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
	if f := checkFieldNames(data); len(f) > 0 {
		// Of no kind that a schema allows, so that validation refuses it; see
		// present for what the client is told.
		*generic = f
		return nil
	}
	*generic = withFloats(*generic)
	return nil
}

// hasHalfPair tells whether an escape stands for a half of a character, in whose
// place encoding/json would put another one.
func hasHalfPair(data []byte) bool {
	for i := bytes.IndexByte(data, '\\'); i >= 0 && i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		first, ok := codeUnit(data[i:])
		if !ok {
			i++ // an escape of one character, which may be a backslash
			continue
		}
		i += len(`u0000`)
		if !utf16.IsSurrogate(first) {
			continue
		}
		second, _ := codeUnit(data[min(i+1, len(data)):])
		if utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += len(`\u0000`)
	}
	return false
}

// codeUnit reads an escape of four digits that text begins with.
func codeUnit(text []byte) (rune, bool) {
	digits, ok := bytes.CutPrefix(text, []byte(`\u`))
	if !ok || len(digits) < 4 {
		return 0, false
	}
	code, err := strconv.ParseUint(string(digits[:4]), 16, 16)
	return rune(code), err == nil
}

// checkFieldNames finds the names that are read in more ways than one: those
// that appear twice in an object, and those that are a field's but for their
// case, which encoding/json takes for that field. What is validated would not
// be what is stored. All fields of this API have lower-case names.
//
// The data is valid JSON.
func checkFieldNames(data []byte) faults {
	var f faults
	var path fieldPath
	d := json.NewDecoder(bytes.NewReader(data))
	for len(f) < maxDetails {
		token, err := d.Token()
		if err != nil {
			break // the end
		}
		if name, ok := token.(string); ok && path.expectsName() {
			if fault := path.enter(name); fault != "" {
				f.add(path.String(), fault)
			}
			continue
		}
		switch token {
		case json.Delim('{'):
			path = append(path, fieldLevel{seen: map[string]bool{}})
		case json.Delim('['):
			path = append(path, fieldLevel{})
		case json.Delim('}'), json.Delim(']'):
			path = path[:len(path)-1]
			path.leave()
		default:
			path.leave()
		}
	}
	return f
}

// fieldPath is where in a body a reader is: the objects and arrays around it.
type fieldPath []fieldLevel

type fieldLevel struct {
	seen  map[string]bool // the names so far; nil for an array
	name  string
	named bool // the value of name comes next
	index int
}

func (p fieldPath) expectsName() bool {
	return len(p) > 0 && p[len(p)-1].seen != nil && !p[len(p)-1].named
}

// enter takes the name of the next value and returns what is wrong with it.
func (p fieldPath) enter(name string) (fault string) {
	top := &p[len(p)-1]
	top.name, top.named = name, true
	switch {
	case top.seen[name]:
		return "appears twice"
	case strings.ContainsFunc(name, notInFieldName):
		return validation.MsgUnexpectedProperty
	}
	top.seen[name] = true
	return ""
}

func notInFieldName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_'
}

// leave ends a value.
func (p fieldPath) leave() {
	if len(p) > 0 {
		p[len(p)-1].named = false
		p[len(p)-1].index++
	}
}

func (p fieldPath) String() string {
	var b strings.Builder
	b.WriteString("body")
	for _, level := range p {
		if level.seen == nil {
			fmt.Fprintf(&b, "[%d]", level.index)
		} else {
			b.WriteString("." + level.name)
		}
	}
	return b.String()
}

// maxEntries is the most entries that any list in a body may have.
const maxEntries = 200

// withFloats replaces numbers by floats, infinite ones if need be: the kind
// that huma's validation understands. They are looked at there and dropped.
// Lists that are too long are cut to one entry more than is allowed, so that they
// are refused for their length, and not for each of a hundred thousand entries.
func withFloats(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // fails beyond the range, with the infinity that is wanted
		return f
	case []any:
		v = v[:min(len(v), maxEntries+1)]
		for i := range v {
			v[i] = withFloats(v[i])
		}
		return v
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

// Resolve finds what is wrong with an amount of dollars, for which the schema has
// no words, so that it is told along with the faults of other fields.
func (o *optional[T]) Resolve(_ huma.Context, at *huma.PathBuffer) []error {
	text, ok := any(o.Value).(dollarText)
	if !ok || !o.Set || o.Null {
		return nil
	}
	if _, err := text.amount(); err != nil {
		return []error{&huma.ErrorDetail{Location: at.String(), Message: err.Error()}}
	}
	return nil
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
