package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

const chatPath = "/v1/chat/completions"

// data parses the events that carry JSON, and returns what else there is.
func data(t *testing.T, body []byte) (values []map[string]any, others []string) {
	t.Helper()
	for _, e := range events(t, body) {
		if !strings.HasPrefix(e.data, "{") {
			others = append(others, e.data)
			continue
		}
		v := parse(t, []byte(e.data))
		if e.name != "" && v["type"] != e.name {
			t.Errorf("event %q has type %v", e.name, v["type"])
		}
		values = append(values, v)
	}
	return values, others
}

// join concatenates the strings at a path of each value.
func join(values []map[string]any, path ...any) string {
	var b strings.Builder
	for _, v := range values {
		s, _ := at(any(v), path...).(string)
		b.WriteString(s)
	}
	return b.String()
}

// encoded is a value as JSON, with its keys sorted.
func encoded(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func TestChatStream(t *testing.T) {
	t.Parallel()
	const usage = `{"completion_tokens":11,"completion_tokens_details":{"accepted_prediction_tokens":0,"audio_tokens":0,"reasoning_tokens":0,"rejected_prediction_tokens":0},` +
		`"prompt_tokens":5,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":0},"total_tokens":16}`
	tests := []struct {
		name    string
		extra   string
		headers []string
		// usages holds what each chunk has for usage: "-" nothing, "null",
		// "u" the final usage, "~" some other.
		usages   string
		reported bool
	}{
		{"not asked for usage", ``, nil, "-------------", false},
		{"asked for usage", asked, nil, "nnnnnnnnnnnnnu", true},
		{"asked, but has none", asked, []string{"X-Sandbox-Fail: no_usage"}, "-------------", false},
		{"on the last choice", ``, []string{"X-Sandbox-Fail: usage_on_finish"}, "------------u", true},
		{"on every chunk", ``, []string{"X-Sandbox-Fail: usage_every_chunk"}, "~~~~~~~~~~~uu", true},
		{"in three chunks", asked, []string{"X-Sandbox-Chunks: 3", "X-Sandbox-Content: " + strings.ReplaceAll(defaultText, "%", "%25")}, "nnnnnu", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, call{path: chatPath, body: `{` + test.extra + streaming(chatBody)[1:], headers: test.headers})
			if ct := got.header.Get("Content-Type"); ct != eventStream || got.err != nil {
				t.Fatalf("%v, content type %q: %s", got.err, ct, got.body)
			}
			chunks, others := data(t, got.body)
			if diff := cmp.Diff([]string{"[DONE]"}, others); diff != "" {
				t.Errorf("events without JSON (-want +got):\n%s", diff)
			}
			if text := join(chunks, "choices", 0, "delta", "content"); text != defaultText {
				t.Errorf("text %q", text)
			}
			var usages, ids, finish strings.Builder
			for _, c := range chunks {
				u, present := c["usage"]
				switch {
				case !present:
					usages.WriteString("-")
				case u == nil:
					usages.WriteString("n")
				case encoded(u) == usage:
					usages.WriteString("u")
				default:
					usages.WriteString("~")
				}
				if c["id"] != chunks[0]["id"] || c["object"] != "chat.completion.chunk" || c["model"] != "gpt-4o-2024-08-06" {
					ids.WriteString(encoded(c))
				}
				reason, _ := at(any(c), "choices", 0, "finish_reason").(string)
				finish.WriteString(reason)
			}
			if usages.String() != test.usages || ids.Len() > 0 || finish.String() != "stop" {
				t.Errorf("usages %s, want %s; finish %q; wrong %s", usages.String(), test.usages, finish.String(), ids.String())
			}
			s := l.sole(t)
			if s.Usage != defaultUsage || !s.Complete || !s.Stream || s.UsageReported != test.reported || s.ID != chunks[0]["id"] {
				t.Errorf("recorded %+v", s)
			}
		})
	}
}

