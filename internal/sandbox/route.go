package sandbox

import (
	"net/http"
	"strings"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Endpoints, named as in package metering.
const (
	endpointChat        = "chat/completions"
	endpointResponses   = "responses"
	endpointCompletions = "completions"
	endpointEmbeddings  = "embeddings"
	endpointModerations = "moderations"
	endpointModels      = "models"
	endpointFiles       = "files"
	endpointMessages    = "messages"
	endpointMessageSize = "messages/count_tokens"
	endpointEcho        = "echo"
)

// route is where a request goes: what it asks of whom.
type route struct {
	protocol metering.Protocol
	endpoint string
	// model is the one in the path, if there is one; for files, the file.
	model  string
	handle func(x *exchange, model string) error
}

// match finds the route of a request. There always is one, be it the
// provider's 404.
func match(r *http.Request) route {
	path, beta := strings.CutPrefix(r.URL.Path, "/v1beta/")
	if !beta {
		path = strings.TrimPrefix(strings.TrimPrefix(path, "/v1/"), "/")
	}
	name, rest, _ := strings.Cut(path, "/")
	switch name {
	case endpointEcho:
		return route{sender(r, beta), endpointEcho, "", (*exchange).echo}
	case endpointModels:
		return matchModels(r, rest, beta)
	case endpointFiles:
		return matchFiles(r, rest)
	}
	if r.Method == http.MethodPost {
		if rt, ok := posts[path]; ok {
			return rt
		}
	}
	return route{sender(r, beta), path, "", (*exchange).notFound}
}

var posts = map[string]route{
	endpointChat:        {metering.OpenAI, endpointChat, "", (*exchange).chat},
	endpointResponses:   {metering.OpenAI, endpointResponses, "", (*exchange).responses},
	endpointCompletions: {metering.OpenAI, endpointCompletions, "", (*exchange).completions},
	endpointEmbeddings:  {metering.OpenAI, endpointEmbeddings, "", (*exchange).embeddings},
	endpointModerations: {metering.OpenAI, endpointModerations, "", (*exchange).moderations},
	endpointMessages:    {metering.Anthropic, endpointMessages, "", (*exchange).messages},
	endpointMessageSize: {metering.Anthropic, endpointMessageSize, "", (*exchange).messageSize},
}

// geminiMethods are what can follow a model's name and a colon.
var geminiMethods = map[string]func(*exchange, string) error{
	"generateContent":       (*exchange).generateContent,
	"streamGenerateContent": (*exchange).streamGenerateContent,
	"countTokens":           (*exchange).countTokens,
	"embedContent":          (*exchange).embedContent,
	"batchEmbedContents":    (*exchange).batchEmbedContents,
}

// matchModels routes models, models/{model} and models/{model}:{method}.
func matchModels(r *http.Request, rest string, beta bool) route {
	colon := strings.LastIndexByte(rest, ':')
	if r.Method == http.MethodPost && colon > 0 {
		method := rest[colon+1:]
		if handle, ok := geminiMethods[method]; ok {
			return route{metering.Gemini, method, rest[:colon], handle}
		}
	}
	if r.Method == http.MethodGet {
		return route{sender(r, beta), endpointModels, rest, (*exchange).models}
	}
	return route{sender(r, beta), endpointModels, "", (*exchange).notFound}
}

// matchFiles routes files, files/{id} and files/{id}/content.
func matchFiles(r *http.Request, rest string) route {
	rt := route{metering.OpenAI, endpointFiles, rest, (*exchange).notFound}
	id, content := strings.CutSuffix(rest, "/content")
	switch {
	case r.Method == http.MethodPost && rest == "":
		rt.handle = (*exchange).uploadFile
	case r.Method == http.MethodGet && content:
		rt.model, rt.handle = id, (*exchange).fileContent
	case r.Method == http.MethodGet && rest == "":
		rt.handle = (*exchange).listFiles
	case r.Method == http.MethodGet:
		rt.handle = (*exchange).file
	case r.Method == http.MethodDelete && rest != "":
		rt.handle = (*exchange).deleteFile
	}
	return rt
}

// sender guesses which provider a request is meant for where the path alone
// does not say.
func sender(r *http.Request, beta bool) metering.Protocol {
	switch {
	case r.Header.Get("Anthropic-Version") != "":
		return metering.Anthropic
	case beta, r.Header.Get("X-Goog-Api-Key") != "", r.URL.Query().Has("key"):
		return metering.Gemini
	case r.Header.Get("X-Api-Key") != "":
		return metering.Anthropic
	}
	return metering.OpenAI
}

// notFound is the provider's own answer to a path that it does not have.
func (x *exchange) notFound(string) error {
	return &refusal{
		status: http.StatusNotFound, message: "Invalid URL (" + x.r.Method + " " + x.r.URL.Path + ")",
	}
}
