package caddymodule

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// accessLog writes the access log's line for requests that carry a credential
// where Caddy does not expect one. Caddy redacts Authorization and cookies,
// but X-Api-Key, X-Goog-Api-Key and ?key= would be written out; and it has
// taken its copy of the request before any handler can hide them. So for such
// requests Caddy's own line is left out and one like it is written here.
type accessLog struct {
	log *zap.Logger // Caddy's logger for access logs, "http.log.access"
}

const redacted = "REDACTED"

// exposed are the headers that Caddy would log with a credential in them.
var exposed = []string{"X-Api-Key", "X-Goog-Api-Key"}

// guard returns the writer to answer with, and what to call when the request
// has been answered. Both are the usual ones unless there is a line to write.
func (a *accessLog) guard(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func()) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Logs == nil || server.Logs.ShouldLogCredentials || !exposesCredential(r) {
		return w, func() {}
	}
	skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool)
	if skip {
		return w, func() {}
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	clean, start := redact(r), time.Now()
	recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
	return recorder, func() {
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
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: recorder.Header()}),
			)
		}
	}
}

func exposesCredential(r *http.Request) bool {
	return slices.ContainsFunc(exposed, func(name string) bool { return len(r.Header[name]) > 0 }) ||
		strings.Contains(r.URL.RawQuery, "key=") && r.URL.Query().Has("key")
}

// redact returns a copy of the request without credentials.
func redact(r *http.Request) *http.Request {
	clean := r.Clone(r.Context())
	for _, name := range exposed {
		if len(clean.Header[name]) > 0 {
			clean.Header.Set(name, redacted)
		}
	}
	if query := r.URL.Query(); query.Has("key") {
		query.Set("key", redacted)
		clean.URL.RawQuery = query.Encode()
		clean.RequestURI = clean.URL.RequestURI()
	}
	return clean
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
