package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/internal/sse"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// maxMeteredBody is the largest body that is read whole before it is sent on.
// A larger one is passed through and its usage estimated.
const maxMeteredBody = 128 << 20

// response is what has become of the provider's answer.
type response struct {
	upstream *attempt       // the last one; nil before the first
	meter    metering.Meter // nil where there is nothing to read
	ttfb     time.Duration
	// ended tells that the provider's answer was read to its end.
	ended bool
	// delivered tells that the client has got all of it before it was settled.
	delivered bool
	// torn tells that it ended in the middle of an event.
	torn bool
	// drained tells that the client left before the provider's last word.
	drained bool
	// failure is what cut the answer short.
	failure error
	// settledText is how much text had come when it was settled.
	settledText int64
	// journaled is the usage in the last progress record.
	journaled metering.Usage
}

// relay passes the provider's answer on to the client, and meters it on the
// way. The settlement is journaled before the bytes that tell the usage go
// out, so that a complete answer is always a paid one.
func (c *call) relay() {
	a := c.response.upstream
	c.row.Status = a.answer.StatusCode
	c.response.ttfb = a.ttfb
	copyResponseHeader(c.w.Header(), a.answer.Header)

	if c.endpoint.Billing != metering.Metered || !a.succeeded() {
		c.relayRaw(a.answer)
		return
	}
	switch {
	case a.undecodable != nil:
		c.response.failure = a.undecodable // no meter for it: the usage is estimated
		c.relayRaw(a.answer)
		return
	case a.decoded:
		c.w.Header().Del("Content-Encoding")
		c.w.Header().Del("Content-Length")
	}
	c.response.meter = c.endpoint.NewMeter(c.request)
	switch a.framing {
	case metering.EventStream:
		c.startCoverage(a.framing)
		c.relayEvents(sse.NewReader(a.content))
	case metering.ArrayStream:
		c.startCoverage(a.framing)
		c.relayEvents(sse.NewArrayReader(a.content))
	default:
		c.relayWhole(a)
	}
}

// eventStarts are what the first line of an event stream can start with, and
// no JSON value does.
var eventStarts = []string{":", "data:", "event:", "id:", "retry:"}

// startsEvent tells whether a body is an event stream whatever its content
// type says. It waits for no more bytes than it takes to tell.
func startsEvent(body *bufio.Reader) bool {
	first, _ := body.Peek(1) // an error comes again when the body is read
	for _, start := range eventStarts {
		if string(first) != start[:1] {
			continue
		}
		head, _ := body.Peek(len(start))
		return string(head) == start
	}
	return false
}

// relayEvents passes a stream on, event by event. Events that arrive together
// are flushed together: none waits for another that is not there yet.
func (c *call) relayEvents(events *sse.Reader) {
	defer events.Release()
	c.row.Streaming = true
	c.w.Header().Del("Content-Length")
	c.w.WriteHeader(c.row.Status)
	out := newOutbox(c.w)
	defer out.release()
	for first := true; ; first = false {
		event, err := events.Next()
		if err != nil {
			c.response.ended = errors.Is(err, io.EOF)
			if !c.response.ended {
				c.response.failure = err
			}
			break
		}
		if first {
			c.response.ttfb = c.elapsed()
		}
		visible, covered := c.meterEvent(event)
		if visible {
			out.add(event.Raw)
		}
		if !covered && !c.cover(out) {
			c.cutStream(out, event.Data)
			return
		}
		if !events.Ready() {
			out.send()
		}
	}
	// The end of the response is the last word of a stream that has none of
	// its own.
	c.response.delivered = c.response.ended && out.err == nil
	c.settle()
	c.noteUncharged()
	c.endResponse()
}

// noteUncharged counts a provider whose last word on usage was followed by
// more text: it was settled by then, and that text is not in it.
func (c *call) noteUncharged() {
	reading := c.response.meter.Reading()
	if c.response.settledText < reading.TextBytes && c.rule != nil {
		mismatchesTotal.WithLabelValues(c.row.Provider).Inc()
		c.app.requestLog.Warn("text after the provider's last word on usage is not charged",
			zap.String("request_id", c.row.RequestID), zap.Int64("bytes", reading.TextBytes-c.response.settledText))
	}
}

// meterEvent reads an event and journals what it says about the cost. It
// reports whether the client gets to see the event, and whether the hold
// surely covers the stream with one more.
func (c *call) meterEvent(event sse.Event) (visible, covered bool) {
	meter := c.response.meter
	c.response.torn = event.Incomplete
	if len(event.Data) > 0 {
		meter.Read(event.Data)
	}
	if len(event.Bare) > 0 {
		meter.Read(event.Bare)
	}
	switch reading := meter.Reading(); {
	case reading.Final:
		c.settle()
		// The event that the client did not ask for is the last word itself.
		return !c.request.HidesUsage || !metering.IsUsageEvent(event.Data), true
	case reading.Closing:
		c.coverage.see(event.Data)
		c.progress(reading)
		return true, true
	case event.Incomplete:
		return true, true // no place to end at
	default:
		return true, c.follow(event.Data, &reading)
	}
}

