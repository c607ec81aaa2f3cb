package metering_test

import (
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	start := func(usage string) string {
		return `{"type":"message_start","message":{"model":"m","usage":{` + usage + `}}}`
	}
	delta := func(usage string) string {
		return `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{` + usage + `}}`
	}
	const stop = `{"type":"message_stop"}`
	whole := func(usage string) []string { return []string{`{"type":"message","model":"m","usage":{` + usage + `}}`} }
	runMeterTests(t, map[string]meterTest{
		"cache repeated in the delta is not added": {
			messages, []string{
				start(`"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":1`),
				delta(`"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":20`), stop,
			},
			metering.Reading{Usage: metering.Usage{Input: 10, CacheRead: 1000, CacheWrite: 100, Output: 20}, Model: "m", Found: true, Final: true},
		},
		"a delta with nothing but the output": {
			messages, []string{start(`"input_tokens":10,"cache_read_input_tokens":1000,"output_tokens":1`), delta(`"output_tokens":20`), stop},
			metering.Reading{Usage: metering.Usage{Input: 10, CacheRead: 1000, Output: 20}, Model: "m", Found: true, Final: true},
		},
		"nulls overwrite nothing": {
			messages, []string{
				start(`"input_tokens":10,"cache_creation_input_tokens":null,"cache_creation":null,"cache_read_input_tokens":5,"output_tokens":1,"server_tool_use":null`),
				delta(`"input_tokens":null,"cache_read_input_tokens":null,"output_tokens":20,"output_tokens_details":null`), stop,
			},
			metering.Reading{Usage: metering.Usage{Input: 10, CacheRead: 5, Output: 20}, Model: "m", Found: true, Final: true},
		},
		"writes that grew after the split are short": {
			messages, []string{
				start(`"input_tokens":1,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":1`),
				delta(`"cache_creation_input_tokens":350,"output_tokens":2`), stop,
			},
			metering.Reading{Usage: metering.Usage{Input: 1, CacheWrite: 150, CacheWriteLong: 200, Output: 2}, Model: "m", Found: true, Final: true},
		},
		"writes without a split are short": {
			messages, whole(`"input_tokens":1,"cache_creation_input_tokens":300,"output_tokens":1`),
			metering.Reading{Usage: metering.Usage{Input: 1, CacheWrite: 300, Output: 1}, Model: "m", Found: true, Final: true},
		},
		"a split without writes": {
			messages, whole(`"input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":2},"output_tokens":1`),
			metering.Reading{Usage: metering.Usage{Input: 1, CacheWrite: 1, CacheWriteLong: 2, Output: 1}, Model: "m", Found: true, Final: true},
		},
		"a split that contradicts": {
			messages, whole(`"input_tokens":1,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":2},"output_tokens":1`),
			mismatched(metering.Reading{Usage: metering.Usage{Input: 1, CacheWrite: 298, CacheWriteLong: 2, Output: 1}, Model: "m", Found: true, Final: true}),
		},
		"not final before the stop": {
			messages, []string{start(`"input_tokens":10,"output_tokens":1`), delta(`"output_tokens":20`)},
			metering.Reading{Usage: metering.Usage{Input: 10, Output: 20}, Model: "m", Found: true, Closing: true},
		},
		"a stop without usage": {
			messages, []string{`{"type":"message_start","message":{"model":"m"}}`, stop},
			metering.Reading{Model: "m"},
		},
		"text, thinking and tool input": {
			messages, []string{
				`{"type":"content_block_delta","delta":{"type":"text_delta","text":"abc"}}`,
				`{"type": "content_block_delta","delta":{"type":"thinking_delta","thinking":"de"}}`,
				`{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"f"}}`,
				`{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"zzzz"}}`, `{"type":"ping"}`,
			},
			metering.Reading{TextBytes: 3 + 2 + 4},
		},
		"a tool's input that looks like a delta": {
			messages, []string{`{"type":"message","model":"m","content":[{"type":"tool_use","input":{"type":"content_block_delta","usage":{"input_tokens":0}}}],"usage":{"input_tokens":9,"output_tokens":8}}`},
			metering.Reading{Usage: metering.Usage{Input: 9, Output: 8}, Model: "m", Found: true, Final: true},
		},
		"tier, speed and region in the usual": {
			messages, whole(`"input_tokens":1,"output_tokens":1,"service_tier":"standard","speed":"standard","inference_geo":"not_available"`),
			metering.Reading{Usage: metering.Usage{Input: 1, Output: 1}, Model: "m", Found: true, Final: true},
		},
		"tier, speed and region apart": {
			messages, whole(`"input_tokens":1,"output_tokens":1,"service_tier":"batch","speed":"fast","inference_geo":"us"`),
			metering.Reading{Usage: metering.Usage{Input: 1, Output: 1}, Model: "m", ServiceTier: "batch", Speed: "fast", Region: "us", Found: true, Final: true},
		},
		"an absurd count": {
			messages, whole(`"input_tokens":-3,"output_tokens":1`),
			metering.Reading{Model: "m", Mismatch: true},
		},
	})
}