func TestChatStreamOfTools(t *testing.T) {
	t.Parallel()
	body := strings.Replace(streaming(chatBody), `{`, `{"tools":[{"type":"function","function":{"name":"weather","parameters":`+weather+`}}],`, 1)
	got := newLab(t).do(t, call{path: chatPath, body: body, headers: []string{"X-Sandbox-Tool: 1", "X-Sandbox-Chunks: 7"}})
	chunks, _ := data(t, got.body)
	call := []any{"choices", 0, "delta", "tool_calls", 0}
	if name := join(chunks, append(call, "function", "name")...); name != "weather" {
		t.Errorf("name %q", name)
	}
	if args := join(chunks, append(call, "function", "arguments")...); args != weatherArgs {
		t.Errorf("arguments %q", args)
	}
	if n := len(chunks); n != 9 || at(any(chunks[8]), "choices", 0, "finish_reason") != "tool_calls" {
		t.Errorf("%d chunks: %s", n, got.body)
	}
}

func TestChatStreamOfChoices(t *testing.T) {
	t.Parallel()
	got := newLab(t).do(t, call{path: chatPath, body: strings.Replace(streaming(chatBody), `{`, `{"n":2,`+asked, 1)})
	chunks, _ := data(t, got.body)
	texts := map[any]string{}
	for _, c := range chunks {
		s, _ := at(any(c), "choices", 0, "delta", "content").(string)
		texts[at(any(c), "choices", 0, "index")] += s
	}
	if texts[0.0] != defaultText || texts[1.0] != defaultText {
		t.Errorf("texts %q", texts)
	}
	if n := at(any(chunks[len(chunks)-1]), "usage", "completion_tokens"); n != 22.0 {
		t.Errorf("completion tokens %v, want 22", n)
	}
}

func TestCompletionStream(t *testing.T) {
	t.Parallel()
	got := newLab(t).do(t, call{path: "/v1/completions", body: strings.Replace(streaming(promptBody), `{`, `{`+asked, 1)})
	chunks, others := data(t, got.body)
	if text := join(chunks, "choices", 0, "text"); text != defaultText || len(others) != 1 {
		t.Errorf("text %q, others %q", text, others)
	}
	last := chunks[len(chunks)-1]
	if at(any(last), "usage", "total_tokens") != 16.0 || last["object"] != "text_completion" {
		t.Errorf("last chunk %v", last)
	}
}

func TestResponsesStream(t *testing.T) {
	t.Parallel()
	message := func(deltas string) string {
		return "response.created response.in_progress response.output_item.added response.content_part.added " +
			"response.output_text.delta" + deltas + " response.output_text.done response.content_part.done response.output_item.done "
	}
	calling := "response.created response.in_progress response.output_item.added " +
		"response.function_call_arguments.delta*2 response.function_call_arguments.done response.output_item.done "
	withTool := strings.Replace(inputBody, `{`, `{"tools":[{"type":"function","name":"weather","parameters":`+weather+`}],"tool_choice":"required",`, 1)
	tests := []struct {
		name, body, sequence string
		delta                string
	}{
		{"message", inputBody, message("*2") + "response.completed", strings.Repeat(filler, 2)[:16]},
		{"cut", strings.Replace(inputBody, `{`, `{"max_output_tokens":1,`, 1), message("") + "response.incomplete", filler[:8]},
		{"tool", withTool, calling + "response.completed", weatherArgs},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, call{path: "/v1/responses", body: streaming(test.body), headers: []string{"X-Sandbox-Chunks: 2"}})
			values, others := data(t, got.body)
			if len(others) > 0 {
				t.Errorf("events without JSON: %q", others)
			}
			var names []string
			deltas := 0
			for i, v := range values {
				name, _ := v["type"].(string)
				if v["sequence_number"] != float64(i) {
					t.Errorf("event %d has sequence number %v", i, v["sequence_number"])
				}
				if strings.HasSuffix(name, ".delta") {
					deltas++
					names = append(names[:len(names)-min(1, deltas-1)], fmt.Sprintf("%s*%d", name, deltas))
					continue
				}
				names = append(names, name)
			}
			sequence := strings.ReplaceAll(strings.Join(names, " "), "*1", "")
			if diff := cmp.Diff(test.sequence, sequence); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if text := join(values, "delta"); text != test.delta {
				t.Errorf("deltas %q, want %q", text, test.delta)
			}
			if u := at(any(values[0]), "response", "usage"); u != nil {
				t.Errorf("usage at the start: %v", u)
			}
			last := values[len(values)-1]
			s := l.sole(t)
			if at(any(last), "response", "usage", "output_tokens") != float64(s.Usage.Output) || !s.UsageReported || !s.Complete {
				t.Errorf("last event %v, recorded %+v", last, s)
			}
		})
	}
}

