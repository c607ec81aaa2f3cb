package sandbox

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

const (
	defaultText = "The books balance: every token is counted once, and only once."
	// wordBytes is the size of each word of filler, its space included.
	wordBytes = 8
	// fillerPiece is the size of the pieces that filler is streamed in.
	fillerPiece = 4 << 10
)

// filler is repeated without end. It is ASCII that JSON need not escape.
const filler = "balance account journal settled credits gateway request payment "

// text is what the sandbox says: given words, or filler of a given size that
// is never held in memory as a whole.
type text struct {
	literal string
	size    int
	pieces  int
	// bounds are the ends of the pieces, or nil where they are of equal size.
	bounds []int
}

// newText returns the text that the script asks for.
func (s *Script) newText(stream bool) text {
	switch {
	case s.Content != nil:
		return literal(*s.Content, s.Chunks)
	case s.TextBytes != nil:
		return fill(int(*s.TextBytes), s.Chunks)
	case s.TotalBytes != nil && stream:
		return fill(int(*s.TotalBytes), s.Chunks)
	case s.TotalBytes != nil:
		// Leave room for what surrounds the text; white space does the rest.
		return fill(max(0, int(*s.TotalBytes)-wholeOverhead), s.Chunks)
	case s.Chunks != nil:
		return fill(int(*s.Chunks)*wordBytes, s.Chunks)
	default:
		return literal(defaultText, nil)
	}
}

// wholeOverhead is above what any whole body needs beside its text.
const wholeOverhead = 2 << 10

func literal(s string, chunks *int64) text {
	t := text{literal: s, size: len(s)}
	if chunks != nil {
		t.pieces = int(*chunks)
		return t
	}
	for i := 1; i < len(s); i++ {
		if s[i-1] != ' ' && s[i] == ' ' {
			t.bounds = append(t.bounds, i)
		}
	}
	if s != "" {
		t.bounds = append(t.bounds, len(s))
	}
	t.pieces = len(t.bounds)
	return t
}

func fill(size int, chunks *int64) text {
	t := text{size: size, pieces: (size + fillerPiece - 1) / fillerPiece}
	if chunks != nil {
		t.pieces = int(*chunks)
	}
	return t
}

// words is the number of words, which is the number of tokens.
func (t text) words() int64 {
	if t.literal == "" {
		return int64((t.size + wordBytes - 1) / wordBytes)
	}
	return int64(len(strings.Fields(t.literal)))
}

// cut returns the first so many words.
func (t text) cut(words int64) text {
	if t.literal == "" {
		return fill(int(words)*wordBytes, nil)
	}
	return literal(strings.Join(strings.Fields(t.literal)[:words], " "), nil)
}

// bound is where piece i begins.
func (t text) bound(i int) int {
	switch {
	case i == 0:
		return 0
	case t.bounds != nil:
		return t.bounds[i-1]
	}
	at := int(int64(t.size) * int64(i) / int64(t.pieces))
	for t.literal != "" && at < t.size && !utf8.RuneStart(t.literal[at]) {
		at++
	}
	return at
}

// appendPiece appends piece i as a JSON string.
func (t text) appendPiece(dst []byte, i int) []byte {
	return t.appendRange(dst, t.bound(i), t.bound(i+1))
}

// appendAll appends the whole text as a JSON string.
func (t text) appendAll(dst []byte) []byte { return t.appendRange(dst, 0, t.size) }

func (t text) appendRange(dst []byte, from, to int) []byte {
	if t.literal != "" {
		return appendString(dst, t.literal[from:to])
	}
	dst = append(dst, '"')
	for from < to {
		at := from % len(filler)
		n := min(len(filler)-at, to-from)
		dst = append(dst, filler[at:at+n]...)
		from += n
	}
	return append(dst, '"')
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
