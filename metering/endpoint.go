package metering

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// unknown is the endpoint of a route that is not known.
const unknown = "other"

// Classify finds the endpoint of a request. The path is the one sent to the
// provider without its base URL: "/chat/completions" for OpenAI,
// "/v1/messages" for Anthropic, "/v1beta/models/M:generateContent" for
// Gemini; it may be escaped.
//
// What is not known to be free or metered is Unpriced. That holds for every
// path that a server could take for another one than it looks like ("//",
// "..", double escapes), whatever the method.
func Classify(p Protocol, method, path string, query url.Values) Endpoint {
	path, ok := cleanPath(path)
	if !ok {
		return Endpoint{Name: unknown}
	}
	switch p {
	case OpenAI:
		return classifyOpenAI(method, path)
	case Anthropic:
		return classifyAnthropic(method, path)
	case Gemini:
		return classifyGemini(method, path, query)
	}
	return Endpoint{Name: unknown}
}

// ResponseFraming is how a response of the endpoint is framed: its content
// type decides, since a provider may answer a stream request with a plain
// body, an error for example, and a compatible server the other way round.
// Only the start of the content type is looked at, since its parameters need
// not be well-formed.
func (e Endpoint) ResponseFraming(contentType string) Framing {
	const events = "text/event-stream"
	contentType = strings.TrimSpace(contentType)
	switch {
	case len(contentType) >= len(events) && strings.EqualFold(contentType[:len(events)], events):
		return EventStream
	case e.Framing == ArrayStream:
		return ArrayStream
	}
	return Whole
}

// cleanPath unescapes a path and removes its slash in front. It is not ok if
// servers may disagree on what the path means.
func cleanPath(escaped string) (clean string, ok bool) {
	clean = escaped
	if strings.Contains(escaped, "%") {
		var err error
		if clean, err = url.PathUnescape(escaped); err != nil {
			return "", false
		}
	}
	clean, rooted := strings.CutPrefix(clean, "/")
	if !rooted || strings.ContainsFunc(clean, isAmbiguous) {
		return "", false
	}
	// A trailing slash is ambiguous too: path.Clean would remove it.
	return clean, clean == "" || path.Clean("/"+clean) == "/"+clean
}

func isAmbiguous(r rune) bool {
	return r <= ' ' || r >= 0x7F || strings.ContainsRune(`%\;?#`, r)
}

// IsReading tells that a method reads, lists or deletes: at every provider,
// what it does costs nothing unless the path opens a socket.
func IsReading(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete:
		return true
	}
	return false
}

// reading is the endpoint of a GET, HEAD, OPTIONS or DELETE request: free,
// and named after the collection if that is known.
func reading(path string, collections []string) Endpoint {
	first, _, _ := strings.Cut(path, "/")
	if !slices.Contains(collections, first) {
		first = unknown
	}
	return Endpoint{Name: first, Billing: Free}
}

// opensSocket tells if reading the path could open a WebSocket, whose usage
// no meter sees.
func opensSocket(path string) bool {
	for segment := range strings.SplitSeq(strings.ToLower(path), "/") {
		if segment == "realtime" || segment == "ws" || strings.Contains(segment, "bidi") {
			return true
		}
	}
	return false
}

// a pattern is a path in which * stands for one segment, and /... at its end
// for everything below.
type pattern struct{ path, name string }

func find(patterns []pattern, route string) (name string, ok bool) {
	for _, p := range patterns {
		if p.matches(route) {
			return p.name, true
		}
	}
	return "", false
}

func (p pattern) matches(route string) bool {
	if top, ok := strings.CutSuffix(p.path, "/..."); ok {
		return route == top || strings.HasPrefix(route, top+"/")
	}
	ok, err := path.Match(p.path, route)
	return ok && err == nil
}

var openAIMetered = map[string]Endpoint{
	"chat/completions":  {Name: "chat/completions", Billing: Metered, meter: newChatMeter, read: readChat},
	"completions":       {Name: "completions", Billing: Metered, meter: newCompletionMeter, read: readChat},
	"embeddings":        {Name: "embeddings", Billing: Metered, meter: newEmbeddingsMeter, read: readModel},
	"responses":         {Name: "responses", Billing: Metered, meter: newResponsesMeter, read: readResponses},
	"responses/compact": {Name: "responses/compact", Billing: Metered, meter: newResponsesMeter, read: readResponses},
}

// openAICounting are free and have a body that names a model.
var openAICounting = map[string]Endpoint{
	"moderations":            {Name: "moderations", Billing: Free, read: readModel},
	"responses/input_tokens": {Name: "responses/input_tokens", Billing: Free, read: readModel},
}

// openAIFree are routes that store, cancel or configure. What they store may
// be billed by the month, but no request is.
var openAIFree = []pattern{
	{"chat/completions/*", "chat/completions"},
	{"responses/*/cancel", "responses"},
	{"files/...", "files"},
	{"uploads/...", "uploads"},
	{"vector_stores/...", "vector_stores"},
	{"conversations/...", "conversations"},
	{"prompts/...", "prompts"},
	{"batches/*/cancel", "batches"},
	{"fine_tuning/jobs/*/cancel", "fine_tuning"},
	{"fine_tuning/jobs/*/pause", "fine_tuning"},
}

var openAICollections = []string{
	"assistants", "audio", "batches", "chat", "containers", "conversations", "evals", "files", "fine_tuning",
	"images", "models", "prompts", "realtime", "responses", "threads", "uploads", "vector_stores", "videos",
}

