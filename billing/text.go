package billing

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsPlainText tells whether every store can keep s, and compares it alike: it is
// valid UTF-8 without control characters.
func IsPlainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// LowerASCII returns s with its ASCII letters in lower case. Others stay as they
// are: the lower case of some is an ASCII letter, and databases disagree on what
// it is.
func LowerASCII(s string) string {
	lower := []byte(s)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}
