package e2e

import (
	"net/http"
	"strconv"
)

// sdkCase is one SDK call: how the sandbox is told to answer it, and what
// must be booked for it. The Go and the JavaScript SDKs run the same cases.
type sdkCase struct {
	// ask is the model that is asked for; the charge names the one that
	// answers.
	ask string
	charge
	// tool makes the model call the tool that the request offers.
	tool bool
}

// The cases that every SDK runs, in Go and in JavaScript.
var sdkCases = map[string]sdkCase{
	"openai/chat": {ask: "gpt-4o", charge: charge{
		provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions",
		used: tokens{input: 176, cacheRead: 1024, output: 300},
	}},
	"openai/chat stream": {ask: "gpt-4o-mini", charge: charge{
		provider: "openai", model: "gpt-4o-mini-2024-07-18", endpoint: "chat/completions", streaming: true,
		used: tokens{input: 51, output: 13},
	}},
	"openai/tool call": {ask: "gpt-4o", tool: true, charge: charge{
		provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions",
		used: tokens{input: 83, output: 21},
	}},
	"openai/tool result": {ask: "gpt-4o", charge: charge{
		provider: "openai", model: "gpt-4o-2024-08-06", endpoint: "chat/completions",
		used: tokens{input: 127, output: 17},
	}},
	"openai/embeddings": {ask: "text-embedding-3-small", charge: charge{
		provider: "openai", model: "text-embedding-3-small", endpoint: "embeddings",
		used: tokens{input: 7777},
	}},
	"openai/responses": {ask: "gpt-5-mini", charge: charge{
		provider: "openai", model: "gpt-5-mini", endpoint: "responses",
		used: tokens{input: 86, cacheRead: 1920, output: 731, reasoning: 640},
	}},
	"openai/responses stream": {ask: "gpt-5-mini", charge: charge{
		provider: "openai", model: "gpt-5-mini", endpoint: "responses", streaming: true,
		used: tokens{input: 333, output: 99, reasoning: 64},
	}},
	"anthropic/messages": {ask: "claude-sonnet-4-5", charge: charge{
		provider: "anthropic", model: "claude-sonnet-4-5", endpoint: "messages",
		used: tokens{input: 12, cacheRead: 18_000, cacheWrite: 1_500, cacheWriteLong: 1_001, output: 420},
	}},
	"anthropic/messages stream": {ask: "claude-haiku-4-5", charge: charge{
		provider: "anthropic", model: "claude-haiku-4-5-20251001", endpoint: "messages", streaming: true,
		used: tokens{input: 30, cacheWrite: 2_048, output: 77},
	}},
	"anthropic/tool call": {ask: "claude-haiku-4-5", tool: true, charge: charge{
		provider: "anthropic", model: "claude-haiku-4-5-20251001", endpoint: "messages",
		used: tokens{input: 91, output: 33},
	}},
	"anthropic/tool result": {ask: "claude-haiku-4-5", charge: charge{
		provider: "anthropic", model: "claude-haiku-4-5-20251001", endpoint: "messages",
		used: tokens{input: 140, output: 12},
	}},
	"anthropic/count tokens": {ask: "claude-haiku-4-5", charge: charge{
		provider: "anthropic", model: "claude-haiku-4-5", endpoint: "messages/count_tokens", free: true,
	}},
	"gemini/generate": {ask: "gemini-2.5-pro", charge: charge{
		provider: "gemini", model: "gemini-2.5-pro", endpoint: "generateContent",
		used: tokens{input: 100_123, cacheRead: 100_001, output: 1020, reasoning: 900},
	}},
	"gemini/generate stream": {ask: "gemini-2.5-pro", charge: charge{
		provider: "gemini", model: "gemini-2.5-pro", endpoint: "streamGenerateContent", streaming: true,
		used: tokens{input: 199_999, cacheRead: 1, output: 7},
	}},
	"gemini/tool call": {ask: "gemini-2.5-flash", tool: true, charge: charge{
		provider: "gemini", model: "gemini-2.5-flash", endpoint: "generateContent",
		used: tokens{input: 61, output: 19},
	}},
	"gemini/tool result": {ask: "gemini-2.5-flash", charge: charge{
		provider: "gemini", model: "gemini-2.5-flash", endpoint: "generateContent",
		used: tokens{input: 95, output: 9},
	}},
	"gemini/count tokens": {ask: "gemini-2.5-flash", charge: charge{
		provider: "gemini", model: "gemini-2.5-flash", endpoint: "countTokens", free: true,
	}},
}

// script is the case as headers that tell the sandbox how to answer.
func (c sdkCase) script() map[string]string {
	script := map[string]string{}
	for name, n := range map[string]int64{
		"Prompt":           c.used.prompt(),
		"Cached":           c.used.cacheRead,
		"Cache-Write":      c.used.cacheWrite,
		"Cache-Write-Long": c.used.cacheWriteLong,
		"Completion":       c.used.output,
		"Reasoning":        c.used.reasoning,
	} {
		if n > 0 {
			script["X-Sandbox-"+name] = strconv.FormatInt(n, 10)
		}
	}
	if c.tool {
		script["X-Sandbox-Tool"] = "1"
	}
	return script
}

// header is the script with canonical names.
func (c sdkCase) header() http.Header {
	h := http.Header{}
	for k, v := range c.script() {
		h.Set(k, v)
	}
	return h
}
