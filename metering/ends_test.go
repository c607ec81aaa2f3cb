package metering_test

import (
	"fmt"
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestMetersDoNotTakeAPauseForTheEnd reads responses that go on after what
// looks like their end, and tells after each piece whether it was one.
func TestMetersDoNotTakeAPauseForTheEnd(t *testing.T) {
	t.Parallel()
	const (
		open    = "open"
		closing = "closing"
		final   = "final"
	)
	choice := func(index int, text, finish string, completion int) string {
		return fmt.Sprintf(`{"model":"m","choices":[{"index":%d,"delta":{"content":%q},"finish_reason":%s}],`+
			`"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}`, index, text, finish, completion, completion+1)
	}
	silent := func(index int, text, finish string) string {
		return fmt.Sprintf(`{"model":"m","choices":[{"index":%d,"delta":{"content":%q},"finish_reason":%s}]}`, index, text, finish)
	}
	candidate := func(index int, text, finish string) string {
		return fmt.Sprintf(`{"candidates":[{"index":%d,"content":{"parts":[{"text":%q}]}%s}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2},"modelVersion":"m"}`, index, text, finish)
	}
	type step struct {
		piece, want string
		textAfter   int64
	}
	const (
		start   = `{"type":"message_start","message":{"model":"m","usage":{"input_tokens":10,"output_tokens":1}}}`
		block   = `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`
		text    = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"12345"}}`
		totals  = `{"type":"message_delta","delta":{},"usage":{"output_tokens":7}}`
		stop    = `{"type":"message_stop"}`
		stopped = `,"finishReason":"STOP"`
	)
	for name, x := range map[string]struct {
		endpoint metering.Endpoint
		choices  int64
		steps    []step
	}{
		"totals in the middle of a message": {messages, 1, []step{
			{start, open, 0}, {text, open, 0}, {totals, closing, 0}, {`{"type":"ping"}`, closing, 0}, {text, open, 5}, {text, open, 10},
			{totals, closing, 0}, {block, open, 0}, {`{"index":0, "type":"content_block_delta","delta":{"text":"1"}}`, open, 1}, {totals, closing, 0}, {stop, final, 0},
		}},
		"totals without output": {messages, 1, []step{
			{start, open, 0}, {totals, closing, 0}, {text, open, 5},
			{`{"type":"message_delta","usage":{"input_tokens":10}}`, closing, 5}, {stop, final, 5},
		}},
		"one choice": {chat, 1, []step{{choice(0, "a", "null", 1), open, 0}, {choice(0, "b", `"stop"`, 2), final, 0}}},
		"a second choice that is late": {chat, 2, []step{
			{choice(0, "a", "null", 1), open, 0}, {choice(0, "b", `"stop"`, 2), closing, 0}, {choice(1, "c", "null", 3), open, 0},
			{choice(1, "", `"stop"`, 3), final, 0},
		}},
		"a second choice without usage": {chat, 2, []step{
			{choice(0, "a", `"stop"`, 1), closing, 0}, {silent(1, "12345", "null"), open, 5}, {silent(1, "", `"stop"`), open, 5}, {"[DONE]", final, 5},
		}},
		"a first choice that goes on": {chat, 2, []step{
			{choice(0, "a", `"stop"`, 1), closing, 0}, {choice(0, "b", "null", 2), open, 0}, {choice(0, "", `"stop"`, 2), closing, 0}, {silent(0, "b", "null"), open, 1},
		}},
		"a first choice that finishes with each text": {chat, 2, []step{
			{choice(0, "a", `"stop"`, 1), closing, 0}, {choice(0, "b", `"stop"`, 2), open, 0}, {choice(0, "b", `"stop"`, 3), open, 0}, {choice(0, "", `"stop"`, 3), closing, 0},
		}},
		"a second choice that never comes": {chat, 2, []step{
			{choice(0, "a", `"stop"`, 1), closing, 0}, {`{"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, final, 0},
		}},
		"chunks without a model": {chat, 2, []step{
			{`{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, closing, 0},
			{`{"choices":[{"index":1,"delta":{"content":"abc"}}]}`, open, 3},
		}},
		"a second text": {completions, 2, []step{
			{`{"model":"m","choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, closing, 0},
			{`{"model":"m","choices":[{"index":1,"text":"abc","finish_reason":null}]}`, open, 3},
		}},
		"more choices than are told apart": {chat, 65, []step{
			{choice(0, "a", `"stop"`, 1), closing, 0}, {choice(64, "a", "null", 1), open, 0},
		}},
		"one candidate": {generate, 1, []step{{candidate(0, "a", ""), open, 0}, {candidate(0, "b", stopped), final, 0}}},
		"a second candidate that is late": {generate, 2, []step{
			{candidate(0, "a", stopped), closing, 0}, {candidate(1, "b", ""), open, 0}, {candidate(1, "c", stopped), final, 0},
		}},
		"a first candidate that goes on": {generate, 2, []step{
			{candidate(0, "a", stopped), closing, 0}, {candidate(0, "b", ""), open, 0},
			{`{"candidates":[{"index":0,"content":{"parts":[{"text":"abc"}]}}]}`, open, 3}, {candidate(0, "", stopped), closing, 0},
		}},
		"a first candidate that finishes with each text": {generate, 2, []step{
			{candidate(0, "a", stopped), closing, 0}, {candidate(0, "b", stopped), open, 0}, {candidate(0, "", stopped), closing, 0},
		}},
		"a prompt that was blocked": {generate, 2, []step{
			{`{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":1}}`, final, 0},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := x.endpoint.NewMeter(metering.Request{Choices: x.choices})
			for i, s := range x.steps {
				m.Read([]byte(s.piece))
				reading, got := m.Reading(), open
				switch {
				case reading.Final:
					got = final
				case reading.Closing:
					got = closing
				}
				if got != s.want || reading.TextAfter != s.textAfter {
					t.Errorf("piece %d: %s with %d bytes of text after the usage, want %s with %d: %s", i, got, reading.TextAfter, s.want, s.textAfter, s.piece)
				}
			}
		})
	}
}
