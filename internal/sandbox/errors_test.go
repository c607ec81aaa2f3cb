package sandbox

import (
	"bytes"
	"net/http"
	"testing"
)

func TestErrorShapes(t *testing.T) {
	t.Parallel()
	const gemini = "/v1beta/models/gemini-2.5-flash:"
	status := func(s string) []string { return []string{"X-Sandbox-Status: " + s} }
	tests := []struct {
		name   string
		call   call
		status int
		path   []any
		want   any
	}{
		{"OpenAI 429", call{path: chatPath, body: chatBody, headers: status("429")}, 429, []any{"error", "code"}, "rate_limit_exceeded"},
		{"OpenAI 500", call{path: chatPath, body: chatBody, headers: status("500")}, 500, []any{"error", "type"}, "server_error"},
		{"OpenAI without a key", call{path: chatPath, body: chatBody, headers: []string{"Authorization: "}}, 401, []any{"error", "code"}, "invalid_api_key"},
		{"OpenAI with a bad key", call{path: chatPath, body: chatBody, headers: []string{"Authorization: Bearer bad-key"}}, 401, []any{"error", "code"}, "invalid_api_key"},
		{"OpenAI with Anthropic's header", call{path: chatPath, body: chatBody, headers: []string{"Authorization: ", "X-Api-Key: test"}}, 401, []any{"error", "code"}, "invalid_api_key"},
		{"OpenAI unknown path", call{path: "/v1/nothing", body: "{}"}, 404, []any{"error", "message"}, "Invalid URL (POST /v1/nothing)"},
		{"OpenAI unknown model", call{method: "GET", path: "/v1/models/none"}, 404, []any{"error", "code"}, "model_not_found"},
		{"OpenAI body is not JSON", call{path: chatPath, body: "{"}, 400, []any{"error", "type"}, "invalid_request_error"},
		{"OpenAI without messages", call{path: chatPath, body: `{"model":"gpt-4o"}`}, 400, []any{"error", "message"}, "Missing required parameter: 'messages'."},
		{"OpenAI without a model", call{path: chatPath, body: chatBody[:1] + chatBody[18:]}, 400, []any{"error", "message"}, "you must provide a model parameter"},
		{"Anthropic 529", call{path: "/v1/messages", body: messagesBody, headers: status("529")}, 529, []any{"error", "type"}, "overloaded_error"},
		{"Anthropic with a bad key", call{path: "/v1/messages", body: messagesBody, headers: []string{"X-Api-Key: bad-key"}}, 401, []any{"error", "type"}, "authentication_error"},
		{"Anthropic without a version", call{path: "/v1/messages", body: messagesBody, headers: []string{"Anthropic-Version: "}}, 400, []any{"error", "message"}, "anthropic-version: header is required"},
		{"Anthropic without max_tokens", call{path: "/v1/messages", body: `{"model":"claude-haiku-4-5","messages":[{"role":"user","content":"x"}]}`}, 400, []any{"error", "message"}, "max_tokens: Field required"},
		{"Anthropic unknown path", call{path: "/v1/messages/none", body: "{}"}, 404, []any{"type"}, "error"},
		{"Gemini 503", call{path: gemini + "generateContent", body: geminiBody, headers: status("503")}, 503, []any{"error", "status"}, "UNAVAILABLE"},
		{
			"Gemini 429", call{path: gemini + "generateContent", body: geminiBody, headers: append(status("429"), "X-Sandbox-Retry-After: 7")}, 429,
			[]any{"error", "details", 0, "retryDelay"}, "7s",
		},
		{"Gemini with a bad key", call{path: gemini + "generateContent", body: geminiBody, headers: []string{"X-Goog-Api-Key: bad-key"}}, 400, []any{"error", "details", 0, "reason"}, "API_KEY_INVALID"},
		{"Gemini unknown method", call{path: gemini + "none", body: geminiBody}, 404, []any{"error", "status"}, "NOT_FOUND"},
		{"unknown script key", call{path: chatPath, body: chatBody, headers: []string{"X-Sandbox-Chunk: 1"}}, 400, []any{"error", "message"}, `unknown script key "chunk"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, test.call)
			if got.status != test.status || at(any(parse(t, got.body)), test.path...) != test.want {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			if want := (Totals{Requests: 1, Failed: 1}); l.settle(t) != want {
				t.Errorf("totals %+v", l.Totals())
			}
		})
	}
}

func TestGeminiArrayWrapsErrors(t *testing.T) {
	t.Parallel()
	got := newLab(t).do(t, call{
		path: "/v1/models/gemini-2.5-pro:streamGenerateContent", body: geminiBody, headers: []string{"X-Sandbox-Status: 503"},
	})
	if got.status != http.StatusServiceUnavailable || !bytes.HasPrefix(got.body, []byte(`[{"error":`)) || !bytes.HasSuffix(got.body, []byte(`}]`)) {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}
