package sse

import "bytes"

// span is a part of the window.
type span struct{ from, to int }

func (s span) of(raw []byte) []byte { return raw[s.from:s.to:s.to] }

// Memory beyond these, which an unusual event needed, is not kept for the next.
const (
	keepLines  = 1 << 10
	keepJoined = 64 << 10
)

// lineCutter cuts server-sent events as the HTML standard defines them: lines
// end in LF, CRLF or CR, and an event ends at a blank line.
type lineCutter struct {
	// started: the first line, the only one that can have a byte order mark,
	// is over.
	started bool
	// afterCR: the line before ended with a CR that was the last byte read.
	// It does not wait for the LF that may follow; if one does, it is the
	// second half of that line end and not a line.
	afterCR bool
	// torn: the beginning of this event was handed out as a piece; midLine:
	// so was the beginning of this line.
	torn, midLine bool

	line int // where the current line begins
	pos  int // no line end between line and here
	// lf is where the next LF is; if that is behind pos, there is none before
	// clean. Without it, text with bare CRs would be searched for an LF again
	// at every line.
	lf, clean int

	// skipped is the length of the LF that completes the line before.
	skipped int
	name    span
	bare    span
	data    []span
	joined  []byte
}

var byteOrderMark = []byte("\xEF\xBB\xBF")

func (c *lineCutter) cut(window []byte) int {
	for {
		if c.afterCR && c.pos < len(window) {
			c.afterCR = false
			if window[c.pos] == '\n' {
				c.skip()
			}
		}
		end, next := c.lineEnd(window)
		if next == 0 {
			return 0
		}
		begin := c.line
		if !c.started && !c.midLine && bytes.HasPrefix(window[begin:end], byteOrderMark) {
			begin += len(byteOrderMark)
		}
		blank := begin == end && !c.midLine
		if !blank && !c.torn {
			c.field(window, span{begin, end})
		}
		c.started, c.midLine = true, false
		c.line, c.pos = next, next
		if blank {
			return next
		}
	}
}

func (c *lineCutter) skip() {
	c.pos++
	if c.line == 0 {
		c.skipped = 1
	}
	c.line++
}

// lineEnd returns where the current line ends and where the next one begins,
// or 0, 0 if the end was not read yet.
func (c *lineCutter) lineEnd(window []byte) (end, next int) {
	if c.lf < c.pos {
		from := max(c.pos, c.clean)
		if i := bytes.IndexByte(window[from:], '\n'); i >= 0 {
			c.lf = from + i
		} else {
			c.clean = len(window)
		}
	}
	limit := len(window)
	if c.lf >= c.pos {
		limit = c.lf
	}
	if i := bytes.IndexByte(window[c.pos:limit], '\r'); i >= 0 {
		end = c.pos + i
		next = end + 1
		if next == len(window) {
			c.afterCR = true
		} else if window[next] == '\n' {
			next++
		}
		return end, next
	}
	if limit < len(window) {
		return limit, limit + 1
	}
	c.pos = len(window)
	return 0, 0
}

func (c *lineCutter) field(window []byte, line span) {
	text := line.of(window)
	if text[0] == ':' {
		return
	}
	name, value := len(text), len(text)
	if colon := bytes.IndexByte(text, ':'); colon >= 0 {
		name, value = colon, colon+1
		if value < len(text) && text[value] == ' ' {
			value++
		}
	}
	switch string(text[:name]) {
	case "data":
		c.data = append(c.data, span{line.from + value, line.to})
	case "event":
		c.name = span{line.from + value, line.to}
	case "id", "retry":
	default:
		c.addBare(line)
	}
}

func (c *lineCutter) addBare(line span) {
	if c.bare == (span{}) {
		c.bare.from = line.from
	}
	c.bare.to = line.to
}

func (c *lineCutter) take(raw []byte) Event {
	e := Event{Raw: raw, Incomplete: c.torn}
	if !c.torn {
		e.Name, e.Data, e.Bare = c.name.of(raw), c.value(raw), c.bare.of(raw)
	}
	c.torn = false
	c.restart(len(raw))
	return e
}

// value joins the data lines; one alone, the usual case, is not copied.
func (c *lineCutter) value(raw []byte) []byte {
	switch len(c.data) {
	case 0:
		return nil
	case 1:
		return c.data[0].of(raw)
	}
	c.joined = c.joined[:0]
	for i, line := range c.data {
		if i > 0 {
			c.joined = append(c.joined, '\n')
		}
		c.joined = append(c.joined, line.of(raw)...)
	}
	return c.joined
}

func (c *lineCutter) tear(raw []byte) Event {
	c.torn = true
	c.midLine = c.line < len(raw)
	c.restart(len(raw))
	return Event{Raw: raw, Incomplete: true}
}

func (c *lineCutter) rest(raw []byte) Event {
	if c.torn {
		return Event{Raw: raw, Incomplete: true}
	}
	// The last line may lack its end and still be a bare object's last line.
	// Only that may be used of it: a data line could be cut anywhere.
	if last := (span{c.line, len(raw)}); c.line < len(raw) {
		c.field(raw, last)
	}
	return Event{Raw: raw, Bare: c.bare.of(raw), Incomplete: len(raw) > c.skipped}
}

// restart begins a new event n bytes further on.
func (c *lineCutter) restart(n int) {
	c.line = 0
	c.pos = 0
	c.lf -= n
	c.clean -= n
	c.skipped = 0
	c.name, c.bare = span{}, span{}
	c.data = c.data[:0]
	if cap(c.data) > keepLines {
		c.data = nil
	}
	if cap(c.joined) > keepJoined {
		c.joined = nil
	}
}
