package caddymodule

import (
	"bufio"
	"bytes"
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
	upstream *upstream
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
func (c *call) relay(res *http.Response) {
	defer res.Body.Close()
	c.row.Status = res.StatusCode
	c.response.ttfb = c.elapsed()
	copyResponseHeader(c.w.Header(), res.Header)

	if c.endpoint.Billing != metering.Metered || res.StatusCode >= http.StatusMultipleChoices {
		c.relayRaw(res.Body)
		return
	}
	body, decoded, err := decode(res)
	switch {
	case err != nil:
		c.response.failure = err // no meter for it: the usage is estimated
		c.relayRaw(res.Body)
		return
	case decoded:
		c.w.Header().Del("Content-Encoding")
		c.w.Header().Del("Content-Length")
	}
	c.response.meter = c.endpoint.NewMeter(c.request)
	framing := c.endpoint.ResponseFraming(res.Header.Get("Content-Type"))
	if c.row.Streaming && framing != metering.EventStream {
		peeked := bufio.NewReader(body)
		body = peeked
		if startsEvent(peeked) {
			framing = metering.EventStream
		}
	}
	switch framing {
	case metering.EventStream:
		c.startCoverage(framing)
		c.relayEvents(sse.NewReader(body))
	case metering.ArrayStream:
		c.startCoverage(framing)
		c.relayEvents(sse.NewArrayReader(body))
	default:
		c.relayWhole(body)
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

// relayWhole reads a whole body, settles, and only then sends it on.
func (c *call) relayWhole(body io.Reader) {
	buffer := bodies.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= maxPooledBody {
			buffer.Reset()
			bodies.Put(buffer)
		}
	}()
	n, err := buffer.ReadFrom(io.LimitReader(body, maxMeteredBody+1))
	c.response.ended = err == nil && n <= maxMeteredBody
	if !c.response.ended {
		c.response.failure = err
	} else {
		c.response.meter.Read(buffer.Bytes())
	}
	if n > maxMeteredBody {
		c.relayLarge(io.MultiReader(buffer, body))
		return
	}
	c.settle()
	if c.response.ended {
		c.w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	c.w.WriteHeader(c.row.Status)
	_, _ = c.w.Write(buffer.Bytes()) // the client is gone; the row says what it cost
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

const maxPooledBody = 1 << 20

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// relayRaw passes on what is not metered, as it comes.
func (c *call) relayRaw(body io.Reader) {
	c.w.WriteHeader(c.row.Status)
	out := newOutbox(c.w)
	defer out.release()
	buffer := (*out.pending)[:maxPending]
	for {
		n, err := body.Read(buffer)
		*out.pending = buffer[:n]
		out.send()
		if err == nil {
			if out.err != nil && c.endpoint.Billing == metering.Free {
				break // nothing to learn from the rest
			}
			continue
		}
		if c.response.ended = errors.Is(err, io.EOF); !c.response.ended {
			c.response.failure = err
		}
		break
	}
	c.response.delivered = c.response.ended && out.err == nil
	c.settle()
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
