package sandbox

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	asked   = `"stream_options":{"include_usage":true},`
	weather = `{"type":"object","properties":{"city":{"type":"string"},"days":{"type":["integer","null"]},"unit":{"enum":["c","f"]}}}`
	// weatherArgs is the sample of the schema above.
	weatherArgs = `{"city":"sandbox","days":1,"unit":"c"}`
)

// TestWhole checks the shape of each whole answer: each fact is a path, and
// the JSON value that must be there.
func TestWhole(t *testing.T) {
	t.Parallel()
	type fact struct {
		path []any
		want string
	}
	p := func(path ...any) []any { return path }
	toolChat := strings.Replace(chatBody, `{`, `{"tool_choice":"required","tools":[{"type":"function","function":{"name":"weather","parameters":`+weather+`}}],`, 1)
	scripted := []string{
		"X-Sandbox-Prompt: 1000", "X-Sandbox-Cached: 600", "X-Sandbox-Cache-Write: 100",
		"X-Sandbox-Completion: 50", "X-Sandbox-Reasoning: 20",
	}
	scriptedUsage := metering.Usage{Input: 300, CacheRead: 600, CacheWrite: 100, Output: 50, Reasoning: 20}
	tests := []struct {
		name     string
		call     call
		protocol metering.Protocol
		endpoint string
		usage    metering.Usage
		facts    []fact
	}{
		{
			"chat", call{path: "/v1/chat/completions", body: chatBody}, metering.OpenAI, "chat/completions", defaultUsage,
			[]fact{
				{p("object"), `"chat.completion"`},
				{p("model"), `"gpt-4o-2024-08-06"`},
				{p("service_tier"), `"default"`},
				{p("choices", 0, "message"), `{"role":"assistant","content":"` + defaultText + `","refusal":null,"annotations":[]}`},
				{p("choices", 0, "finish_reason"), `"stop"`},
				{p("usage", "prompt_tokens"), `5`},
				{p("usage", "completion_tokens"), `11`},
				{p("usage", "total_tokens"), `16`},
				{p("usage", "prompt_tokens_details"), `{"cached_tokens":0,"audio_tokens":0}`},
			},
		},
		{
			"chat without version, scripted numbers", call{path: "/chat/completions", body: chatBody, headers: append(scripted, "X-Sandbox-Tier: flex")},
			metering.OpenAI, "chat/completions", scriptedUsage,
			[]fact{
				{p("usage", "prompt_tokens"), `1000`},
				{p("usage", "prompt_tokens_details"), `{"cached_tokens":600,"audio_tokens":0,"cache_write_tokens":100}`},
				{p("usage", "completion_tokens"), `50`},
				{p("usage", "completion_tokens_details", "reasoning_tokens"), `20`},
				{p("service_tier"), `"flex"`},
			},
		},
		{
			"chat with three choices", call{path: "/v1/chat/completions", body: strings.Replace(chatBody, `{`, `{"n":3,`, 1)},
			metering.OpenAI, "chat/completions", metering.Usage{Input: 5, Output: 33},
			[]fact{{p("choices", 2, "index"), `2`}, {p("choices", 3), `null`}, {p("usage", "completion_tokens"), `33`}},
		},
		{
			"chat with a tool", call{path: "/v1/chat/completions", body: toolChat},
			metering.OpenAI, "chat/completions", metering.Usage{Input: 5, Output: 1},
			[]fact{
				{p("choices", 0, "finish_reason"), `"tool_calls"`},
				{p("choices", 0, "message", "content"), `null`},
				{p("choices", 0, "message", "tool_calls", 0, "type"), `"function"`},
				{p("choices", 0, "message", "tool_calls", 0, "function", "name"), `"weather"`},
				{p("choices", 0, "message", "tool_calls", 0, "function", "arguments"), quote(weatherArgs)},
			},
		},
		{
			"chat cut at its limit", call{path: "/v1/chat/completions", body: strings.Replace(chatBody, `{`, `{"max_completion_tokens":3,`, 1)},
			metering.OpenAI, "chat/completions", metering.Usage{Input: 5, Output: 3},
			[]fact{{p("choices", 0, "message", "content"), `"The books balance:"`}, {p("choices", 0, "finish_reason"), `"length"`}},
		},
		{
			"chat with structured output", call{path: "/v1/chat/completions", body: strings.Replace(chatBody, `{`,
				`{"response_format":{"type":"json_schema","json_schema":{"name":"w","schema":`+weather+`}},`, 1)},
			metering.OpenAI, "chat/completions", metering.Usage{Input: 5, Output: 1},
			[]fact{{p("choices", 0, "message", "content"), quote(weatherArgs)}},
		},
		{
			"legacy completion", call{path: "/v1/completions", body: promptBody}, metering.OpenAI, "completions", defaultUsage,
			[]fact{{p("object"), `"text_completion"`}, {p("choices", 0, "text"), `"` + defaultText + `"`}, {p("usage", "total_tokens"), `16`}},
		},
		{
			"responses", call{path: "/v1/responses", body: inputBody}, metering.OpenAI, "responses", defaultUsage,
			[]fact{
				{p("object"), `"response"`},
				{p("status"), `"completed"`},
				{p("output", 0, "content", 0, "text"), `"` + defaultText + `"`},
				{p("usage"), `{"input_tokens":5,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":11,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":16}`},
			},
		},
		{
			"responses, scripted", call{path: "/responses", body: inputBody, headers: append(scripted, "X-Sandbox-Cache-Write-Long: 50", "X-Sandbox-Searches: 2")},
			metering.OpenAI, "responses",
			metering.Usage{Input: 250, CacheRead: 600, CacheWrite: 100, CacheWriteLong: 50, Output: 50, Reasoning: 20, WebSearches: 2},
			[]fact{
				{p("usage", "input_tokens"), `1000`},
				{p("usage", "input_tokens_details"), `{"cached_tokens":600,"cache_write_tokens":150,"cache_write_tokens_details":{"ttl_30m_tokens":100,"ttl_12h_tokens":50}}`},
				{p("tool_usage", "web_search", "num_requests"), `2`},
			},
		},
		{
			"responses cut at its limit", call{path: "/v1/responses", body: strings.Replace(inputBody, `{`, `{"max_output_tokens":1,`, 1)},
			metering.OpenAI, "responses", metering.Usage{Input: 5, Output: 1},
			[]fact{{p("status"), `"incomplete"`}, {p("incomplete_details", "reason"), `"max_output_tokens"`}},
		},
		{
			"responses with a tool", call{path: "/v1/responses", body: strings.Replace(inputBody, `{`,
				`{"tool_choice":{"type":"function","name":"b"},"tools":[{"type":"function","name":"a"},{"type":"function","name":"b","parameters":`+weather+`}],`, 1)},
			metering.OpenAI, "responses", metering.Usage{Input: 5, Output: 1},
			[]fact{{p("output", 0, "type"), `"function_call"`}, {p("output", 0, "name"), `"b"`}, {p("output", 0, "arguments"), quote(weatherArgs)}},
		},
		{
			"embeddings", call{path: "/v1/embeddings", body: `{"model":"text-embedding-3-small","input":["twelve bytes","and eight"],"dimensions":4}`},
			metering.OpenAI, "embeddings", metering.Usage{Input: 5},
			[]fact{
				{p("data", 1), `{"object":"embedding","index":1,"embedding":[0.5,0.5,0.5,0.5]}`},
				{p("usage"), `{"prompt_tokens":5,"total_tokens":5}`},
			},
		},
		{
			"embeddings of tokens in base64", call{path: "/embeddings", body: `{"model":"text-embedding-3-small","input":[1,2,3],"dimensions":1,"encoding_format":"base64"}`},
			metering.OpenAI, "embeddings", metering.Usage{Input: 3},
			[]fact{{p("data", 0, "embedding"), `"AACAPw=="`}, {p("data", 1), `null`}},
		},
		{
			"moderations", call{path: "/v1/moderations", body: `{"input":["a","b"]}`}, metering.OpenAI, "moderations", metering.Usage{},
			[]fact{{p("results", 1, "flagged"), `false`}, {p("usage"), `null`}},
		},
		{
			"OpenAI models", call{method: "GET", path: "/v1/models"}, metering.OpenAI, "models", metering.Usage{},
			[]fact{{p("object"), `"list"`}, {p("data", 0, "id"), `"gpt-4o"`}},
		},
		{
			"one OpenAI model", call{method: "GET", path: "/models/gpt-4o"}, metering.OpenAI, "models", metering.Usage{},
			[]fact{{p("object"), `"model"`}, {p("id"), `"gpt-4o"`}},
		},
		{
			"Anthropic models", call{method: "GET", path: "/v1/models", headers: []string{"Anthropic-Version: 2023-06-01"}},
			metering.Anthropic, "models", metering.Usage{},
			[]fact{{p("data", 0, "type"), `"model"`}, {p("has_more"), `false`}},
		},
		{
			"Gemini models", call{method: "GET", path: "/v1beta/models"}, metering.Gemini, "models", metering.Usage{},
			[]fact{{p("models", 0, "name"), `"models/gemini-2.5-flash"`}},
		},
		{
			"one Gemini model", call{method: "GET", path: "/v1/models/gemini-2.5-pro?key=test"}, metering.Gemini, "models", metering.Usage{},
			[]fact{{p("name"), `"models/gemini-2.5-pro"`}},
		},
		{
			"messages", call{path: "/v1/messages", body: messagesBody}, metering.Anthropic, "messages", defaultUsage,
			[]fact{
				{p("type"), `"message"`},
				{p("model"), `"claude-haiku-4-5-20251001"`},
				{p("content"), `[{"type":"text","text":"` + defaultText + `"}]`},
				{p("stop_reason"), `"end_turn"`},
				{p("usage"), `{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":11,"service_tier":"standard","inference_geo":"global"}`},
			},
		},
		{
			"messages, scripted", call{path: "/v1/messages", body: messagesBody, headers: append(scripted,
				"X-Sandbox-Cache-Write-Long: 50", "X-Sandbox-Searches: 3", "X-Sandbox-Speed: fast", "X-Sandbox-Geo: us", "X-Sandbox-Tier: priority")},
			metering.Anthropic, "messages",
			metering.Usage{Input: 250, CacheRead: 600, CacheWrite: 100, CacheWriteLong: 50, Output: 50, Reasoning: 20, WebSearches: 3},
			[]fact{
				{p("usage", "input_tokens"), `250`},
				{p("usage", "cache_creation_input_tokens"), `150`},
				{p("usage", "cache_creation"), `{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":50}`},
				{p("usage", "cache_read_input_tokens"), `600`},
				{p("usage", "output_tokens_details", "thinking_tokens"), `20`},
				{p("usage", "server_tool_use", "web_search_requests"), `3`},
				{p("usage", "service_tier"), `"priority"`},
				{p("usage", "speed"), `"fast"`},
				{p("usage", "inference_geo"), `"us"`},
			},
		},
		{
			"messages with a tool", call{path: "/v1/messages", body: strings.Replace(messagesBody, `{`,
				`{"tool_choice":{"type":"any"},"tools":[{"name":"weather","input_schema":`+weather+`}],`, 1)},
			metering.Anthropic, "messages", metering.Usage{Input: 5, Output: 1},
			[]fact{
				{p("stop_reason"), `"tool_use"`}, {p("content", 0, "type"), `"tool_use"`},
				{p("content", 0, "name"), `"weather"`}, {p("content", 0, "input"), weatherArgs},
			},
		},
		{
			"count tokens", call{path: "/v1/messages/count_tokens", body: messagesBody}, metering.Anthropic, "messages/count_tokens", metering.Usage{},
			[]fact{{nil, `{"input_tokens":5}`}},
		},
		{
			"Gemini", call{path: "/v1beta/models/gemini-2.5-flash:generateContent", body: geminiBody}, metering.Gemini, "generateContent", defaultUsage,
			[]fact{
				{p("candidates"), `[{"content":{"parts":[{"text":"` + defaultText + `"}],"role":"model"},"index":0,"finishReason":"STOP"}]`},
				{p("modelVersion"), `"gemini-2.5-flash"`},
				{p("usageMetadata"), `{"promptTokenCount":5,"candidatesTokenCount":11,"totalTokenCount":16,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]}`},
			},
		},
		{
			"Gemini, scripted in the model's name", call{path: "/v1/models/gemini-2.5-pro+prompt=1000,cached=600,audio=100,tool_prompt=50,completion=30,reasoning=30,searches=2,tier=flex:generateContent", body: geminiBody},
			metering.Gemini, "generateContent",
			metering.Usage{Input: 300, InputAudio: 100, CacheRead: 600, Output: 30, Reasoning: 30, WebSearches: 2},
			[]fact{
				{p("modelVersion"), `"gemini-2.5-pro"`},
				{p("usageMetadata"), `{"promptTokenCount":950,"cachedContentTokenCount":600,"thoughtsTokenCount":30,"toolUsePromptTokenCount":50,"totalTokenCount":1030,` +
					`"cacheTokensDetails":[{"modality":"TEXT","tokenCount":600}],"toolUsePromptTokensDetails":[{"modality":"TEXT","tokenCount":50}],"serviceTier":"flex",` +
					`"promptTokensDetails":[{"modality":"TEXT","tokenCount":850},{"modality":"AUDIO","tokenCount":100}]}`},
				{p("candidates", 0, "groundingMetadata", "webSearchQueries", 1), `"books that balance"`},
			},
		},
		{
			"Gemini with a tool", call{path: "/v1/models/gemini-2.5-pro:generateContent", body: strings.Replace(geminiBody, `{`,
				`{"toolConfig":{"functionCallingConfig":{"mode":"ANY"}},"tools":[{"functionDeclarations":[{"name":"weather","parameters":{"type":"OBJECT","properties":{"city":{"type":"STRING"}}}}]}],`, 1)},
			metering.Gemini, "generateContent", metering.Usage{Input: 5, Output: 1},
			[]fact{
				{p("candidates", 0, "finishReason"), `"STOP"`},
				{p("candidates", 0, "content", "parts", 0, "functionCall", "name"), `"weather"`},
				{p("candidates", 0, "content", "parts", 0, "functionCall", "args"), `{"city":"sandbox"}`},
			},
		},
		{
			"Gemini count", call{path: "/v1/models/gemini-2.5-pro:countTokens", body: `{"generateContentRequest":` + geminiBody + `}`},
			metering.Gemini, "countTokens", metering.Usage{},
			[]fact{{nil, `{"totalTokens":5,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]}`}},
		},
		{
			"Gemini embedding", call{path: "/v1beta/models/gemini-embedding-001:embedContent", body: `{"content":{"parts":[{"text":"twenty bytes of text"}]},"outputDimensionality":4}`},
			metering.Gemini, "embedContent", metering.Usage{Input: 5},
			[]fact{{p("embedding", "values"), `[0.5,0.5,0.5,0.5]`}, {p("usageMetadata", "promptTokenCount"), `5`}},
		},
		{
			"Gemini batch of embeddings", call{path: "/v1/models/gemini-embedding-001:batchEmbedContents", body: `{"requests":[{"content":{"parts":[{"text":"twenty bytes of text"}]}},{"outputDimensionality":1}]}`},
			metering.Gemini, "batchEmbedContents", metering.Usage{Input: 5},
			[]fact{{p("embeddings", 1, "values"), `[1]`}, {p("usageMetadata", "promptTokenCount"), `5`}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, test.call)
			if got.status != http.StatusOK || got.err != nil {
				t.Fatalf("status %d, %v: %s", got.status, got.err, got.body)
			}
			body := parse(t, got.body)
			for _, f := range test.facts {
				var want any
				if err := json.Unmarshal([]byte(f.want), &want); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, at(any(body), f.path...)); diff != "" {
					t.Errorf("%v (-want +got):\n%s", f.path, diff)
				}
			}
			s := l.sole(t)
			if s.Protocol != test.protocol || s.Endpoint != test.endpoint || !s.Complete || s.Failed || s.Status != http.StatusOK {
				t.Errorf("recorded %+v", s)
			}
			if diff := cmp.Diff(test.usage, s.Usage); diff != "" {
				t.Errorf("recorded usage (-want +got):\n%s", diff)
			}
			if want := s.Usage != (metering.Usage{}); s.UsageReported != want {
				t.Errorf("UsageReported = %t, want %t", s.UsageReported, want)
			}
		})
	}
}

