package caddymodule

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// upstream is a request under way to the provider. It goes on when the client
// leaves, for as long as it may take to learn what the request cost.
type upstream struct {
	cancel  context.CancelFunc
	client  <-chan struct{} // closed when the client has left
	unwatch func() bool
	sent    atomic.Bool // the transport has begun to send the body
}

// stop ends the request to the provider and all that watches it.
func (u *upstream) stop() {
	u.unwatch()
	u.cancel()
}

// gone tells whether the client has left.
func (u *upstream) gone() bool {
	select {
	case <-u.client:
		return true
	default:
		return false
	}
}

// send forwards the request and returns the provider's answer, whatever its
// status.
func (c *call) send() (*http.Response, *refusal) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.r.Context()))
	u := &upstream{cancel: cancel, client: c.r.Context().Done()}
	drain := time.Duration(c.app.Drain)
	u.unwatch = context.AfterFunc(c.r.Context(), func() { time.AfterFunc(drain, cancel) })
	c.response.upstream = u

	// Placeholders in the transport's options must not reach the variables of
	// the client's request.
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	c.row.Attempts++
	res, err := c.provider.transport.RoundTrip(c.outgoing(ctx))
	switch {
	case err == nil:
		return res, nil
	case u.gone():
		c.row.Error = "client disconnected"
	default:
		c.row.Status, c.row.Error = refuseUpstream.status, refuseUpstream.text
	}
	return nil, refuseUpstream.because(err)
}

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

func (c *call) newOutgoingBody() io.ReadCloser {
	b := &outgoingBody{sent: &c.response.upstream.sent}
	b.Reset(c.body)
	return b
}

// outgoing builds the provider's request out of the client's.
func (c *call) outgoing(ctx context.Context) *http.Request {
	target := c.provider.target(c.path, c.escaped, c.query)
	out := (&http.Request{
		Method: c.r.Method,
		URL:    target,
		Host:   target.Host,
		Header: outgoingHeader(c.r.Header),
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	c.provider.authorize(out.Header)
	switch {
	case c.streamed && c.r.ContentLength != 0:
		out.Body, out.ContentLength = c.r.Body, c.r.ContentLength
	case len(c.body) > 0:
		out.Body, out.ContentLength = c.newOutgoingBody(), int64(len(c.body))
		out.GetBody = func() (io.ReadCloser, error) { return c.newOutgoingBody(), nil }
	}
	return out
}

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