// relayWhole settles a body that was read whole, and only then sends it on.
func (c *call) relayWhole(a *attempt) {
	if a.whole.Len() > maxMeteredBody {
		c.relayLarge(io.MultiReader(a.whole, a.content))
		return
	}
	c.response.failure = a.failure
	if c.response.ended = a.failure == nil; c.response.ended {
		c.response.meter.Read(a.whole.Bytes())
		c.w.Header().Set("Content-Length", strconv.Itoa(a.whole.Len()))
	}
	c.settle()
	c.w.WriteHeader(c.row.Status)
	_, _ = c.w.Write(a.whole.Bytes()) // the client is gone; the row says what it cost
	c.endResponse()
}

// relayLarge passes on a body that is too large to be metered. What it cost is
// estimated before any of it goes out: it has told nothing by then.
func (c *call) relayLarge(body io.Reader) {
	c.response.failure = fmt.Errorf("response of more than %d bytes", maxMeteredBody)
	c.response.meter = nil // it has not read anything
	c.settle()
	c.w.WriteHeader(c.row.Status)
	_, err := io.Copy(c.w, body)
	c.response.ended = err == nil
	c.endResponse()
}

// relayRaw passes on what is not metered, as it comes. It is settled before the
// last of it goes out, so that who has it finds it in the books.
func (c *call) relayRaw(answer *http.Response) {
	body, left := answer.Body, answer.ContentLength // -1 where nobody knows
	c.w.WriteHeader(c.row.Status)
	out := newOutbox(c.w)
	defer out.release()
	buffer := (*out.pending)[:maxPending]
	for over := false; !over; out.send() {
		n, err := body.Read(buffer)
		*out.pending = buffer[:n]
		left -= int64(n)
		switch {
		case errors.Is(err, io.EOF), left == 0:
			over, c.response.ended = true, true
		case err != nil:
			over, c.response.failure = true, err
		case out.err != nil && c.endpoint.Billing == metering.Free:
			over = true // nothing to learn from the rest
		}
		if over {
			c.settle()
		}
	}
	c.endResponse()
}

// endResponse tells the client by its connection when the provider's answer
// broke off, as the provider did.
func (c *call) endResponse() {
	if !c.response.ended && !c.response.upstream.gone() {
		c.abort = true
	}
}

// outbox sends to a client until that fails, and from then on nowhere. What
// is added between two sends goes out in one write.
type outbox struct {
	w       http.ResponseWriter
	control *http.ResponseController
	pending *[]byte
	err     error
}

// maxPending is how much is gathered at most: what a provider sends in one
// piece is rarely more.
const maxPending = 32 << 10

func newOutbox(w http.ResponseWriter) *outbox {
	return &outbox{w: w, control: http.NewResponseController(w), pending: copyBuffers.Get().(*[]byte)}
}

// release gives the outbox's memory back; it is not used after that.
func (o *outbox) release() {
	*o.pending = (*o.pending)[:0]
	copyBuffers.Put(o.pending)
}

func (o *outbox) add(b []byte) {
	if len(*o.pending)+len(b) <= maxPending {
		*o.pending = append(*o.pending, b...)
		return
	}
	o.write(*o.pending)
	*o.pending = (*o.pending)[:0]
	o.write(b)
}

func (o *outbox) write(b []byte) {
	if o.err == nil && len(b) > 0 {
		_, o.err = o.w.Write(b)
	}
}

// send passes on all that was added, now.
func (o *outbox) send() {
	o.write(*o.pending)
	*o.pending = (*o.pending)[:0]
	if o.err == nil {
		o.err = o.control.Flush()
	}
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, maxPending); return &b }}

// decode undoes a content encoding that the provider used without being
// asked to.
func decode(res *http.Response) (body io.Reader, decoded bool, err error) {
	switch encoding := strings.ToLower(res.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return res.Body, res.Uncompressed, nil
	case "gzip", "x-gzip":
		body, err = gzip.NewReader(res.Body)
	case "deflate":
		body = flate.NewReader(res.Body)
	case "zstd":
		body, err = zstd.NewReader(res.Body, zstd.WithDecoderConcurrency(1))
	default:
		return nil, false, fmt.Errorf("response has content encoding %q, which the gateway cannot read", encoding)
	}
	return body, true, err
}