func TestMessageIterations(t *testing.T) {
	t.Parallel()
	whole := func(top, iterations string) []string {
		return []string{`{"type":"message","model":"m","usage":{` + top + `,"server_tool_use":{"web_search_requests":2},"iterations":[` + iterations + `]}}`}
	}
	reading := func(u metering.Usage, others ...metering.ModelUsage) metering.Reading {
		u.WebSearches = 2
		return metering.Reading{Usage: u, Others: others, Model: "m", Found: true, Final: true}
	}
	const top = `"input_tokens":100,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":50,"output_tokens_details":{"thinking_tokens":9}`
	const message = `{"type":"message","model":"m","input_tokens":100,"cache_creation_input_tokens":30,"cache_creation":null,"output_tokens":50}`
	own := metering.Usage{Input: 100, CacheWrite: 10, CacheWriteLong: 20, Output: 50, Reasoning: 9}
	runMeterTests(t, map[string]meterTest{
		"none": {messages, whole(top, ""), reading(own)},
		"one that is the top level keeps its details": {messages, whole(top, message), reading(own)},
		"two that are the top level together": {
			messages, whole(top, `{"type":"message","input_tokens":60,"cache_creation_input_tokens":30,"output_tokens":20},{"type":"message","input_tokens":40,"output_tokens":30}`),
			reading(own),
		},
		"a compaction has its own context": {
			messages, whole(top, `{"type":"compaction","input_tokens":180000,"output_tokens":3500},`+message),
			reading(own, metering.ModelUsage{Model: "m", Usage: metering.Usage{Input: 180000, Output: 3500}}),
		},
		"an advisor on another model": {
			messages, whole(top, message+`,{"type":"advisor_message","model":"big","input_tokens":7,"cache_read_input_tokens":3,"output_tokens":2}`),
			reading(own, metering.ModelUsage{Model: "big", Usage: metering.Usage{Input: 7, CacheRead: 3, Output: 2}}),
		},
		"a message on another model": {
			messages, whole(`"input_tokens":100,"output_tokens":50`, `{"type":"message","model":"other","input_tokens":100,"output_tokens":0},{"type":"fallback_message","model":"m","input_tokens":110,"output_tokens":50}`),
			reading(metering.Usage{},
				metering.ModelUsage{Model: "other", Usage: metering.Usage{Input: 100}},
				metering.ModelUsage{Model: "m", Usage: metering.Usage{Input: 110, Output: 50}}),
		},
		"fewer than the top level": {
			messages, whole(top, `{"type":"message","input_tokens":1,"output_tokens":1}`), mismatched(reading(own)),
		},
		"an absurd one": {
			messages, whole(top, message+`,{"type":"compaction","input_tokens":-1,"output_tokens":3}`),
			mismatched(reading(own, metering.ModelUsage{Model: "m", Usage: metering.Usage{Output: 3}})),
		},
	})
}
