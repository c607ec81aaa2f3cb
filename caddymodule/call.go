package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// call is one proxy request, from the client's headers to the settlement.
type call struct {
	app    *App
	engine *engine
	w      http.ResponseWriter
	r      *http.Request
	began  time.Time          // by the clock that latencies are measured with
	row    billing.Settlement // what will be settled; filled as it becomes known

	unified  bool // the provider is in the model
	targets  targets
	provider *Provider // nil while it is not known
	path     string    // of the provider's API, decoded, without version for OpenAI
	escaped  string    // the same as the client wrote it
	query    string    // without a proxy key
	unclear  bool      // the two forms of the path are not of the same one

	secret   string
	key      *proxyKey
	endpoint metering.Endpoint
	request  metering.Request
	model    string // as the client names it
	body     []byte // nil if the body is streamed
	streamed bool   // the body goes to the provider as it comes

	rule     *metering.Rule       // nil if the request is free or has no price
	unpriced bool                 // it has no price, and goes on by policy
	quotas   []billing.QuotaClaim // taken of limits on requests and tokens
	rated    bool                 // the answer says what is left of them
	hold     *billing.Hold        // nil before it is authorized and after it is settled
	held     billing.Money        // what it reserves or reserved
	response response
	coverage coverage // of a stream by its hold
	abort    bool     // the client's connection is to be broken off
}

// newCall understands what the URL says. It returns nil for a path that is
// not the gateway's.
func (a *App) newCall(w http.ResponseWriter, r *http.Request) (*call, *refusal) {
	name, rest := splitProvider(r.URL.Path)
	provider := a.Providers[name]
	_, isKnown := known[name]
	unified := isUnified(r)
	if unified {
		name = ""
	}
	if provider == nil && !isKnown && !unified {
		if reserved[name] || findSecret(r, nil) == "" {
			return nil, nil
		}
		c := &call{app: a, engine: a.engine, w: w, r: r, began: time.Now()}
		c.row.RequestID = billing.NewID("req", a.engine.now())
		w.Header().Set("X-Request-Id", c.row.RequestID)
		return c, &refuseUnknownProvider
	}
	now := a.engine.now()
	c := &call{app: a, engine: a.engine, w: w, r: r, unified: unified, provider: provider, began: time.Now()}
	c.row = billing.Settlement{
		RequestID:   billing.NewID("req", now),
		At:          now,
		Provider:    name,
		UsageSource: metering.SourceNone,
		ClientIP:    clientIP(r),
		UserAgent:   clean(r.UserAgent(), maxUserAgent),
	}
	w.Header().Set("X-Request-Id", c.row.RequestID)
	c.setPath(rest)
	c.query = removeSecrets(r.URL.RawQuery)
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	if c.protocol() == metering.Gemini && query.Has("key") {
		c.query = removeParameter(c.query, "key")
	} else {
		query.Del("key")
	}
	c.secret = findSecret(r, query)
	c.classify(query)
	return c, nil
}

// elapsed is how long ago the request arrived.
func (c *call) elapsed() time.Duration { return time.Since(c.began) }

// setPath takes the provider's name off both forms of the path. A slash or a
// version that is escaped in one of them would make it two paths: one that is
// checked here, and one that is sent.
func (c *call) setPath(rest string) {
	name, _ := splitProvider(c.r.URL.Path)
	escapedName, escaped := splitProvider(c.r.URL.EscapedPath())
	c.path, c.escaped = rest, escaped
	if c.protocol() == metering.OpenAI {
		c.path, c.escaped = trimVersion(c.path), trimVersion(c.escaped)
	}
	decoded, err := url.PathUnescape(c.escaped)
	c.unclear = escapedName != name || err != nil || decoded != c.path
}

// classify finds the endpoint. That something besides reading is free is true
// of the provider whose API the endpoint is of; another one that speaks its
// protocol may charge for it.
func (c *call) classify(query url.Values) {
	c.endpoint = metering.Classify(c.protocol(), c.r.Method, c.escaped, query)
	if c.endpoint.Billing == metering.Free && !metering.IsReading(c.r.Method) && c.provider != nil && !c.provider.isOriginal() {
		c.endpoint.Billing = metering.Unpriced
	}
	c.row.Endpoint = c.endpoint.Name
	c.setModel(c.endpoint.Model)
}

// free tells whether the request costs nothing, by itself or because the
// operator says so.
func (c *call) free() bool {
	switch c.endpoint.Billing {
	case metering.Free:
		return true
	case metering.Unpriced:
		return c.provider.free(c.path)
	}
	return false
}

// Limits in bytes on texts from outside that are stored.
const (
	maxUserAgent = 512
	maxModel     = 256
	maxTier      = 32
)

func (c *call) protocol() metering.Protocol {
	if c.provider != nil {
		return c.provider.Protocol
	}
	if c.unified {
		return metering.OpenAI
	}
	return known[c.row.Provider].protocol
}

