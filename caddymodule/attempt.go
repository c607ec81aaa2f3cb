package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// attempt is one request to the provider. It goes on when the client leaves,
// for as long as it may take to learn what the request cost.
type attempt struct {
	call       *call
	ctx        context.Context //nolint:containedctx // it is the attempt's own, which outlives the call of a method
	cancel     context.CancelCauseFunc
	client     <-chan struct{} // closed when the client has left
	unwatch    func() bool
	target     int         // of the call's
	provider   *Provider   // of the target: the call may turn to another
	payload    []byte      // the body, unless it is an upload
	sent       atomic.Bool // the transport has begun to send the body
	pass       upstream.Pass
	credential upstream.Use
	began      time.Duration // since the request arrived, as all times here
	watchdog   watchdog

	// class is what became of it, and failure why there is no answer, or no
	// whole one of those that are awaited.
	class      upstream.Class
	failure    error
	answer     *http.Response
	body       answerBody // the answer's
	retryAfter time.Duration
	ttfb       time.Duration

	// What follows is of answers that are metered.
	framing metering.Framing
	content io.Reader // the body, decoded
	decoded bool
	// undecodable is why it could not be decoded.
	undecodable error
	// whole is the content of an answer that is not a stream; it is read
	// before any of it is passed on.
	whole *bytes.Buffer
}

func (c *call) newAttempt(pass upstream.Pass) *attempt {
	a := &attempt{
		call: c, target: c.targets.at, provider: c.provider, payload: c.payload(), pass: pass, credential: c.provider.credentials.Pick(),
		began: c.elapsed(), client: c.r.Context().Done(),
	}
	// Placeholders in the transport's options must not reach the variables of
	// the client's request.
	ctx := context.WithValue(context.WithoutCancel(c.r.Context()), caddyhttp.VarsCtxKey, map[string]any{})
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.watchdog.start(a, time.Duration(c.provider.FirstByteTimeout))
	a.unwatch = context.AfterFunc(c.r.Context(), a.watchdog.drain)
	c.response.upstream = a
	return a
}

// open sends the request and waits for the answer: for the first bytes of a
// stream, for the whole of what is metered as a whole, and for the status of
// an error.
func (a *attempt) open() {
	answer, err := a.provider.transport.RoundTrip(a.request()) //nolint:bodyclose // the attempt's close does
	if err != nil {
		a.fail(err)
		return
	}
	a.answer = answer
	a.body.ReadCloser, a.body.attempt = answer.Body, a
	answer.Body = &a.body
	a.ttfb = a.call.elapsed()
	if a.class = upstream.ClassOf(answer.StatusCode); a.class != upstream.OK {
		a.retryAfter = upstream.RetryAfter(answer.Header, a.call.engine.now())
	}
	if a.succeeded() {
		err = a.body.await()
		a.ttfb = a.call.elapsed()
	}
	a.watchdog.waitNot()
	a.watchdog.patience(time.Duration(a.provider.IdleTimeout))
	if a.succeeded() && a.call.endpoint.Billing == metering.Metered {
		err = cmp.Or(err, a.frame())
	}
	if err != nil {
		a.fail(err)
	}
}

// frame finds out how the answer is to be read, and reads it if it is not a
// stream. An answer that cannot be decoded is left alone.
//
// What is broken is framed, too: if the client turns out to have left, the
// answer is accounted for as far as it has come.
func (a *attempt) frame() error {
	if a.content, a.decoded, a.undecodable = decode(a.answer); a.undecodable != nil {
		return nil //nolint:nilerr // it is passed on as it is
	}
	c := a.call
	a.framing = c.endpoint.ResponseFraming(a.answer.Header.Get("Content-Type"))
	if c.row.Streaming && a.framing != metering.EventStream {
		peeked := bufio.NewReader(a.content)
		a.content = peeked
		if startsEvent(peeked) {
			a.framing = metering.EventStream
		}
	}
	if a.framing != metering.Whole {
		return nil
	}
	a.whole = bodies.Get().(*bytes.Buffer)
	_, err := a.whole.ReadFrom(io.LimitReader(a.content, maxMeteredBody+1))
	return err
}

