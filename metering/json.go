package metering

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// maxDepth is how deep JSON may be nested. gjson's validation recurses and
// would overflow the stack, which ends the process, at some millions.
const maxDepth = 10_000

// parse returns the JSON value in data, without copying it: neither the value
// nor a string in it may outlive data.
func parse(data []byte) (gjson.Result, bool) {
	if tooDeep(data) || !gjson.ValidBytes(data) {
		return gjson.Result{}, false
	}
	return view(data), true
}

// view is parse for data that is known to be valid.
func view(data []byte) gjson.Result {
	return gjson.Parse(unsafe.String(unsafe.SliceData(data), len(data)))
}

func parseObject(data []byte) (gjson.Result, bool) {
	v, ok := parse(data)
	return v, ok && v.IsObject()
}

// tooDeep looks closer only where there are enough brackets to begin with.
func tooDeep(data []byte) bool {
	if bytes.Count(data, []byte("["))+bytes.Count(data, []byte("{")) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			inString = !inString
		case '[', '{':
			if inString {
				continue
			}
			if depth++; depth > maxDepth {
				return true
			}
		case ']', '}':
			if !inString {
				depth--
			}
		}
	}
	return false
}

var errNotObject = errors.New("not an object")

// pick stores the values of the named keys of an object into values, in the
// order of names.
//
// A key that appears twice is an error: most providers take the last one,
// others the first, and a gateway that reads another one than the provider
// prices the wrong request. Servers that ignore case have the same trouble
// with "Model", so a named key in another case is an error too.
func pick(object gjson.Result, names []string, values []gjson.Result) error {
	if !object.IsObject() {
		return errNotObject
	}
	var (
		seen uint64
		err  error
	)
	object.ForEach(func(key, value gjson.Result) bool {
		i := indexFold(names, key.Str)
		switch {
		case i < 0:
			return true
		case names[i] != key.Str:
			err = fmt.Errorf("key %q must be written %q", key.Str, names[i])
		case seen&(1<<i) != 0:
			err = fmt.Errorf("key %q appears twice", names[i])
		}
		seen |= 1 << i
		values[i] = value
		return err == nil
	})
	return err
}

func indexFold(names []string, key string) int {
	for i, name := range names {
		// Folding changes a length by two bytes at most for each letter.
		if len(key) >= len(name) && len(key) <= 3*len(name) && strings.EqualFold(name, key) {
			return i
		}
	}
	return -1
}

// maxCount is where a count stops to be one: no request has as many tokens.
const maxCount = 1_000_000_000

// tally reads counts and remembers if one was no count at all.
type tally struct{ invalid bool }

// count returns a number of tokens; ok is false if there is none. Some
// providers write numbers as strings. Anything but an integer in [0, maxCount)
// is invalid and not ok.
func (t *tally) count(v gjson.Result) (n int64, ok bool) {
	number := v.Num
	switch v.Type {
	case gjson.Null:
		return 0, false
	case gjson.Number:
	case gjson.String:
		var err error
		if number, err = strconv.ParseFloat(v.Str, 64); err != nil {
			t.invalid = true
			return 0, false
		}
	default:
		t.invalid = true
		return 0, false
	}
	// The negation also catches what is not a number.
	if !(number >= 0 && number < maxCount) || number != math.Trunc(number) {
		t.invalid = true
		return 0, false
	}
	return int64(number), true
}

// set overwrites n with the count, if there is one.
func (t *tally) set(n *int64, v gjson.Result) {
	if c, ok := t.count(v); ok {
		*n = c
	}
}

// atMost returns n, or the limit if n exceeds it, which is then invalid.
func (t *tally) atMost(n, limit int64) int64 {
	if n > limit {
		t.invalid = true
		return limit
	}
	return n
}

// rename overwrites a name that is kept, and only if it changed: providers
// repeat it in every event.
func rename(kept *string, v gjson.Result) {
	if v.Type == gjson.String && v.Str != "" && v.Str != *kept {
		*kept = strings.Clone(v.Str)
	}
}

// isFailure tells if an error member reports one: it is there and not null.
func isFailure(v gjson.Result) bool { return v.Exists() && v.Type != gjson.Null }

// glance looks at the keys of a piece of JSON, at any depth and without parsing
// it. It adds up the lengths of the strings under the keys that are text, with
// escapes as they are written; and it tells if there is a usage, or an error,
// that is not null, so that the piece must be read.
func glance(piece []byte, isText func(key []byte) bool) (text int64, matters bool) {
	for {
		i := bytes.IndexByte(piece, '"')
		if i < 0 {
			return text, matters
		}
		key, rest := cutString(piece[i+1:])
		value, isKey := bytes.CutPrefix(skipSpace(rest), []byte(":"))
		if !isKey {
			piece = rest
			continue
		}
		piece = skipSpace(value)
		switch string(key) {
		case "usage", "error":
			matters = matters || !bytes.HasPrefix(piece, []byte("null"))
		case "type":
			matters = matters || bytes.HasPrefix(piece, []byte(`"error"`))
		}
		if quoted, isString := bytes.CutPrefix(piece, []byte(`"`)); isString {
			value, piece = cutString(quoted)
			if isText(key) {
				text += int64(len(value))
			}
		}
	}
}

// cutString cuts behind a JSON string whose opening quote is already gone.
func cutString(text []byte) (value, rest []byte) {
	n := stringLength(text)
	return text[:n], text[min(n+1, len(text)):]
}

// stringLength is the length of a JSON string, from behind its opening quote.
func stringLength(text []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			return len(text)
		}
		i += n
		backslashes := 0
		for backslashes < i && text[i-1-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 0 {
			return i
		}
		i++
	}
}

func skipSpace(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\n' || text[0] == '\t' || text[0] == '\r') {
		text = text[1:]
	}
	return text
}

// product multiplies two counts and stays below maxCount.
func product(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi > 0 || lo >= maxCount {
		return maxCount - 1
	}
	return int64(lo)
}
