package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// words counts the bytes of text in a message's content or in a prompt:
// a string, or an array of strings, of parts with a text, or of tokens, which
// count as four bytes each.
type words int

const tokenBytes = 4

func (n *words) UnmarshalJSON(data []byte) error {
	*n = 0
	switch data[0] {
	case '"':
		if bytes.IndexByte(data, '\\') < 0 { // the usual case, without decoding
			*n = words(len(data) - len(`""`))
			return nil
		}
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*n = words(len(s))
	case '[':
		var parts []words
		if err := json.Unmarshal(data, &parts); err != nil {
			return err
		}
		for _, part := range parts {
			*n += part
		}
	case '{':
		var part struct{ Text, Content words }
		if err := json.Unmarshal(data, &part); err != nil {
			return err
		}
		*n = part.Text + part.Content
	case 'n', 't', 'f':
	default:
		*n = tokenBytes
	}
	return nil
}

// openAITool is a tool as chat (nested) and Responses (flat) offer it.
type openAITool struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
	Function   struct {
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// openAIFormat is the structured output that a request wants, in chat
// (nested) and Responses (flat).
type openAIFormat struct {
	Schema     json.RawMessage `json:"schema"`
	JSONSchema struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

func (f openAIFormat) schema() json.RawMessage {
	if f.Schema != nil {
		return f.Schema
	}
	return f.JSONSchema.Schema
}

// openAITools reads the tools and the tool choice, which is a word or names a
// function.
func (q *question) openAITools(tools []openAITool, choice json.RawMessage) {
	for _, t := range tools {
		if name := first(t.Function.Name, t.Name); name != "" {
			schema := t.Function.Parameters
			if schema == nil {
				schema = t.Parameters
			}
			q.tools = append(q.tools, tool{name, schema})
		}
	}
	if len(choice) == 0 {
		return
	}
	if choice[0] == '"' {
		q.forced = string(choice) == `"required"`
		return
	}
	var named openAITool
	if json.Unmarshal(choice, &named) == nil {
		q.force = first(named.Function.Name, named.Name)
		q.forced = q.force != ""
	}
}

// openAITier is the tier that an answer reports for a requested one.
func openAITier(requested string) string {
	switch requested {
	case "", "auto":
		return "default"
	case "fast":
		return "priority"
	}
	return requested
}

type chatRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Role    string `json:"role"`
		Content words  `json:"content"`
	} `json:"messages"`
	Stream              bool            `json:"stream"`
	StreamOptions       streamOptions   `json:"stream_options"`
	N                   int             `json:"n"`
	MaxTokens           int64           `json:"max_tokens"`
	MaxCompletionTokens int64           `json:"max_completion_tokens"`
	ServiceTier         string          `json:"service_tier"`
	Tools               []openAITool    `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ResponseFormat      openAIFormat    `json:"response_format"`
}

type streamOptions struct {
	IncludeUsage       bool  `json:"include_usage"`
	IncludeObfuscation *bool `json:"include_obfuscation"`
}

// maxChoices is the most that n may ask for.
const maxChoices = 128

func (x *exchange) chat(string) error {
	var req chatRequest
	if err := x.readJSON(&req); err != nil {
		return err
	}
	if len(req.Messages) == 0 {
		return invalid("Missing required parameter: 'messages'.")
	}
	if req.N < 0 || req.N > maxChoices {
		return invalid("n: %d is not from 1 to %d", req.N, maxChoices)
	}
	pad := req.StreamOptions.IncludeObfuscation
	q := question{
		model: req.Model, stream: req.Stream, choices: req.N, tier: openAITier(req.ServiceTier),
		maxTokens: max(req.MaxTokens, req.MaxCompletionTokens), schema: req.ResponseFormat.schema(),
		wantsUsage: req.StreamOptions.IncludeUsage, plain: pad != nil && !*pad,
	}
	for _, m := range req.Messages {
		q.promptBytes += int(m.Content)
		q.answered = m.Role == "tool"
	}
	q.openAITools(req.Tools, req.ToolChoice)
	return x.generate(q, func(a *answer) dialect { return newChat(a, chatForm) })
}

func (x *exchange) completions(string) error {
	var req struct {
		Model         string        `json:"model"`
		Prompt        words         `json:"prompt"`
		Stream        bool          `json:"stream"`
		StreamOptions streamOptions `json:"stream_options"`
		MaxTokens     int64         `json:"max_tokens"`
	}
	if err := x.readJSON(&req); err != nil {
		return err
	}
	q := question{
		model: req.Model, stream: req.Stream, promptBytes: int(req.Prompt), maxTokens: req.MaxTokens,
		wantsUsage: req.StreamOptions.IncludeUsage, plain: true,
	}
	return x.generate(q, func(a *answer) dialect { return newChat(a, completionForm) })
}

// appendChatUsage appends the usage object of chat and completions.
func appendChatUsage(dst []byte, u metering.Usage) []byte {
	dst = fmt.Appendf(dst, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`,
		u.Prompt(), u.Completion(), u.Prompt()+u.Completion())
	dst = fmt.Appendf(dst, `"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":%d`, u.CacheRead, u.InputAudio)
	if u.CacheWrite > 0 {
		dst = strconv.AppendInt(append(dst, `,"cache_write_tokens":`...), u.CacheWrite, 10)
	}
	return fmt.Appendf(dst, `},"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,`+
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`, u.Reasoning)
}
