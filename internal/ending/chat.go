package ending

import (
	"bytes"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// chatForm and completionForm are where chat and legacy completions differ:
// how a choice ends that has begun, and one that has not.
var (
	chatForm = form{
		object: `"object":"chat.completion.chunk",`,
		last:   `"delta":{}`,
		only:   `"delta":{"role":"assistant","content":""}`,
	}
	completionForm = form{
		object: `"object":"text_completion",`,
		last:   `"text":""`,
		only:   `"text":""`,
	}
)

type form struct{ object, last, only string }

// chat is OpenAI's chat completions and legacy completions, of OpenAI and of
// the many servers that speak its dialect.
type chat struct {
	stream Stream
	form   form
	// first is the first chunk with a choice. What all chunks have in common
	// is read from it at the end.
	first   []byte
	choices choices
}

// See keeps the first chunk. After it, a single choice needs no more than the
// last chunk, since nothing follows the one that finishes it; of several, each
// chunk says which it is of.
func (t *chat) See(data []byte) {
	switch {
	case t.first == nil:
		if view(data).Get("choices.0").Exists() {
			t.first = bytes.Clone(data)
		}
	case t.stream.Choices > 1:
		t.read(view(data))
	}
}

// read notes the choices of a chunk.
func (t *chat) read(chunk gjson.Result) {
	chunk.Get("choices").ForEach(func(_, choice gjson.Result) bool {
		finish := choice.Get("finish_reason")
		t.choices.see(choice.Get("index").Int(), finish.Exists() && finish.Type != gjson.Null)
		return true
	})
}

func (t *chat) End(last []byte, usage metering.Usage) []byte {
	head, delta := append([]byte{'{'}, t.form.object...), t.form.only
	if first := view(t.first); t.first != nil {
		head = appendMembers([]byte{'{'}, first, "id", "object", "created", "model", "service_tier", "system_fingerprint")
		delta = t.form.last
		t.read(first)
		t.read(view(last))
	} else {
		t.choices = choices{{}}
	}
	var dst []byte
	for _, c := range t.choices {
		if c.finished {
			continue
		}
		dst = append(append(dst, "data: "...), head...)
		dst = fmt.Appendf(dst, `"choices":[{"index":%d,%s,"logprobs":null,"finish_reason":"length"}]`, c.index, delta)
		if t.stream.ShowsUsage {
			dst = append(dst, `,"usage":null`...)
		}
		dst = append(dst, "}\n\n"...)
	}
	if t.stream.ShowsUsage {
		dst = append(append(dst, "data: "...), head...)
		dst = fmt.Appendf(dst, `"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
			`"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}}`+"\n\n",
			usage.Prompt(), usage.Completion(), usage.Prompt()+usage.Completion(), usage.Cached(), usage.Reasoning)
	}
	return append(dst, "data: [DONE]\n\n"...)
}
