package ending

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// gemini is Gemini's streamGenerateContent, as events or as one JSON array.
type gemini struct {
	stream Stream
	// begun tells that an element of the array precedes.
	begun bool
	// first is the first chunk with a candidate. What all chunks have in
	// common is read from it at the end.
	first      []byte
	candidates choices
}

// See keeps the first chunk. After it, a single candidate needs no more than
// the last chunk; of several, each chunk says which it is of.
func (t *gemini) See(data []byte) {
	t.begun = t.begun || len(data) > 0
	switch {
	case t.first == nil:
		if view(data).Get("candidates.0").Exists() {
			t.first = bytes.Clone(data)
		}
	case t.stream.Choices > 1:
		t.read(view(data))
	}
}

// read notes the candidates of a chunk.
func (t *gemini) read(chunk gjson.Result) {
	chunk.Get("candidates").ForEach(func(_, candidate gjson.Result) bool {
		t.candidates.see(candidate.Get("index").Int(), candidate.Get("finishReason").Str != "")
		return true
	})
}

func (t *gemini) End(last []byte, usage metering.Usage) []byte {
	var dst []byte
	switch {
	case t.stream.Framing == metering.EventStream:
		dst = append(dst, "data: "...)
	case t.begun:
		dst = append(dst, ",\r\n"...)
	default:
		dst = append(dst, '[')
	}
	var tail []byte
	if first := view(t.first); t.first != nil {
		tail = appendMembers(nil, first, "modelVersion", "responseId")
		t.read(first)
		t.read(view(last))
	} else {
		t.candidates = choices{{}}
	}
	dst = append(dst, `{"candidates":[`...)
	open := slices.DeleteFunc(slices.Clone(t.candidates), func(c choice) bool { return c.finished })
	for i, c := range open {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, `{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"MAX_TOKENS","index":%d}`, c.index)
	}
	dst = append(append(dst, `],`...), tail...)
	dst = append(appendGeminiUsage(append(dst, `"usageMetadata":`...), usage), '}')
	if t.stream.Framing == metering.EventStream {
		return append(dst, "\r\n\r\n"...)
	}
	return append(dst, ']')
}

// appendGeminiUsage appends the usage metadata, in which no field but the
// total is zero.
func appendGeminiUsage(dst []byte, u metering.Usage) []byte {
	dst = append(dst, '{')
	for _, field := range [...]struct {
		name  string
		count int64
	}{
		{"promptTokenCount", u.Prompt()},
		{"cachedContentTokenCount", u.Cached()},
		{"candidatesTokenCount", u.Completion() - u.Reasoning},
		{"thoughtsTokenCount", u.Reasoning},
	} {
		if field.count != 0 {
			dst = fmt.Appendf(dst, `"%s":%d,`, field.name, field.count)
		}
	}
	return fmt.Appendf(dst, `"totalTokenCount":%d}`, u.Prompt()+u.Completion())
}
