package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// question is what the sandbox needs to know of a request, in whatever
// protocol it came.
type question struct {
	model  string
	stream bool
	// promptBytes is the size of the text that the model reads.
	promptBytes int
	// maxTokens is the cap on generated tokens, 0 if there is none.
	maxTokens int64
	choices   int
	// wantsUsage tells that an OpenAI stream shall report its usage, plain
	// that it shall not be padded against eavesdroppers.
	wantsUsage bool
	plain      bool
	tools      []tool
	// forced tells that the request insists on a tool call, of the tool
	// named by force if that is set.
	forced bool
	force  string
	// answered tells that the conversation ends with a tool's result.
	answered bool
	// schema is what structured output must conform to, if anything.
	schema json.RawMessage
	// tier and speed are what the answer reports unless scripted.
	tier  string
	speed string
}

// tool is a function that a request offers.
type tool struct {
	name   string
	schema json.RawMessage
}

// answer is all that the sandbox has decided about its answer; a dialect
// puts it on the wire.
type answer struct {
	id      string
	created int64
	// model is the reported model, as a JSON string.
	model   []byte
	text    text
	usage   metering.Usage
	choices int
	// call is the name of the tool that the answer calls, with text as the
	// call's arguments; empty if the text is just said.
	call string
	// cut tells that the text was cut off at the request's token limit.
	cut               bool
	tier, speed, geo  string
	toolPrompt        int64
	wantsUsage, plain bool
	// fail changes how usage is reported: NoUsage, UsageOnFinish,
	// UsageEveryChunk.
	fail Failure
}

// snapshots are the dated models behind well-known aliases.
var snapshots = map[string]string{
	"gpt-4o":           "gpt-4o-2024-08-06",
	"gpt-4o-mini":      "gpt-4o-mini-2024-07-18",
	"claude-haiku-4-5": "claude-haiku-4-5-20251001",
}

// snapshot returns the name that an answer of the model reports.
func snapshot(model string) string {
	if dated, ok := snapshots[model]; ok {
		return dated
	}
	return model
}

// newAnswer decides what the question gets for an answer.
func newAnswer(q question, s *Script) (*answer, error) {
	a := &answer{
		choices: max(1, q.choices), wantsUsage: q.wantsUsage, plain: q.plain, fail: s.Fail,
		tier: first(s.Tier, q.tier), speed: first(s.Speed, q.speed), geo: s.Geo,
		toolPrompt: s.ToolPrompt,
	}
	a.say(q, s)
	words := a.text.words()
	if limit := q.maxTokens; limit > 0 && s.Completion == nil && words > limit && a.call == "" {
		a.text, a.cut = a.text.cut(limit), true
		words = limit
	}
	var err error
	a.usage, err = s.usage(q.promptBytes, words*int64(a.choices))
	return a, err
}

// say chooses the answer's text, or its tool call.
func (a *answer) say(q question, s *Script) {
	if len(q.tools) > 0 && !q.answered && (s.Tool || q.forced) {
		chosen := q.tools[0]
		for _, t := range q.tools {
			if t.name == q.force {
				chosen = t
			}
		}
		a.call = chosen.name
		a.text = literal(sample(chosen.schema), s.Chunks)
		return
	}
	if len(q.schema) > 0 && s.Content == nil && s.TextBytes == nil && s.TotalBytes == nil {
		a.text = literal(sample(q.schema), s.Chunks)
		return
	}
	a.text = s.newText(q.stream)
}

// usage counts what the answer costs. What is scripted wins over what is
// derived from the texts.
func (s *Script) usage(promptBytes int, words int64) (metering.Usage, error) {
	u := metering.Usage{
		InputAudio: s.Audio, CacheRead: s.Cached, CacheWrite: s.CacheWrite, CacheWriteLong: s.CacheWriteLong,
		Reasoning: s.Reasoning, WebSearches: s.Searches,
	}
	parts := u.Prompt()
	prompt := parts + s.ToolPrompt + max(1, int64(promptBytes/4))
	if s.Prompt != nil {
		prompt = *s.Prompt
	}
	if prompt < parts+s.ToolPrompt {
		return u, fmt.Errorf("script key \"prompt\": %d is less than its parts, %d", prompt, parts+s.ToolPrompt)
	}
	u.Input = prompt - parts
	u.Output = words + s.Reasoning
	if s.Completion != nil {
		u.Output = *s.Completion
	}
	if u.Output < s.Reasoning {
		return u, errors.New("script key \"completion\": less than reasoning, which is a part of it")
	}
	return u, nil
}

// usageAfter is what the answer has cost when so many pieces are out. All
// thinking comes before the first.
func (a *answer) usageAfter(pieces int) metering.Usage {
	u := a.usage
	if pieces < a.text.pieces {
		u.Output = u.Reasoning + (u.Output-u.Reasoning)*int64(pieces)/int64(a.text.pieces)
	}
	return u
}

// sample returns a JSON value that fits the schema, as far as types, enums
// and properties go.
func sample(schema json.RawMessage) string {
	var s any
	if json.Unmarshal(schema, &s) != nil {
		return "{}"
	}
	value, ok := sampleOf(s, 0).(map[string]any)
	if !ok {
		value = map[string]any{}
	}
	encoded, _ := json.Marshal(value) // made of plain values only
	return string(encoded)
}

// sampleDepth bounds how deep samples nest.
const sampleDepth = 8

func sampleOf(schema any, depth int) any {
	s, ok := schema.(map[string]any)
	if !ok || depth > sampleDepth {
		return nil
	}
	if v, ok := s["const"]; ok {
		return v
	}
	if enum, ok := s["enum"].([]any); ok && len(enum) > 0 {
		return enum[0]
	}
	switch schemaType(s) {
	case "object":
		object := map[string]any{}
		properties, _ := s["properties"].(map[string]any)
		for name, property := range properties {
			object[name] = sampleOf(property, depth+1)
		}
		return object
	case "array":
		return []any{sampleOf(s["items"], depth+1)}
	case "string":
		return "sandbox"
	case "number", "integer":
		return 1
	case "boolean":
		return true
	}
	return nil
}

// schemaType is the schema's type, in lower case since Gemini shouts.
func schemaType(s map[string]any) string {
	switch t := s["type"].(type) {
	case string:
		return strings.ToLower(t)
	case []any:
		if len(t) > 0 {
			name, _ := t[0].(string)
			return strings.ToLower(name)
		}
	}
	if s["properties"] != nil {
		return "object"
	}
	return ""
}

// first returns the first of two names that is not empty.
func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