func TestMessagesStream(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	got := l.do(t, call{path: "/v1/messages", body: streaming(messagesBody), headers: []string{
		"X-Sandbox-Chunks: 2", "X-Sandbox-Content: Bonjour 🙂 %22you%22", "X-Sandbox-Completion: 40", "X-Sandbox-Reasoning: 7",
		"X-Sandbox-Cached: 100", "X-Sandbox-Cache-Write: 10", "X-Sandbox-Cache_Write_Long: 20", "X-Sandbox-Searches: 1",
	}})
	values, _ := data(t, got.body)
	var names []string
	for _, v := range values {
		names = append(names, fmt.Sprint(v["type"]))
	}
	want := []string{
		"message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
		"content_block_stop", "message_delta", "message_stop",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	if text := join(values, "delta", "text"); text != `Bonjour 🙂 "you"` {
		t.Errorf("text %q", text)
	}
	start := `{"cache_creation":{"ephemeral_1h_input_tokens":20,"ephemeral_5m_input_tokens":10},"cache_creation_input_tokens":30,` +
		`"cache_read_input_tokens":100,"inference_geo":"global","input_tokens":5,"output_tokens":1,"service_tier":"standard"}`
	if u := encoded(at(any(values[0]), "message", "usage")); u != start {
		t.Errorf("usage at the start %s", u)
	}
	end := `{"cache_creation_input_tokens":30,"cache_read_input_tokens":100,"input_tokens":5,"output_tokens":40,` +
		`"output_tokens_details":{"thinking_tokens":7},"server_tool_use":{"web_fetch_requests":0,"web_search_requests":1}}`
	if u := encoded(values[6]["usage"]); u != end {
		t.Errorf("usage at the end %s", u)
	}
	wantUsage := metering.Usage{Input: 5, CacheRead: 100, CacheWrite: 10, CacheWriteLong: 20, Output: 40, Reasoning: 7, WebSearches: 1}
	if s := l.sole(t); s.Usage != wantUsage || !s.Complete || s.Tier != "standard" {
		t.Errorf("recorded %+v", s)
	}
}

func TestMessagesStreamOfTools(t *testing.T) {
	t.Parallel()
	body := strings.Replace(streaming(messagesBody), `{`, `{"tools":[{"name":"weather","input_schema":`+weather+`}],`, 1)
	got := newLab(t).do(t, call{path: "/v1/messages", body: body, headers: []string{"X-Sandbox-Tool: 1", "X-Sandbox-Chunks: 5"}})
	values, _ := data(t, got.body)
	if args := join(values, "delta", "partial_json"); args != weatherArgs {
		t.Errorf("arguments %q", args)
	}
	if encoded(at(any(values[1]), "content_block", "input")) != `{}` || join(values, "delta", "stop_reason") != "tool_use" {
		t.Errorf("stream %s", got.body)
	}
}

// TestGeminiStream compares the event stream and the array: the same chunks
// in two framings, both with CRLF.
func TestGeminiStream(t *testing.T) {
	t.Parallel()
	const path = "/v1beta/models/gemini-2.5-pro+chunks=2,reasoning=10,content=H%25C3%25A9llo:streamGenerateContent"
	chunk := func(text, finish, counts string) string {
		return `{"candidates":[{"content":{"parts":[{"text":"` + text + `"}],"role":"model"},"index":0` + finish + `}],` +
			`"usageMetadata":{"promptTokenCount":5,` + counts + `,"promptTokensDetails":[{"modality":"TEXT","tokenCount":5}]},` +
			`"modelVersion":"gemini-2.5-pro","responseId":"ID"}`
	}
	full := `"candidatesTokenCount":1,"thoughtsTokenCount":10,"totalTokenCount":16`
	chunks := []string{
		chunk("Hé", ``, `"thoughtsTokenCount":10,"totalTokenCount":15`),
		chunk("llo", ``, full),
		chunk("", `,"finishReason":"STOP"`, full),
	}
	tests := map[string]struct{ query, contentType, want string }{
		"events": {"?alt=sse", "text/event-stream", "data: " + strings.Join(chunks, "\r\n\r\ndata: ") + "\r\n\r\n"},
		"array":  {"", "application/json; charset=UTF-8", "[" + strings.Join(chunks, ",\r\n") + "]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, call{path: path + test.query, body: geminiBody})
			s := l.sole(t)
			body := strings.ReplaceAll(string(got.body), s.ID, "ID")
			if diff := cmp.Diff(test.want, strings.ReplaceAll(body, `é`, "é")); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if ct := got.header.Get("Content-Type"); ct != test.contentType {
				t.Errorf("content type %q", ct)
			}
			if want := (metering.Usage{Input: 5, Output: 11, Reasoning: 10}); s.Usage != want || !s.Complete || !s.Stream {
				t.Errorf("recorded %+v", s)
			}
		})
	}
}