const maxPooledBody = 1 << 20

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// errUpload is why an attempt was given up whose client did not send all of
// its upload.
var errUpload = fmt.Errorf("upload broke off: %w", context.Canceled)

// fail notes why there is no answer. An attempt that was given up because the
// client has left says nothing about the provider.
func (a *attempt) fail(err error) {
	a.failure = a.cause(err)
	switch {
	case errors.Is(a.failure, context.Canceled):
		a.class = upstream.Abandoned
	case isTimeout(a.failure):
		a.class = upstream.TimedOut
	default:
		a.class = upstream.Unreachable
	}
}

// cause is why the request to the provider failed: because it was given up, or
// by itself.
func (a *attempt) cause(err error) error { return cmp.Or(context.Cause(a.ctx), err) }

func isTimeout(err error) bool {
	slow, ok := errors.AsType[net.Error](err)
	return errors.Is(err, errTimedOut) || ok && slow.Timeout()
}

// textOf says in a few fixed words why an attempt failed: errors may tell
// addresses. It is empty for none.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	if _, dialing := errors.AsType[reverseproxy.DialError](err); dialing {
		return "connection failed"
	}
	switch {
	case isTimeout(err):
		return "timed out"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection reset"
	case errors.Is(err, context.Canceled):
		return "client disconnected"
	}
	return "request failed"
}

// gone tells whether the client has left.
func (a *attempt) gone() bool {
	select {
	case <-a.client:
		return true
	default:
		return false
	}
}

// stop ends the request to the provider and all that watches it.
func (a *attempt) stop() {
	a.unwatch()
	a.cancel(nil)
	a.watchdog.timer.Stop()
}

// close lets go of the answer, and of the connection unless it was read to its
// end.
func (a *attempt) close() {
	a.stop()
	if a.answer != nil {
		a.answer.Body.Close()
	}
	if a.whole != nil && a.whole.Cap() <= maxPooledBody {
		a.whole.Reset()
		bodies.Put(a.whole)
	}
	a.whole = nil
}

const (
	// maxDiscarded is how much of an answer that nobody gets is read, for the
	// sake of its connection, and discardTimeout how long that may take.
	maxDiscarded   = 64 << 10
	discardTimeout = 250 * time.Millisecond
)

// discard reads what little is left of an answer that nobody gets, so that its
// connection can be used again, and closes the attempt.
func (a *attempt) discard() {
	if a.answer != nil && a.failure == nil {
		a.watchdog.patience(discardTimeout)
		_, _ = io.CopyN(io.Discard, a.answer.Body, maxDiscarded)
	}
	a.close()
}

// answerBody is the body of an answer. The first of it is read before it is
// decided that this is the answer.
type answerBody struct {
	io.ReadCloser
	attempt *attempt
	buffer  *[]byte // of head; nil when that is read
	head    []byte
	err     error // that came with the head
}

// await reads the first bytes. They have been waited for since the attempt
// began.
func (b *answerBody) await() error {
	b.buffer = copyBuffers.Get().(*[]byte)
	for n := 0; n == 0 && b.err == nil; b.head = (*b.buffer)[:n] {
		n, b.err = b.ReadCloser.Read((*b.buffer)[:maxPending])
	}
	if b.err != nil && !errors.Is(b.err, io.EOF) {
		b.err = b.attempt.cause(b.err)
	}
	if len(b.head) > 0 || errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}

func (b *answerBody) Read(p []byte) (n int, err error) {
	if b.buffer == nil {
		return b.read(p)
	}
	if len(b.head) > 0 {
		n = copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	b.release()
	return b.read(p)
}

// read reads from the provider, under the watchdog's eyes.
func (b *answerBody) read(p []byte) (n int, err error) {
	a := b.attempt
	a.watchdog.waitFrom(a.call.elapsed())
	n, err = b.ReadCloser.Read(p)
	a.watchdog.waitNot()
	if err != nil && !errors.Is(err, io.EOF) {
		err = a.cause(err)
	}
	return n, err
}

func (b *answerBody) Close() error {
	if b.buffer != nil {
		b.release()
		b.err = cmp.Or(b.err, net.ErrClosed)
	}
	return b.ReadCloser.Close()
}

func (b *answerBody) release() {
	copyBuffers.Put(b.buffer)
	b.buffer, b.head = nil, nil
}
