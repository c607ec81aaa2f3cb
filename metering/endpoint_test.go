package metering_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	const openAI, anthropic, gemini = metering.OpenAI, metering.Anthropic, metering.Gemini
	const unpriced, free, metered = metering.Unpriced, metering.Free, metering.Metered
	tests := []struct {
		protocol metering.Protocol
		method   string
		path     string
		billing  metering.Billing
		name     string
		model    string
	}{
		{openAI, "POST", "/chat/completions", metered, "chat/completions", ""},
		{openAI, "POST", "/chat/c%6Fmpletions", metered, "chat/completions", ""},
		{openAI, "POST", "/completions", metered, "completions", ""},
		{openAI, "POST", "/embeddings", metered, "embeddings", ""},
		{openAI, "POST", "/responses", metered, "responses", ""},
		{openAI, "POST", "/responses/compact", metered, "responses/compact", ""},
		{openAI, "GET", "/models", free, "models", ""},
		{openAI, "GET", "/models/gpt-4o", free, "models", ""},
		{openAI, "DELETE", "/models/ft:gpt-4o:acme", free, "models", ""},
		{openAI, "GET", "/responses/resp_1", free, "responses", ""},
		{openAI, "GET", "/something/new", free, "other", ""},
		{openAI, "HEAD", "/", free, "other", ""},
		{openAI, "POST", "/moderations", free, "moderations", ""},
		{openAI, "POST", "/responses/input_tokens", free, "responses/input_tokens", ""},
		{openAI, "POST", "/responses/resp_1/cancel", free, "responses", ""},
		{openAI, "POST", "/chat/completions/chatcmpl-1", free, "chat/completions", ""},
		{openAI, "POST", "/files", free, "files", ""},
		{openAI, "POST", "/uploads/u1/parts", free, "uploads", ""},
		{openAI, "POST", "/vector_stores", free, "vector_stores", ""},
		{openAI, "POST", "/vector_stores/vs/files", free, "vector_stores", ""},
		{openAI, "POST", "/conversations/c/items", free, "conversations", ""},
		{openAI, "POST", "/prompts", free, "prompts", ""},
		{openAI, "POST", "/batches/b/cancel", free, "batches", ""},
		{openAI, "POST", "/batches", unpriced, "batches", ""},
		{openAI, "POST", "/fine_tuning/jobs", unpriced, "fine_tuning", ""},
		{openAI, "POST", "/fine_tuning/jobs/j/resume", unpriced, "fine_tuning", ""},
		{openAI, "POST", "/images/generations", unpriced, "images", ""},
		{openAI, "POST", "/audio/transcriptions", unpriced, "audio", ""},
		{openAI, "POST", "/videos", unpriced, "videos", ""},
		{openAI, "POST", "/threads/runs", unpriced, "threads", ""},
		{openAI, "POST", "/threads/t/runs", unpriced, "threads", ""},
		{openAI, "POST", "/filesystem", unpriced, "other", ""},
		{openAI, "POST", "/realtime/client_secrets", unpriced, "realtime", ""},
		{openAI, "PATCH", "/chat/completions", unpriced, "chat", ""},
		{openAI, "PUT", "/files", unpriced, "files", ""},
		{openAI, "CONNECT", "/responses", unpriced, "responses", ""},
		{openAI, "GET", "/realtime", unpriced, "realtime", ""},
		{openAI, "GET", "/responses", unpriced, "realtime", ""},

		{anthropic, "POST", "/v1/messages", metered, "messages", ""},
		{anthropic, "POST", "/v1/messages/count_tokens", free, "messages/count_tokens", ""},
		{anthropic, "POST", "/v1/messages/batches", unpriced, "messages", ""},
		{anthropic, "POST", "/v1/messages/batches/b/cancel", free, "messages/batches", ""},
		{anthropic, "GET", "/v1/messages/batches/b/results", free, "messages", ""},
		{anthropic, "GET", "/v1/models", free, "models", ""},
		{anthropic, "POST", "/v1/files", free, "files", ""},
		{anthropic, "POST", "/v1/complete", unpriced, "complete", ""},
		{anthropic, "POST", "/v2/messages", unpriced, "other", ""},
		{anthropic, "POST", "/messages", unpriced, "other", ""},
		{anthropic, "GET", "/v1/realtime", unpriced, "realtime", ""},

		{gemini, "POST", "/v1beta/models/gemini-2.5-pro:generateContent", metered, "generateContent", "gemini-2.5-pro"},
		{gemini, "POST", "/v1/models/gemini-2.5-pro%3AgenerateContent", metered, "generateContent", "gemini-2.5-pro"},
		{gemini, "POST", "/v1/tunedModels/mine:streamGenerateContent", metered, "streamGenerateContent", "tunedModels/mine"},
		{gemini, "POST", "/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent", metered, "generateContent", "m"},
		{gemini, "POST", "/v1beta/models/e:embedContent", metered, "embedContent", "e"},
		{gemini, "POST", "/v1beta/models/e:batchEmbedContents", metered, "batchEmbedContents", "e"},
		{gemini, "POST", "/v1beta/models/m:countTokens", free, "countTokens", "m"},
		{gemini, "POST", "/v1beta/openai/chat/completions", metered, "openai/chat/completions", ""},
		{gemini, "POST", "/v1beta/openai/embeddings", metered, "openai/embeddings", ""},
		{gemini, "POST", "/v1beta/openai/images/generations", unpriced, "openai", ""},
		{gemini, "GET", "/v1beta/models", free, "models", ""},
		{gemini, "GET", "/v1beta/models/gemini-2.5-pro", free, "models", ""},
		{gemini, "POST", "/upload/v1beta/files", free, "files", ""},
		{gemini, "DELETE", "/v1beta/cachedContents/c", free, "cachedContents", ""},
		{gemini, "POST", "/v1beta/cachedContents", unpriced, "cachedContents", ""},
		{gemini, "PATCH", "/v1beta/cachedContents/c", unpriced, "cachedContents", ""},
		{gemini, "POST", "/v1beta/batches/b:cancel", free, "batches", ""},
		{gemini, "POST", "/v1beta/models/m:batchGenerateContent", unpriced, "batchGenerateContent", "m"},
		{gemini, "POST", "/v1beta/models/m:predict", unpriced, "predict", "m"},
		{gemini, "POST", "/v1beta/models/m:somethingNew", unpriced, "other", "m"},
		{gemini, "GET", "/v1beta/models/m:generateContent", unpriced, "generateContent", "m"},
		{gemini, "GET", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", unpriced, "realtime", ""},

		{metering.Protocol("smoke signals"), "GET", "/models", unpriced, "other", ""},
	}
	for _, tt := range tests {
		t.Run(string(tt.protocol)+" "+tt.method+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			e := metering.Classify(tt.protocol, tt.method, tt.path, nil)
			if e.Billing != tt.billing || e.Name != tt.name || e.Model != tt.model {
				t.Errorf("billing %d, name %q, model %q; want %d, %q, %q", e.Billing, e.Name, e.Model, tt.billing, tt.name, tt.model)
			}
		})
	}
}

