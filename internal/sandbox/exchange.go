package sandbox

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// maxBody is the largest request body that is read into memory.
const maxBody = 128 << 20

// exchange is one request and its answer.
type exchange struct {
	p  *Provider
	w  http.ResponseWriter
	rc *http.ResponseController
	r  *http.Request
	// id is this exchange's; ids of answers are made of it.
	id     string
	script Script
	// entry becomes the record.
	entry *entry
	gz    *gzip.Writer
	*buffers
}

// buffers are reused from exchange to exchange.
type buffers struct {
	body bytes.Buffer
	out  []byte
}

// maxPooled is the size up to which buffers are worth keeping.
const maxPooled = 1 << 20

var pool = sync.Pool{New: func() any { return &buffers{out: make([]byte, 0, 4<<10)} }}

func (p *Provider) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{
		p: p, w: w, rc: http.NewResponseController(w), r: r,
		id: p.newID(), entry: &entry{}, buffers: pool.Get().(*buffers),
	}
	x.entry.ID, x.entry.Started = x.id, time.Now()
	return x
}

func (x *exchange) release() {
	b := x.buffers
	x.buffers = nil
	if b.body.Cap()+cap(b.out) > maxPooled {
		return
	}
	b.body.Reset()
	b.out = b.out[:0]
	pool.Put(b)
}

// readJSON reads the request's body into v.
func (x *exchange) readJSON(v any) error {
	n, err := x.body.ReadFrom(io.LimitReader(x.r.Body, maxBody+1))
	if err != nil {
		return &refusal{status: http.StatusBadRequest, message: "reading the request: " + err.Error()}
	}
	if n > maxBody {
		return &refusal{status: http.StatusRequestEntityTooLarge, message: "The request is too large."}
	}
	if err := json.Unmarshal(x.body.Bytes(), v); err != nil {
		return invalid("We could not parse the JSON body of your request: %v", err)
	}
	return nil
}

// prepare reads the script of a request for the model, and fails where the
// script wants no answer at all. It returns the model's own name.
func (x *exchange) prepare(model string, stream bool) (string, error) {
	e := x.entry
	e.Model, e.Stream = model, stream
	s, name, err := ParseScript(x.r.Header, model)
	if err == nil {
		err = s.fits(x.entry.Protocol, x.entry.Endpoint, stream)
	}
	if err != nil {
		return "", invalid("%v", err)
	}
	e.ReportedModel, e.ScriptID = snapshot(name), s.ID
	if s.FailTimes > 0 && x.p.ledger.attempt(s.ID) > s.FailTimes {
		s.Fail, s.FailAfter, s.Status, s.RetryAfter = "", nil, 0, 0
	}
	s.fillIn()
	x.script = s
	return name, x.strike()
}

// errStruck is returned when a scripted failure took the place of an answer.
var errStruck = errors.New("failed as scripted")

// strike carries out the failures that come before any answer.
func (x *exchange) strike() error {
	s := &x.script
	if s.Fail == HTML {
		return x.page()
	}
	switch {
	case s.Status != 0:
		return scripted(int(s.Status), s.RetryAfter)
	case s.strikesBeforeHeaders():
		x.entry.Failed = true
		x.breakOff(s.Fail)
		return errStruck
	case s.Fail == Error && !x.entry.Stream:
		return scripted(http.StatusInternalServerError, 0)
	case s.Fail == Empty:
		x.entry.Failed = true
		x.record()
		x.header("application/json", http.StatusOK)
		return errStruck
	}
	return nil
}

// page answers the HTML of a proxy that knows nothing of JSON.
func (x *exchange) page() error {
	const page = "<!DOCTYPE html>\n<html><head><title>Gateway</title></head><body><h1>It will be back soon</h1></body></html>\n"
	x.entry.Failed = true
	x.record()
	x.header("text/html; charset=utf-8", int(max(x.script.Status, http.StatusOK)))
	_ = x.send([]byte(page)) // nothing to correct: it is a failure already
	return errStruck
}

// fail answers an error in the protocol's own shape.
func (x *exchange) fail(err error) {
	if errors.Is(err, errStruck) {
		return
	}
	var e *refusal
	if !errors.As(err, &e) {
		e = &refusal{status: http.StatusInternalServerError, message: err.Error()}
	}
	body := e.body(x.entry.Protocol, "req_"+x.id)
	if x.entry.Endpoint == "streamGenerateContent" && x.r.URL.Query().Get("alt") != "sse" {
		body = append(append([]byte{'['}, body...), ']')
	}
	if e.retryAfter > 0 {
		x.w.Header().Set("Retry-After", strconv.FormatInt(e.retryAfter, 10))
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	x.entry.Failed = true
	x.record()
	x.header("application/json", e.status)
	_ = x.send(body) // nothing to correct: it is a failure already
}

// header sets what all answers carry, and the status.
func (x *exchange) header(contentType string, status int) {
	h := x.w.Header()
	h.Set("Content-Type", contentType)
	switch x.entry.Protocol {
	case metering.Anthropic:
		h.Set("Request-Id", "req_"+x.id)
	case metering.OpenAI:
		h.Set("X-Request-Id", "req_"+x.id)
		h.Set("Openai-Version", "2020-10-01")
	}
	x.entry.Status = status
	x.w.WriteHeader(status)
}

// send writes bytes and sees them off.
func (x *exchange) send(b []byte) error {
	var err error
	if x.gz != nil {
		if _, err = x.gz.Write(b); err == nil {
			err = x.gz.Flush()
		}
	} else {
		_, err = x.w.Write(b)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return x.rc.Flush()
}

// record puts the answer on the books.
func (x *exchange) record() {
	x.p.ledger.add(x.entry)
}

// recordComplete puts a complete answer on the books and writes its last
// bytes; if they cannot be written, the answer was partial after all.
func (x *exchange) recordComplete(last []byte, reported bool) {
	x.entry.Complete, x.entry.UsageReported = true, reported
	x.record()
	err := x.send(last)
	if err == nil && x.gz != nil {
		err = x.gz.Close()
	}
	if err != nil {
		x.p.ledger.revise(x.entry, func(s *Served) { s.Complete, s.UsageReported = false, false })
	}
}

// breakOff ends the exchange as the failure says, and records it first.
func (x *exchange) breakOff(f Failure) {
	x.record()
	switch f {
	case Reset:
		x.reset()
	case Stall:
		<-x.r.Context().Done()
		x.p.ledger.revise(x.entry, func(*Served) {})
	}
}

// reset cuts the connection so that the peer sees a reset, where the server
// lets go of the connection (HTTP/1); else it aborts the stream.
func (x *exchange) reset() {
	conn, _, err := x.rc.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	inner := conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		inner = wrapped.NetConn()
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the close below then resets
	}
	_ = inner.Close()
}

// wait pauses, or fails if the client goes away before.
func (x *exchange) wait(d time.Duration) error {
	if d <= 0 {
		return x.r.Context().Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-x.r.Context().Done():
		return x.r.Context().Err()
	}
}
