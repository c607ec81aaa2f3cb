package sse

import "bytes"

// arrayCutter cuts one JSON array into its elements. It follows strings and
// brackets and checks nothing else: what is not JSON still comes out whole.
type arrayCutter struct {
	// opened and closed: the array's own brackets were seen.
	opened, closed bool
	inString       bool
	// literal: inside a number, true, false or null, which has no end of its
	// own and lasts until a separator.
	literal bool
	// torn: the beginning of this element was handed out as a piece.
	torn bool
	// depth counts the open brackets of the element.
	depth int
	// from is where the element begins, -1 before it does; to is its end.
	from, to int
	// pos is what was looked at. It may be one beyond the window: a backslash
	// at the end escapes the byte that comes next.
	pos int
}

func (c *arrayCutter) cut(window []byte) int {
	for c.pos < len(window) && !c.closed {
		var done bool
		switch {
		case c.inString:
			done = c.skipString(window) && c.depth == 0
		case c.literal:
			done = c.skipLiteral(window)
		case c.depth > 0:
			done = c.skipStructure(window)
		default:
			c.begin(window[c.pos])
		}
		if done {
			c.to = c.pos
			return c.pos
		}
	}
	if c.closed {
		// Bytes after the bracket go with it if they are there already.
		c.pos = len(window)
		return c.pos
	}
	return 0
}

// begin looks at a byte between elements.
func (c *arrayCutter) begin(b byte) {
	at := c.pos
	c.pos++
	switch {
	case isSeparator(b):
		return
	case b == '[' && !c.opened:
		c.opened = true
		return
	case b == ']':
		c.closed = true
		return
	case b == '{' || b == '[':
		c.depth = 1
	case b == '"':
		c.inString = true
	default:
		c.literal = true
	}
	c.from = at
}

func (c *arrayCutter) skipStructure(window []byte) bool {
	for ; c.pos < len(window); c.pos++ {
		switch window[c.pos] {
		case '"':
			c.inString = true
			c.pos++
			return false
		case '{', '[':
			c.depth++
		case '}', ']':
			c.depth--
			if c.depth == 0 {
				c.pos++
				return true
			}
		}
	}
	return false
}

// skipString goes past the closing quote and tells if it is there.
func (c *arrayCutter) skipString(window []byte) bool {
	i, quote := c.pos, -1
	for i < len(window) {
		if quote < i {
			if n := bytes.IndexByte(window[i:], '"'); n >= 0 {
				quote = i + n
			} else {
				quote = len(window)
			}
		}
		escape := bytes.IndexByte(window[i:quote], '\\')
		if escape >= 0 {
			i += escape + len(`\"`)
			continue
		}
		if quote < len(window) {
			c.inString = false
			c.pos = quote + 1
			return true
		}
		i = quote
	}
	c.pos = i
	return false
}

func (c *arrayCutter) skipLiteral(window []byte) bool {
	for ; c.pos < len(window); c.pos++ {
		if b := window[c.pos]; isSeparator(b) || b == ']' || b == '}' {
			c.literal = false
			return true
		}
	}
	return false
}

// isSeparator takes what is neither JSON nor printable, such as a byte order
// mark, for white space.
func isSeparator(b byte) bool { return b <= ' ' || b == ',' || b >= 0x80 }

func (c *arrayCutter) take(raw []byte) Event {
	e := Event{Raw: raw, Incomplete: c.torn}
	if c.from >= 0 && !c.torn {
		e.Data = span{c.from, c.to}.of(raw)
	}
	c.torn = false
	c.from = -1
	c.pos -= len(raw)
	return e
}

func (c *arrayCutter) tear(raw []byte) Event {
	c.torn = c.torn || c.from >= 0
	c.pos -= len(raw)
	return Event{Raw: raw, Incomplete: true}
}

func (c *arrayCutter) rest(raw []byte) Event {
	return Event{Raw: raw, Incomplete: c.opened || c.torn || c.from >= 0}
}