func TestGeminiUsageOnFinish(t *testing.T) {
	t.Parallel()
	got := newLab(t).do(t, call{
		path: "/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse", body: geminiBody,
		headers: []string{"X-Sandbox-Fail: usage_on_finish"},
	})
	if n, at := bytes.Count(got.body, []byte("usageMetadata")), bytes.Index(got.body, []byte("usageMetadata")); n != 1 || at < bytes.Index(got.body, []byte("finishReason")) {
		t.Errorf("body %s", got.body)
	}
}

// TestSizes checks the keys that say how large an answer is.
func TestSizes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		body    string
		headers []string
		chunks  int
		text    int
		least   int
		most    int
		output  int64
	}{
		{"chunks alone make words", streaming(chatBody), []string{"X-Sandbox-Chunks: 50"}, 50, 400, 0, 1 << 20, 50},
		{"text in pieces", streaming(chatBody), []string{"X-Sandbox-Text-Bytes: 10000"}, 3, 10000, 0, 1 << 20, 1250},
		{"total of a stream", streaming(chatBody), []string{"X-Sandbox-Total-Bytes: 100000"}, 25, 100000, 100000, 110000, 12500},
		{"big line", streaming(chatBody), []string{"X-Sandbox-Fail: big_line"}, 1, 1 << 20, 1 << 20, 2 << 20, 1 << 17},
		{"total of a whole body", chatBody, []string{"X-Sandbox-Total-Bytes: 5000"}, 0, 0, 5000, 5000, 369},
		{"no text at all", streaming(chatBody), []string{"X-Sandbox-Text-Bytes: 0"}, 0, 0, 0, 1000, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, call{path: chatPath, body: test.body, headers: test.headers})
			if n := len(got.body); n < test.least || n > test.most {
				t.Errorf("body has %d bytes, want %d to %d", n, test.least, test.most)
			}
			if s := l.sole(t); s.Usage.Output != test.output || !s.Complete {
				t.Errorf("recorded %+v", s)
			}
			if test.body == chatBody {
				parse(t, got.body)
				return
			}
			values, _ := data(t, got.body)
			chunks := 0
			for _, v := range values {
				if s, _ := at(any(v), "choices", 0, "delta", "content").(string); s != "" {
					chunks++
				}
			}
			if text := join(values, "choices", 0, "delta", "content"); chunks != test.chunks || len(text) != test.text {
				t.Errorf("%d chunks and %d bytes of text, want %d and %d", chunks, len(text), test.chunks, test.text)
			}
		})
	}
}
