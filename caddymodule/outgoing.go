package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
)

// outgoingBody is a buffered request body. It notes when the transport takes
// the first of it: before that, nothing of the request has left the gateway.
type outgoingBody struct {
	bytes.Reader
	sent *atomic.Bool
}

func (b *outgoingBody) Read(p []byte) (int, error) {
	b.sent.Store(true)
	return b.Reader.Read(p)
}

func (b *outgoingBody) WriteTo(w io.Writer) (int64, error) {
	b.sent.Store(true)
	return b.Reader.WriteTo(w)
}

func (b *outgoingBody) Close() error { return nil }

// upload is a request body that goes to the provider as the client sends it.
// Neither a client that takes its time nor one that leaves in the middle is the
// provider's fault.
type upload struct {
	io.ReadCloser
	attempt *attempt
	closed  atomic.Bool
}

// Close ends the reading, and leaves the client's body open, of which there may
// be more: net/http takes what follows one that was closed for the next request.
func (u *upload) Close() error {
	u.closed.Store(true)
	return nil
}

func (u *upload) Read(p []byte) (int, error) {
	if u.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	a := u.attempt
	a.sent.Store(true)
	a.watchdog.waitNot()
	n, err := u.ReadCloser.Read(p)
	a.watchdog.waitFrom(a.call.elapsed())
	if err != nil && !errors.Is(err, io.EOF) {
		a.sent.Store(false) // not what anybody would charge for
		a.cancel(errUpload)
	}
	return n, err
}

func (a *attempt) newBody() io.ReadCloser {
	b := &outgoingBody{sent: &a.sent}
	b.Reset(a.payload)
	return b
}

// request builds the provider's request out of the client's.
func (a *attempt) request() *http.Request {
	c := a.call
	target := c.provider.target(c.path, c.escaped, c.query)
	out := (&http.Request{
		Method: c.r.Method,
		URL:    target,
		Host:   target.Host,
		Header: outgoingHeader(c.r.Header),
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(a.ctx)
	c.provider.authorize(out.Header, a.credential.Secret)
	switch {
	case c.uploading():
		out.Body, out.ContentLength = &upload{ReadCloser: c.r.Body, attempt: a}, c.r.ContentLength
	case len(a.payload) > 0:
		out.Body, out.ContentLength = a.newBody(), int64(len(a.payload))
		out.GetBody = func() (io.ReadCloser, error) { return a.newBody(), nil }
	}
	return out
}

// uploading tells whether the client's body goes to the provider as it comes:
// once only.
func (c *call) uploading() bool { return c.streamed && c.r.ContentLength != 0 }

// private are request headers that end at the gateway: credentials, what
// belongs to the client's connection, and what would make a provider's front
// end treat the request as another one than the gateway has checked.
var private = map[string]bool{
	"Authorization":          true,
	"X-Api-Key":              true,
	"X-Goog-Api-Key":         true,
	"Cookie":                 true,
	"Host":                   true,
	"Accept-Encoding":        true, // the transport asks for what it can decode
	"Content-Length":         true,
	"Expect":                 true,
	"X-Goog-Fieldmask":       true, // would leave the usage out of the answer
	"X-Http-Method":          true,
	"X-Http-Method-Override": true,
	"X-Method-Override":      true,
}

// hopByHop are headers that concern one connection only.
var hopByHop = map[string]bool{
	"Connection":          true,
	"Keep-Alive":          true,
	"Proxy-Authenticate":  true,
	"Proxy-Authorization": true,
	"Proxy-Connection":    true,
	"Te":                  true,
	"Trailer":             true,
	"Transfer-Encoding":   true,
	"Upgrade":             true,
}

func outgoingHeader(in http.Header) http.Header {
	out := make(http.Header, len(in)+1)
	dropped := connectionOptions(in)
	for name, values := range in {
		if !private[name] && !hopByHop[name] && !dropped[name] && !headerHasSecret(name, values) {
			out[name] = values
		}
	}
	if _, set := out["User-Agent"]; !set {
		out["User-Agent"] = nil // or Go would add its own
	}
	return out
}

// connectionOptions are the headers that Connection names as hop-by-hop.
func connectionOptions(h http.Header) map[string]bool {
	values := h["Connection"]
	if len(values) == 0 {
		return nil
	}
	names := make(map[string]bool)
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			names[textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))] = true
		}
	}
	return names
}

// incomingPrivate are response headers that are between the gateway and the
// provider.
var incomingPrivate = map[string]bool{
	"Alt-Svc":      true, // names the provider's host, not the gateway
	"Set-Cookie":   true, // a session of the gateway's credential
	"X-Request-Id": true, // the gateway's own; see providerRequestID
}

// providerRequestID is where a client finds the provider's X-Request-Id.
const providerRequestID = "X-Provider-Request-Id"

// own are response headers that tell of the gateway where it has set them,
// and else of the provider.
var own = map[string]bool{
	"X-Ratelimit-Limit":            true,
	"X-Ratelimit-Remaining":        true,
	"X-Ratelimit-Reset":            true,
	"X-Ratelimit-Org-Limit":        true,
	"X-Ratelimit-Org-Remaining":    true,
	"X-Ratelimit-Tokens-Limit":     true,
	"X-Ratelimit-Tokens-Remaining": true,
	"X-Budget-Warning":             true,
}

// ownPrefix starts the names of headers that only ever tell of the gateway.
const ownPrefix = "X-Gateway-"

func copyResponseHeader(to, from http.Header) {
	dropped := connectionOptions(from)
	for name, values := range from {
		if incomingPrivate[name] || hopByHop[name] || dropped[name] || strings.HasPrefix(name, ownPrefix) {
			continue
		}
		if _, set := to[name]; !set || !own[name] {
			to[name] = values
		}
	}
	if id := from.Get("X-Request-Id"); id != "" {
		to.Set(providerRequestID, id)
	}
}