// authenticate finds the key and checks what does not need the body.
func (c *call) authenticate() *refusal {
	if c.secret == "" {
		return &refuseMissingKey
	}
	if !billing.IsSecret(c.secret) {
		return &refuseInvalidKey
	}
	key, err := c.engine.keys.find(c.r.Context(), c.secret, c.row.At)
	if errors.Is(err, billing.ErrNotFound) {
		return &refuseInvalidKey
	}
	if err != nil {
		return refuseLedger.because(err)
	}
	c.key = key
	c.row.OrganizationID, c.row.KeyID, c.row.KeyName, c.row.Project = key.OrganizationID, key.ID, key.Name, key.Project
	switch status := key.Status(c.row.At); {
	case status == billing.KeyRevoked:
		return &refuseRevokedKey
	case status == billing.KeyExpired:
		return &refuseExpiredKey
	case !key.allowsIP(c.row.ClientIP):
		return &refuseIP
	case c.unified: // see resolve
	case c.provider == nil || !c.provider.configured():
		return &refuseNotConfigured
	case !key.allowsProvider(c.provider.name):
		return &refuseProvider
	}
	if c.unclear || hasDotSegment(c.path) || hasSecret(c.escaped) {
		return &refuseInvalidPath
	}
	return nil
}

// read takes in the body, unless it is an upload, and what it says about the
// request's cost.
func (c *call) read() *refusal {
	if c.model != "" { // a model in the path need not wait for a body
		if refused := c.allow(); refused != nil {
			return refused
		}
	}
	if c.streamed = c.endpoint.Billing != metering.Metered && !isJSON(c.r.Header); c.streamed {
		return c.allow()
	}
	body, err := readBody(c.r, c.app.MaxBody)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &refuseLargeBody
	case err != nil:
		return refuseInvalidBody.because(err)
	}
	// The body has arrived: a client that now waits silently for a slow model
	// must not run into the server's deadline for reading.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	c.body = body
	if len(body) > 0 || c.endpoint.Billing == metering.Metered {
		if c.request, err = c.endpoint.ReadRequest(body); err != nil {
			return refuseInvalidBody.because(err)
		}
	}
	c.row.Streaming = c.request.Stream || c.endpoint.Streams
	if c.request.Model != "" {
		c.setModel(c.request.Model)
	}
	if c.request.HidesUsage {
		c.body = metering.AskUsage(c.body)
	}
	return c.allow()
}

func (c *call) setModel(model string) {
	c.model, c.row.Model = model, clean(model, maxModel)
}

// allow checks the model against the key. A key that is limited to some
// models opens nothing that may cost money without naming one.
func (c *call) allow() *refusal {
	if c.unified {
		return c.resolve()
	}
	if len(c.key.AllowedModels) == 0 || (c.model == "" && c.free()) {
		return nil
	}
	names := []string{c.model}
	if c.model != "" {
		names = append(names, c.provider.name+"/"+c.model)
	}
	if !c.key.allowsModel(names...) {
		return &refuseModel
	}
	return nil
}

// splitProvider cuts "/openai/v1/models" into "openai" and "/v1/models".
func splitProvider(path string) (name, rest string) {
	name, _, found := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !found {
		return name, ""
	}
	return name, path[1+len(name):]
}

// trimVersion drops the /v1 that OpenAI's base URL already ends in.
func trimVersion(path string) string {
	if rest, ok := strings.CutPrefix(path, "/v1"); ok && (rest == "" || rest[0] == '/') {
		return rest
	}
	return path
}

// hasDotSegment finds paths that a provider may resolve to another endpoint
// than the one that was checked here.
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return strings.Contains(path, "//")
}

func isJSON(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	mediaType = strings.TrimSpace(mediaType)
	return mediaType == "" || strings.EqualFold(mediaType, "application/json")
}

// readBody reads a whole body of at most limit bytes.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	reader := http.MaxBytesReader(nil, r.Body, limit)
	if r.ContentLength < 0 {
		return io.ReadAll(reader)
	}
	// A claimed length is not yet worth the memory: large ones grow as they
	// arrive.
	const trusted = 1 << 20
	if r.ContentLength <= trusted {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(reader, body)
		return body, err
	}
	var b bytes.Buffer
	b.Grow(trusted)
	_, err := b.ReadFrom(reader)
	return b.Bytes(), err
}

func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// clean makes a text from outside fit to be stored: valid UTF-8 of at most
// limit bytes without control characters, which no database need accept, and
// without a proxy key.
func clean(s string, limit int) string {
	if hasSecret(s) {
		return redacted
	}
	if len(s) <= limit && !strings.ContainsFunc(s, unfit) {
		return s
	}
	s = strings.ToValidUTF8(s[:min(len(s), limit)], "")
	return strings.Map(func(c rune) rune {
		if unfit(c) {
			return -1
		}
		return c
	}, s)
}

func unfit(c rune) bool { return unicode.IsControl(c) || c == utf8.RuneError }