func TestPathsThatMayMeanAnotherAreUnpriced(t *testing.T) {
	t.Parallel()
	paths := []string{
		"", "models", "//models", "/models/", "/files/../images/generations", "/files/%2e%2e/images/generations",
		"/files/%252e%252e/images", "/files/./x", "/files\\..\\images", "/files;x", "/files%3Fx", "/fil%65s%", "/models%00", "/models\n", "/módels",
	}
	for _, p := range []metering.Protocol{metering.OpenAI, metering.Anthropic, metering.Gemini} {
		for _, path := range paths {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				if e := metering.Classify(p, method, path, nil); e.Billing != metering.Unpriced {
					t.Errorf("%s %s %q: billing %d", p, method, path, e.Billing)
				}
			}
		}
	}
}

func TestGeminiQuery(t *testing.T) {
	t.Parallel()
	const stream = "/v1beta/models/m:streamGenerateContent"
	tests := map[string]struct {
		query   string
		billing metering.Billing
		framing metering.Framing
	}{
		"array":            {"", metering.Metered, metering.ArrayStream},
		"json":             {"alt=json", metering.Metered, metering.ArrayStream},
		"sse":              {"alt=sse&key=k", metering.Metered, metering.EventStream},
		"sse, other name":  {"%24alt=sse", metering.Metered, metering.EventStream},
		"binary":           {"alt=proto", metering.Unpriced, metering.ArrayStream},
		"binary after sse": {"alt=sse&alt=proto", metering.Unpriced, metering.ArrayStream},
		"without usage":    {"alt=sse&fields=candidates", metering.Unpriced, metering.ArrayStream},
		"without usage, other name": {
			"alt=sse&%24fields=candidates", metering.Unpriced, metering.ArrayStream,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			e := metering.Classify(metering.Gemini, http.MethodPost, stream, query)
			if e.Billing != tt.billing || e.Framing != tt.framing || !e.Streams {
				t.Errorf("billing %d, framing %d, streams %v; want %d, %d, true", e.Billing, e.Framing, e.Streams, tt.billing, tt.framing)
			}
		})
	}
}

func TestResponseFraming(t *testing.T) {
	t.Parallel()
	array := post(metering.Gemini, "/v1beta/models/m:streamGenerateContent")
	tests := []struct {
		endpoint    metering.Endpoint
		contentType string
		want        metering.Framing
	}{
		{chat, "text/event-stream", metering.EventStream},
		{chat, "Text/Event-Stream; charset=utf-8", metering.EventStream},
		{chat, "text/event-stream; charset", metering.EventStream},
		{chat, " TEXT/EVENT-STREAM;;=", metering.EventStream},
		{chat, "text/event", metering.Whole},
		{chat, "application/json", metering.Whole},
		{chat, "", metering.Whole},
		{array, "application/json; charset=UTF-8", metering.ArrayStream},
		{array, "text/event-stream", metering.EventStream},
		{generate, "application/json", metering.Whole},
	}
	for _, tt := range tests {
		if got := tt.endpoint.ResponseFraming(tt.contentType); got != tt.want {
			t.Errorf("%s, %q: framing %d, want %d", tt.endpoint.Name, tt.contentType, got, tt.want)
		}
	}
}
