package sandbox

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// dialect puts one answer on the wire of one endpoint. All methods append.
type dialect interface {
	// whole is the answer as one body.
	whole(dst []byte) []byte
	// begin, then delta for each piece, then end are the answer as a stream.
	begin(dst []byte) []byte
	delta(dst []byte, piece int) []byte
	end(dst []byte) []byte
	// fault is an error inside a stream.
	fault(dst []byte) []byte
	// broken is an event that does not parse.
	broken(dst []byte) []byte
	// streamType is the content type of a stream.
	streamType() string
	// reports tells whether the answer carries its usage.
	reports(stream bool) bool
}

const (
	eventStream = "text/event-stream; charset=utf-8"
	jsonType    = "application/json"
)

// generate answers a question to a generating endpoint.
func (x *exchange) generate(q question, dialectOf func(*answer) dialect) error {
	name, err := x.prepare(q.model, q.stream)
	if err != nil {
		return err
	}
	if name == "" {
		return invalid("you must provide a model parameter")
	}
	a, err := newAnswer(q, &x.script)
	if err != nil {
		return invalid("%v", err)
	}
	a.id, a.created = x.id, time.Now().Unix()
	a.model = appendString(nil, x.entry.ReportedModel)
	x.entry.Tier, x.entry.Speed, x.entry.Region = a.tier, a.speed, a.geo
	d := dialectOf(a)
	x.entry.ID = a.id
	if q.stream {
		x.stream(a, d)
		return nil
	}
	x.entry.Usage = a.usage
	x.out = d.whole(x.out[:0])
	x.deliver(jsonType, x.out, d.reports(false))
	return nil
}

// answerFree answers with a body that costs nothing.
func (x *exchange) answerFree(body []byte) error {
	x.deliver(jsonType, body, false)
	return nil
}

// answerRead answers with a body that cost only what was read.
func (x *exchange) answerRead(body []byte, u metering.Usage) error {
	x.entry.Usage = u
	x.deliver(jsonType, body, x.script.Fail != NoUsage)
	return nil
}

// deliver sends a whole body, or half of it where the script says so.
func (x *exchange) deliver(contentType string, body []byte, reported bool) {
	if err := x.wait(x.script.FirstDelay); err != nil {
		x.record()
		return
	}
	if n := x.script.TotalBytes; n != nil {
		body = append(slices.Clip(body), bytes.Repeat([]byte{' '}, max(0, int(*n)-len(body)))...)
	}
	if x.script.Gzip {
		body = compress(body)
		x.w.Header().Set("Content-Encoding", "gzip")
	}
	if after := x.script.strikesAfter(); after >= 0 {
		x.deliverHalf(contentType, body[:len(body)*min(after, 1)/2])
		return
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.header(contentType, http.StatusOK)
	x.recordComplete(body, reported)
}

func (x *exchange) deliverHalf(contentType string, half []byte) {
	x.header(contentType, http.StatusOK)
	_ = x.send(half) // the answer is partial in any case
	x.breakOff(x.script.Fail)
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	_, _ = gz.Write(body) // a buffer takes everything
	_ = gz.Close()
	return b.Bytes()
}

// stream sends an answer event by event.
func (x *exchange) stream(a *answer, d dialect) {
	x.entry.Usage = a.usageAfter(0)
	if !x.startStream(d) {
		x.record()
		return
	}
	strike := min(x.script.strikesAfter(), a.text.pieces)
	x.out = d.begin(x.out[:0])
	for i := 0; ; i++ {
		if i == strike && x.strikeStream(d) {
			return
		}
		if i == a.text.pieces {
			break
		}
		if i > 0 && x.wait(x.script.Delay) != nil {
			x.record()
			return
		}
		// What begins the stream goes out with its first chunk.
		x.out = d.delta(x.out, i)
		if x.push() != nil {
			x.record()
			return
		}
		x.entry.Usage = a.usageAfter(i + 1)
	}
	x.entry.Usage = a.usage
	x.recordComplete(d.end(x.out), d.reports(true))
}

// startStream sends the headers, at once where something comes between them
// and the first event.
func (x *exchange) startStream(d dialect) bool {
	early := x.script.FirstDelay > 0 && x.script.Fail != SlowHeaders
	if !early && x.wait(x.script.FirstDelay) != nil {
		return false
	}
	if x.script.Gzip {
		x.w.Header().Set("Content-Encoding", "gzip")
		x.gz = gzip.NewWriter(x.w)
	}
	x.w.Header().Set("Cache-Control", "no-cache")
	x.header(d.streamType(), http.StatusOK)
	if !early {
		return true
	}
	return x.rc.Flush() == nil && x.wait(x.script.FirstDelay) == nil
}

// push sends what is rendered; if that is nothing, still the headers.
func (x *exchange) push() error {
	err := x.send(x.out)
	x.out = x.out[:0]
	return err
}

// strikeStream carries out a failure between two chunks, and tells whether it
// ended the stream.
func (x *exchange) strikeStream(d dialect) bool {
	f := x.script.Fail
	switch f {
	case BrokenSSE:
		x.out = d.broken(x.out)
		return false
	case Error:
		x.out = d.fault(x.out)
	}
	_ = x.push() // the answer is partial in any case
	x.breakOff(f)
	if x.gz != nil && f != Reset && f != Stall {
		_ = x.gz.Close()
	}
	return true
}