func classifyOpenAI(method, path string) Endpoint {
	if IsReading(method) {
		// Reading "responses" itself is not a listing: it opens a WebSocket.
		if opensSocket(path) || path == "responses" && method == http.MethodGet {
			return Endpoint{Name: "realtime"}
		}
		return reading(path, openAICollections)
	}
	if method == http.MethodPost {
		if e, ok := openAIMetered[path]; ok {
			return e
		}
		if e, ok := openAICounting[path]; ok {
			return e
		}
		if name, ok := find(openAIFree, path); ok {
			return Endpoint{Name: name, Billing: Free}
		}
	}
	name := reading(path, openAICollections).Name
	return Endpoint{Name: name, read: readModel}
}

var anthropicFree = []pattern{
	{"v1/messages/batches/*/cancel", "messages/batches"},
	{"v1/files/...", "files"},
}

var anthropicCollections = []string{"complete", "files", "messages", "models", "organizations", "skills"}

func classifyAnthropic(method, path string) Endpoint {
	version, rest, _ := strings.Cut(path, "/")
	if version != "v1" {
		rest = ""
	}
	if IsReading(method) {
		if opensSocket(path) {
			return Endpoint{Name: "realtime"}
		}
		return reading(rest, anthropicCollections)
	}
	if method == http.MethodPost {
		switch path {
		case "v1/messages":
			return Endpoint{Name: "messages", Billing: Metered, meter: newMessagesMeter, read: readMessages}
		case "v1/messages/count_tokens":
			return Endpoint{Name: "messages/count_tokens", Billing: Free, read: readModel}
		}
		if name, ok := find(anthropicFree, path); ok {
			return Endpoint{Name: name, Billing: Free}
		}
	}
	return Endpoint{Name: reading(rest, anthropicCollections).Name, read: readModel}
}

var geminiMethods = map[string]Endpoint{
	"generateContent":       {Billing: Metered, meter: newGeminiMeter, read: readGemini},
	"streamGenerateContent": {Billing: Metered, meter: newGeminiMeter, read: readGemini, Streams: true, Framing: ArrayStream},
	"embedContent":          {Billing: Metered, meter: newGeminiEmbedMeter, read: readGemini},
	"batchEmbedContents":    {Billing: Metered, meter: newGeminiEmbedMeter, read: readGemini},
	"countTokens":           {Billing: Free, read: readGemini},
	// These cost later, or by other measures than tokens.
	"batchGenerateContent":   {read: readModel},
	"asyncBatchEmbedContent": {read: readModel},
	"predict":                {read: readModel},
	"predictLongRunning":     {read: readModel},
}

// geminiCompatible is Gemini's dialect of OpenAI's API, below "openai/".
var geminiCompatible = map[string]Endpoint{
	"chat/completions": {Name: "openai/chat/completions", Billing: Metered, meter: newGeminiChatMeter, read: readGeminiChat},
	"embeddings":       {Name: "openai/embeddings", Billing: Metered, meter: newEmbeddingsMeter, read: readGeminiChat},
}

var geminiFree = []pattern{
	{"*/files", "files"},
	{"upload/*/files", "files"},
}

var geminiCollections = []string{
	"batches", "cachedContents", "corpora", "fileSearchStores", "files", "models", "openai", "operations", "tunedModels",
}

func classifyGemini(method, path string, query url.Values) Endpoint {
	if e, ok := geminiMethod(method, path, query); ok {
		return e
	}
	_, rest, _ := strings.Cut(path, "/")
	if IsReading(method) {
		if opensSocket(path) {
			return Endpoint{Name: "realtime"}
		}
		return reading(rest, geminiCollections)
	}
	if method == http.MethodPost {
		if compatible, ok := strings.CutPrefix(rest, "openai/"); ok {
			if e, ok := geminiCompatible[compatible]; ok {
				return e
			}
		}
		if name, ok := find(geminiFree, path); ok {
			return Endpoint{Name: name, Billing: Free}
		}
		if strings.HasPrefix(rest, "batches/") && strings.HasSuffix(rest, ":cancel") {
			return Endpoint{Name: "batches", Billing: Free}
		}
	}
	return Endpoint{Name: reading(rest, geminiCollections).Name, read: readModel}
}

// geminiMethod recognizes ".../models/M:method" and ".../tunedModels/M:method".
// With any HTTP method: Google's servers let a header override it.
func geminiMethod(method, path string, query url.Values) (e Endpoint, ok bool) {
	parent, last := cutLast(path, "/")
	_, collection := cutLast(parent, "/")
	model, name := cutLast(last, ":")
	if model == "" || collection != "models" && collection != "tunedModels" {
		return Endpoint{}, false
	}
	if collection == "tunedModels" {
		model = "tunedModels/" + model
	}
	e, ok = geminiMethods[name]
	if !ok {
		return Endpoint{Name: unknown, Model: model}, true
	}
	e.Name, e.Model = name, model
	if method != http.MethodPost || hidesGeminiUsage(query) {
		e.Billing = Unpriced
		return e, true
	}
	if e.Streams && (query.Get("alt") == "sse" || query.Get("$alt") == "sse") {
		e.Framing = EventStream
	}
	return e, true
}

// hidesGeminiUsage tells if the query asks for a response without usage, or in
// a form that no meter reads.
func hidesGeminiUsage(query url.Values) bool {
	if query.Has("fields") || query.Has("$fields") {
		return true
	}
	for _, alt := range append(query["alt"], query["$alt"]...) {
		if alt != "" && alt != "json" && alt != "sse" {
			return true
		}
	}
	return false
}

// cutLast cuts at the last separator; without one, before is empty.
func cutLast(s, separator string) (before, after string) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+len(separator):]
}
