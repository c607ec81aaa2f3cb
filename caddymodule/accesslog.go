package caddymodule

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// AccessLog writes the access log's line for requests that carry a credential
// where Caddy does not expect one. Caddy redacts Authorization and cookies,
// but X-Api-Key, X-Goog-Api-Key and ?key= would be written out, and proxy keys
// that are anywhere else; and it has taken its copy of the request before any
// handler can hide them. So for such requests Caddy's own line is left out and
// one like it is written here.
type AccessLog struct {
	log *zap.Logger // Caddy's logger for access logs, "http.log.access"
}

// NewAccessLog returns the access log of a handler's site.
func NewAccessLog(ctx caddy.Context) AccessLog {
	return AccessLog{ctx.Logger(caddyhttp.App{}).Named("log.access")}
}

// Guard returns the writer to answer a request with, and what to call when it
// has been answered.
func (a AccessLog) Guard(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func()) {
	w, logged := a.guard(w, r)
	return w, func() { logged(nil) }
}

// exposed are the headers that Caddy would log with a credential in them. The
// reply to a rotation, a secret, is sealed under its idempotency key.
var exposed = []string{"X-Api-Key", "X-Goog-Api-Key", "Idempotency-Key"}

// hidden are the headers that Caddy redacts itself.
var hidden = map[string]bool{"Authorization": true, "Cookie": true, "Proxy-Authorization": true, "Set-Cookie": true}

// guard returns the writer to answer with, and what to call when the request
// has been answered, with the call that it was, if any. Both are the usual ones unless there is a line to write.
func (a AccessLog) guard(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func(*call)) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Logs == nil || server.Logs.ShouldLogCredentials || !exposesCredential(r) {
		return w, func(*call) {}
	}
	skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool)
	if skip {
		return w, func(*call) {}
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	clean, start := redact(r), time.Now()
	recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
	return recorder, func(c *call) {
		ours := zap.Skip()
		if c != nil {
			ours = zap.Object(logField, c)
		}
		for _, name := range loggerNames(server.Logs, r) {
			log := a.log
			if name != "" {
				log = log.Named(name)
			}
			log.Info("handled request",
				zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: clean}),
				zap.Duration("duration", time.Since(start)),
				zap.Int("size", recorder.Size()),
				zap.Int("status", recorder.Status()),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: redactHeader(recorder.Header())}),
				ours,
			)
		}
	}
}

func exposesCredential(r *http.Request) bool {
	for name, values := range r.Header {
		if exposesHeader(name, values) {
			return true
		}
	}
	uri := loggedURI(r)
	return hasSecret(r.Host) || hasSecret(r.Method) || redactURI(uri) != uri
}

// loggedURI is the URI before any handler has rewritten it.
func loggedURI(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.RequestURI
	}
	return r.RequestURI
}

func exposesHeader(name string, values []string) bool {
	return slices.Contains(exposed, name) || !hidden[name] && headerHasSecret(name, values)
}

// redact returns a copy of the request without credentials in what is logged.
func redact(r *http.Request) *http.Request {
	clean := r.Clone(r.Context())
	clean.Header = redactHeader(clean.Header)
	clean.RequestURI = redactURI(loggedURI(r))
	clean.Host, clean.Method = redactText(r.Host), redactText(r.Method)
	return clean
}

func redactText(text string) string {
	if hasSecret(text) {
		return redacted
	}
	return text
}

// redactHeader returns a copy of a header without the credentials that Caddy
// would log.
func redactHeader(h http.Header) http.Header {
	clean := h.Clone()
	for name, values := range h {
		switch {
		case strings.Contains(name, secretName):
			delete(clean, name)
			clean[redacted] = []string{redacted}
		case exposesHeader(name, values):
			clean[name] = []string{redacted}
		}
	}
	return clean
}

// redactURI takes the credentials out of a request's URI: segments of the path
// with a proxy key in them, and values of such parameters and of key. Some
// servers separate parameters with a semicolon.
func redactURI(uri string) string {
	path, query, _ := strings.Cut(uri, "?")
	if !hasSecret(uri) && !mayHaveKey(query) {
		return uri
	}
	var b strings.Builder
	for i, segment := range strings.Split(path, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(redactText(segment))
	}
	for rest := uri[len(path):]; rest != ""; {
		end := len(rest)
		if i := strings.IndexAny(rest[1:], "&;"); i >= 0 {
			end = 1 + i
		}
		b.WriteByte(rest[0])
		b.WriteString(redactParameter(rest[1:end]))
		rest = rest[end:]
	}
	return b.String()
}

// mayHaveKey tells cheaply whether a query may have the parameter key.
func mayHaveKey(query string) bool {
	return strings.Contains(query, "key=") || strings.IndexByte(query, '%') >= 0
}

func redactParameter(parameter string) string {
	name, value, _ := strings.Cut(parameter, "=")
	switch {
	case hasSecret(name):
		return redacted
	case value != "" && unescape(name) == "key", hasSecret(value):
		return name + "=" + redacted
	}
	return parameter
}

// loggerNames are the access logs that a request belongs to, as Caddy finds
// them; "" is the default one.
func loggerNames(logs *caddyhttp.ServerLogConfig, r *http.Request) []string {
	if chosen, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		var names []string
		for _, name := range chosen {
			if s, ok := name.(string); ok {
				names = append(names, s)
			}
		}
		return names
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	host = strings.ToLower(host)
	labels := strings.Split(host, ".")
	for i := -1; i < len(labels); i++ {
		if i >= 0 {
			labels[i] = "*"
		}
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	if logs.SkipUnmappedHosts || slices.Contains(logs.SkipHosts, host) {
		return nil
	}
	return []string{logs.DefaultLoggerName}
}
