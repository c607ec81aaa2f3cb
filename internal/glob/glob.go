// Package glob matches names against patterns of one metacharacter: * stands
// for any run of characters, also none, and also of slashes. All other
// characters stand for themselves.
package glob

import "strings"

// Match tells whether the pattern matches the whole text, byte by byte and in
// its case. It takes time in proportion to the lengths of both: a part between
// two stars is best found where it occurs first, so there is nothing to try
// again.
func Match(pattern, text string) bool {
	part, rest, more := strings.Cut(pattern, "*")
	if !more {
		return part == text
	}
	text, ok := strings.CutPrefix(text, part)
	if !ok {
		return false
	}
	for {
		if part, rest, more = strings.Cut(rest, "*"); !more {
			return strings.HasSuffix(text, part)
		}
		if _, text, ok = strings.Cut(text, part); !ok {
			return false
		}
	}
}
