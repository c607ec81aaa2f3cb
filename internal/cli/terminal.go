package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// screen writes what the API answers to a terminal, in another form where that
// would obey it or show it in another order. Whatever is no terminal gets the
// API's bytes as they are.
type screen struct {
	w io.Writer
	// hide appends a character that is not to be shown.
	hide func(b []byte, c rune) []byte
	// rest is the beginning of a character whose other bytes follow. At the end
	// of an answer there is none, unless it was cut.
	rest []byte
}

// onScreen returns where to write JSON to, or with csv CSV.
func (s *session) onScreen(csv bool) io.Writer {
	switch {
	case !s.terminal:
		return s.out
	case csv:
		return &screen{w: s.out, hide: replaceRune}
	}
	return &screen{w: s.out, hide: escapeRune}
}

func (s *screen) Write(b []byte) (int, error) {
	text := slices.Concat(s.rest, b)
	shown := make([]byte, 0, len(text))
	for len(text) > 0 && utf8.FullRune(text) {
		c, size := utf8.DecodeRune(text)
		if isShown(c) && (c != utf8.RuneError || size > 1) {
			shown = append(shown, text[:size]...)
		} else {
			shown = s.hide(shown, c)
		}
		text = text[size:]
	}
	s.rest = text
	if _, err := s.w.Write(shown); err != nil {
		return 0, err
	}
	return len(b), nil
}

// isShown tells whether a character may go to a terminal as it is. Line breaks
// and tabs are the file's own.
func isShown(c rune) bool {
	return unicode.IsPrint(c) || c == '\n' || c == '\r' || c == '\t'
}

// escapeRune writes a character of a JSON string in the other way that JSON has.
func escapeRune(b []byte, c rune) []byte {
	if high, low := utf16.EncodeRune(c); high != utf8.RuneError {
		return fmt.Appendf(b, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(b, `\u%04x`, c)
}

// replaceRune is for CSV, which has no other way.
func replaceRune(b []byte, _ rune) []byte { return utf8.AppendRune(b, utf8.RuneError) }
