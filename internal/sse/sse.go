// Package sse cuts a streamed response into events while it arrives: lines of
// server-sent events, or the elements of one JSON array. Nothing is lost or
// changed on the way: the events' raw bytes, put together, are the input.
// There is no limit on the length of a line, and no allocation per event.
package sse

import (
	"errors"
	"io"
	"sync"
)

// MaxEvent bounds the memory that one event may take. What a provider sends
// beyond it comes in pieces, marked as incomplete.
const MaxEvent = 64 << 20

const (
	// firstBuffer holds many ordinary events and one read of a TLS record.
	firstBuffer = 32 << 10
	// maxIdleReads is how many reads in a row may return nothing.
	maxIdleReads = 100
)

// Event is one event with the bytes that it came in. All slices are valid
// until the next call of Next or Release.
type Event struct {
	// Raw is everything since the event before: line ends, comments and the
	// closing blank line included.
	Raw []byte
	// Name is the value of the event field.
	Name []byte
	// Data is the value of the data field, its lines joined with \n; or the
	// element of the array.
	Data []byte
	// Bare are the lines that are no field of an event stream, such as an
	// error object that a provider writes without "data:".
	Bare []byte
	// Incomplete tells that the input ended or failed inside the event, or
	// that this is a piece of an event larger than MaxEvent. It has no Name
	// and no Data then.
	Incomplete bool
}

// A cutter knows where events end. Its offsets are relative to the window,
// which is what was read since the last event; it remembers how far it
// looked, so that no byte is looked at twice however small the reads are.
type cutter interface {
	// cut returns the length of the first event in the window, and 0 as long
	// as that event's end is not there.
	cut(window []byte) int
	// take returns the event that was cut and starts the next one.
	take(raw []byte) Event
	// tear hands out the whole window as a piece of an unfinished event.
	tear(raw []byte) Event
	// rest describes what is left at the end of the input.
	rest(raw []byte) Event
}

// Reader reads events. It is not safe for concurrent use.
type Reader struct {
	src    io.Reader
	cutter cutter
	limit  int
	box    *[]byte
	buf    []byte
	// The window is buf[start:end]; its first ready bytes are a whole event.
	start, end, ready int
	err               error
}

var errReleased = errors.New("event reader was released")

// NewReader returns a reader of server-sent events.
func NewReader(r io.Reader) *Reader {
	return newReader(r, &lineCutter{lf: -1})
}

// NewArrayReader returns a reader of the elements of one JSON array. Brackets,
// commas and white space belong to the Raw of the element that follows; the
// closing bracket is an event without Data. A value that is not in an array is
// an element too.
func NewArrayReader(r io.Reader) *Reader {
	return newReader(r, &arrayCutter{from: -1})
}

func newReader(r io.Reader, c cutter) *Reader {
	box := buffers.Get().(*[]byte)
	return &Reader{src: r, cutter: c, limit: MaxEvent, box: box, buf: *box}
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, firstBuffer)
	return &b
}}

// Release gives the reader's buffer back for other readers. Neither the reader
// nor its events may be used after it.
func (r *Reader) Release() {
	if r.box != nil {
		buffers.Put(r.box)
	}
	r.box, r.buf = nil, nil
	r.start, r.end, r.ready = 0, 0, 0
	r.err = errReleased
}

// Next returns the next event as soon as its last byte was read. At the end of
// the input and on a read error it first returns what is left, as an event,
// then the error; that is io.EOF at the end.
func (r *Reader) Next() (Event, error) {
	for !r.Ready() {
		if r.end-r.start >= r.limit {
			return r.cutter.tear(r.consume(r.end - r.start)), nil
		}
		if r.err != nil {
			return r.last()
		}
		r.fill()
	}
	return r.cutter.take(r.consume(r.ready)), nil
}

// Ready tells that a whole event has been read, so that Next will not block.
func (r *Reader) Ready() bool {
	if r.ready == 0 && r.start < r.end {
		r.ready = r.cutter.cut(r.buf[r.start:r.end])
	}
	return r.ready > 0
}

func (r *Reader) consume(n int) []byte {
	raw := r.buf[r.start : r.start+n : r.start+n]
	r.start += n
	r.ready = 0
	return raw
}

func (r *Reader) last() (Event, error) {
	if r.start == r.end {
		return Event{}, r.err
	}
	return r.cutter.rest(r.consume(r.end - r.start)), nil
}

// fill reads once, after making room. Moving the window is paid for by the
// bytes that were consumed before it, growing by doubling.
func (r *Reader) fill() {
	r.makeRoom()
	for range maxIdleReads {
		n, err := r.src.Read(r.buf[r.end:])
		r.end += n
		r.err = err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}

func (r *Reader) makeRoom() {
	switch {
	case r.start == r.end:
		// A buffer that grew for one large event is not kept for the rest of
		// the stream.
		r.start, r.end, r.buf = 0, 0, *r.box
	case r.end < len(r.buf):
	case r.start >= len(r.buf)/2:
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	default:
		grown := make([]byte, 2*len(r.buf))
		r.end = copy(grown, r.buf[r.start:r.end])
		r.start, r.buf = 0, grown
	}
}