func quote(s string) string { return string(appendString(nil, s)) }

func TestToolResultGetsText(t *testing.T) {
	t.Parallel()
	tests := map[string]call{
		"chat": {path: "/v1/chat/completions", body: `{"model":"gpt-4o","tool_choice":"required",
			"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],
			"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null},{"role":"tool","tool_call_id":"c","content":"r"}]}`},
		"responses": {path: "/v1/responses", body: `{"model":"gpt-4o","tool_choice":"required","tools":[{"type":"function","name":"f"}],
			"input":[{"role":"user","content":[{"type":"input_text","text":"q"}]},{"type":"function_call_output","output":"r"}]}`},
		"messages": {path: "/v1/messages", body: `{"model":"claude-haiku-4-5","max_tokens":100,"tool_choice":{"type":"any"},
			"tools":[{"name":"f","input_schema":{}}],"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"r"}]}]}`},
		"gemini": {path: "/v1/models/gemini-2.5-pro:generateContent", body: `{"toolConfig":{"functionCallingConfig":{"mode":"ANY"}},
			"tools":[{"functionDeclarations":[{"name":"f"}]}],"contents":[{"role":"user","parts":[{"functionResponse":{"name":"f","response":{}}}]}]}`},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := newLab(t).do(t, c)
			if got.status != http.StatusOK || !strings.Contains(string(got.body), defaultText) {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		})
	}
}
