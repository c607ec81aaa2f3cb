package metering_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// chatBody is a whole chat completion with the usage's members.
func chatBody(usage string) []string {
	return []string{`{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{` + usage + `}}`}
}

func chatReading(u metering.Usage) metering.Reading {
	return metering.Reading{Usage: u, Model: "m", Found: true, Final: true}
}

func TestChatBuckets(t *testing.T) {
	t.Parallel()
	runMeterTests(t, map[string]meterTest{
		"cache reads and writes are inside the prompt": {
			chat, chatBody(`"prompt_tokens":2600,"completion_tokens":10,"total_tokens":2610,"prompt_tokens_details":{"cached_tokens":2000,"cache_write_tokens":400}`),
			chatReading(metering.Usage{Input: 200, CacheRead: 2000, CacheWrite: 400, Output: 10}),
		},
		"details may be null": {
			chat, chatBody(`"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,"prompt_tokens_details":null,"completion_tokens_details":{"reasoning_tokens":null}`),
			chatReading(metering.Usage{Input: 5, Output: 1}),
		},
		"audio and images are apart, both ways": {
			chat, chatBody(`"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"audio_tokens":30,"image_tokens":20,"text_tokens":50},"completion_tokens_details":{"audio_tokens":40,"text_tokens":10,"reasoning_tokens":4}`),
			chatReading(metering.Usage{Input: 50, InputAudio: 30, InputImage: 20, Output: 10, OutputAudio: 40, Reasoning: 4}),
		},
		"cached audio is named": {
			chat, chatBody(`"prompt_tokens":900,"completion_tokens":0,"total_tokens":900,"prompt_tokens_details":{"audio_tokens":700,"text_tokens":200,"cached_tokens":640,"cached_tokens_details":{"text_tokens":128,"audio_tokens":512}}`),
			chatReading(metering.Usage{Input: 72, InputAudio: 188, CacheRead: 128, CacheReadAudio: 512}),
		},
		"cached audio is not named but follows from the sums": {
			chat, chatBody(`"prompt_tokens":1000,"completion_tokens":0,"total_tokens":1000,"prompt_tokens_details":{"audio_tokens":300,"cached_tokens":900}`),
			chatReading(metering.Usage{InputAudio: 100, CacheRead: 700, CacheReadAudio: 200}),
		},
		"cached images are not named but follow from the sums": {
			chat, chatBody(`"prompt_tokens":1000,"completion_tokens":0,"total_tokens":1000,"prompt_tokens_details":{"image_tokens":300,"cached_tokens":900}`),
			chatReading(metering.Usage{InputImage: 100, CacheRead: 900}),
		},
		"reasoning that a compatible server leaves out of the completion": {
			chat, chatBody(`"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}`),
			chatReading(metering.Usage{Input: 10, Output: 105, Reasoning: 100}),
		},
		"a zero of the provider is found": {
			chat, chatBody(`"prompt_tokens":0,"completion_tokens":0,"total_tokens":0`),
			chatReading(metering.Usage{}),
		},
		"numbers as strings": {
			chat, chatBody(`"prompt_tokens":"7","completion_tokens":"3","total_tokens":"10"`),
			chatReading(metering.Usage{Input: 7, Output: 3}),
		},
		"the completion follows from the total": {
			chat, chatBody(`"prompt_tokens":7,"total_tokens":10`),
			chatReading(metering.Usage{Input: 7, Output: 3}),
		},
		"the total contradicts": {
			chat, chatBody(`"prompt_tokens":7,"completion_tokens":3,"total_tokens":11`),
			mismatched(chatReading(metering.Usage{Input: 7, Output: 3})),
		},
		"more cached than there is": {
			chat, chatBody(`"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":8,"cache_write_tokens":1}`),
			mismatched(chatReading(metering.Usage{CacheRead: 7, Output: 3})),
		},
		"more reasoning than completion": {
			chat, chatBody(`"prompt_tokens":7,"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":4}`),
			mismatched(chatReading(metering.Usage{Input: 7, Output: 3, Reasoning: 3})),
		},
		"more audio than output": {
			chat, chatBody(`"prompt_tokens":7,"completion_tokens":3,"completion_tokens_details":{"audio_tokens":4}`),
			mismatched(chatReading(metering.Usage{Input: 7, OutputAudio: 3})),
		},
		"an absurd part": {
			chat, chatBody(`"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-1}`),
			mismatched(chatReading(metering.Usage{Input: 7, Output: 3})),
		},
	})
}

func TestCountsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, n := range []string{"-1", "1000000000", "1e30", "1e999", "0.5", `"many"`, `"NaN"`, "true", "{}"} {
		t.Run(n, func(t *testing.T) {
			t.Parallel()
			want := metering.Reading{Model: "m", Mismatch: true, TextBytes: 2}
			got := read(chat, chatBody(`"completion_tokens":3,"prompt_tokens":`+n)...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("reading (-want +got):\n%s", diff)
			}
		})
	}
}

func chunk(members string) string { return `{"model":"m",` + members + `}` }

func TestChatStreams(t *testing.T) {
	t.Parallel()
	const unfinished, finished = `"choices":[{"index":0,"delta":{"content":"abc"}}]`, `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`
	const usage = `,"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}`
	found := metering.Usage{Input: 9, Output: 5}
	runMeterTests(t, map[string]meterTest{
		"usage on a chunk that is not the last": {
			chat, []string{chunk(unfinished + usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, TextBytes: 3},
		},
		"usage on the finish chunk, no [DONE]": {
			chat, []string{chunk(unfinished), chunk(finished + usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, TextBytes: 3},
		},
		"one of two choices has finished": {
			chat, []string{
				chunk(`"choices":[{"index":1,"delta":{"content":"x"}}]` + usage),
				chunk(finished + usage),
			},
			metering.Reading{Usage: found, Model: "m", Found: true, TextBytes: 1},
		},
		"running totals until [DONE]": {
			chat, []string{
				chunk(unfinished + `,"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}`),
				chunk(unfinished + usage), "[DONE]",
			},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, TextBytes: 6},
		},
		"[DONE] without usage": {
			chat, []string{chunk(unfinished), "[DONE]"},
			metering.Reading{Model: "m", TextBytes: 3},
		},
		"reasoning, refusals and arguments are text": {
			chat, []string{
				chunk(`"choices":[{"delta":{"reasoning_content":"12"}}]`), chunk(`"choices":[{"delta":{"refusal" : "123"}}]`),
				chunk(`"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"a\""}}]}}]`),
			},
			metering.Reading{Model: "m", TextBytes: 2 + 3 + 6},
		},
		"text about usage is not usage": {
			chat, []string{chunk(unfinished), chunk(`"choices":[{"delta":{"content":"{\"usage\":{\"prompt_tokens\":1}}"}}],"usage":null`)},
			metering.Reading{Model: "m", TextBytes: 3 + 33},
		},
		"a usage after one that is null in the same chunk": {
			chat, []string{chunk(unfinished), chunk(`"choices":[{"delta":{},"usage":null,"finish_reason":"stop"}]` + usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, TextBytes: 3},
		},
		"the tier is the response's, once known": {
			chat, []string{chunk(`"service_tier":"auto",` + unfinished), chunk(`"service_tier":"fast","choices":[]` + usage), chunk(`"service_tier":null,"choices":[]` + usage)},
			metering.Reading{Usage: found, Model: "m", ServiceTier: "priority", Found: true, Final: true, TextBytes: 3},
		},
		"an error in the stream, a broken piece and an array are no usage": {
			chat, []string{chunk(unfinished), `{"error":{"message":"boom"}}`, `{"usage":{"prompt_tokens":1,`, `[{"usage":{}}]`},
			metering.Reading{Model: "m", Failed: true, TextBytes: 3},
		},
		"an error that is a string": {
			chat, []string{chunk(unfinished), `{"error":"boom"}`},
			metering.Reading{Model: "m", Failed: true, TextBytes: 3},
		},
		"an error of one choice": {
			chat, []string{chunk(`"choices":[{"index":0,"delta":{},"error":{"code":502},"finish_reason":"error"}]` + usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, Failed: true},
		},
		"an empty usage is none": {
			chat, []string{chunk(finished + `,"usage":{}`)},
			metering.Reading{Model: "m"},
		},
		"legacy completions count their text": {
			completions, []string{chunk(`"choices":[{"index":0,"text":"Once"}]`), chunk(`"choices":[]` + usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, TextBytes: 4},
		},
		"embeddings without a total": {
			embeddings, []string{`{"data":[],"model":"e","usage":{"prompt_tokens":8}}`},
			metering.Reading{Usage: metering.Usage{Input: 8}, Model: "e", Found: true, Final: true},
		},
		"thinking that only the total has": {
			geminiChat, []string{chunk(`"choices":[]` + `,"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":215}`)},
			metering.Reading{Usage: metering.Usage{Input: 10, Output: 205}, Model: "m", Found: true, Final: true},
		},
	})
}

func TestResponses(t *testing.T) {
	t.Parallel()
	const usage = `"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":20,"output_tokens_details":{"reasoning_tokens":8},"total_tokens":120}`
	found := metering.Usage{Input: 40, CacheRead: 60, Output: 20, Reasoning: 8}
	body := func(members string) []string {
		return []string{`{"object":"response","model":"m","error":null,` + members + `}`}
	}
	event := func(kind, members string) string {
		return fmt.Sprintf(`{"type":%q,"response":{"object":"response","model":"m",%s}}`, kind, members)
	}
	runMeterTests(t, map[string]meterTest{
		"searches are counted by the provider": {
			responses, body(`"status":"completed",` + usage + `,"tool_usage":{"web_search":{"num_requests":3}}`),
			metering.Reading{Usage: metering.Usage{Input: 40, CacheRead: 60, Output: 20, Reasoning: 8, WebSearches: 3}, Model: "m", Found: true, Final: true},
		},
		"images are another model's": {
			responses, body(`"status":"completed","tools":[{"type":"web_search"},{"type":"image_generation","model":"gpt-image-1"}],` + usage +
				`,"tool_usage":{"image_gen":{"input_tokens":50,"output_tokens":4160,"total_tokens":4210,"output_tokens_details":{"image_tokens":4160}}}`),
			metering.Reading{
				Usage: found, Model: "m", Found: true, Final: true,
				Others: []metering.ModelUsage{{Model: "gpt-image-1", Usage: metering.Usage{Input: 50, OutputImage: 4160}}},
			},
		},
		"images of a model that is not named": {
			responses, body(`"status":"completed",` + usage + `,"tool_usage":{"image_gen":{"input_tokens":50,"output_tokens":10}}`),
			metering.Reading{
				Usage: found, Model: "m", Found: true, Final: true,
				Others: []metering.ModelUsage{{Model: "image_generation", Usage: metering.Usage{Input: 50, Output: 10}}},
			},
		},
		"no images, no part": {
			responses, body(`"status":"completed",` + usage + `,"tool_usage":{"image_gen":{"input_tokens":0,"output_tokens":0}}`),
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true},
		},
		"a failed response that used something": {
			responses, []string{event("response.created", `"usage":null`), event("response.failed", `"status":"failed","error":{"code":"x"},`+usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, Failed: true},
		},
		"a terminal event without a status": {
			responses, []string{event("response.completed", usage)},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true},
		},
		"a flat error event": {
			responses, []string{event("response.created", `"usage":null`), `{"type":"error","code":"server_error","message":"boom"}`},
			metering.Reading{Model: "m", Failed: true},
		},
		"deltas are text, what repeats them is not": {
			responses, []string{
				event("response.created", `"usage":null`), `{"type":"response.output_text.delta","delta":"abc"}`, `{"type":"response.function_call_arguments.delta","delta":"{\"a"}`,
				`{"type":"response.output_text.done","text":"abc"}`, event("response.completed", `"output":[{"content":[{"text":"abc"}]}],`+usage),
			},
			metering.Reading{Usage: found, Model: "m", Found: true, Final: true, TextBytes: 3 + 4},
		},
		"deltas before the model is known": {
			responses, []string{`{"type":"response.output_text.delta","delta":"abc"}`},
			metering.Reading{TextBytes: 3},
		},
		"in progress is not final": {
			responses, body(`"status":"in_progress",` + usage),
			metering.Reading{Usage: found, Model: "m", Found: true},
		},
		"a compaction": {
			compact, []string{`{"object":"response.compaction","output":[],` + usage + `}`},
			metering.Reading{Usage: found, Found: true, Final: true},
		},
		"an error body": {
			responses, []string{`{"error":{"message":"no","type":"invalid_request_error"}}`},
			metering.Reading{Failed: true},
		},
	})
}
