// Package sandbox is a scripted model provider. One handler speaks the wire
// formats of the OpenAI, Anthropic and Gemini APIs closely enough for their
// official SDKs, does on request what a real provider does only on its worst
// days, and counts exactly what it served, so that a gateway's books can be
// compared with it.
//
// # Routes
//
// OpenAI, with and without the /v1 prefix: chat/completions, responses,
// completions, embeddings, moderations, models, files. Anthropic:
// /v1/messages, /v1/messages/count_tokens, /v1/models. Gemini, under /v1 and
// /v1beta: models/{model}:generateContent, :streamGenerateContent,
// :countTokens, :embedContent, :batchEmbedContents, and models. /echo/...
// answers with what arrived. Any other path is the provider's own 404.
//
//	GET  /sandbox/served[?after=SEQ]  what was served, oldest first
//	GET  /sandbox/totals              exact counts and sums
//	POST /sandbox/reset               forget everything
//
// # Credentials
//
// Every route but /echo and /sandbox wants a credential where the provider
// wants it; any value does, except "bad-key". A gateway's own key (sk-proxy-)
// anywhere in the headers or the query is refused and counted as leaked.
//
// # Numbers
//
// A prompt costs a token for each four bytes of its text, at least one, and
// an answer a token for each word. Scripted numbers win. In scripts, as in
// package metering, prompt and completion are inclusive totals, and the other
// token counts are parts of them.
//
// # Scripts
//
// A request is scripted by headers, X-Sandbox-Cache-Write: 100, or by a suffix
// of its model's name, gpt-4o+chunks=50,delay=10ms. The suffix wins where both
// set a key. In content, and in any value of a suffix, %XX is a byte.
//
//	Key               Value     Effect
//	prompt            tokens    input, in total
//	cached            tokens    part of prompt that was read from the cache
//	cache_write       tokens    part of prompt written to the cache, short lifetime
//	cache_write_long  tokens    part of prompt written to the cache, long lifetime
//	audio             tokens    part of prompt that is audio (OpenAI chat, Gemini)
//	tool_prompt       tokens    part of prompt that tools added (Gemini)
//	completion        tokens    output, in total
//	reasoning         tokens    part of completion spent on thinking
//	searches          count     web searches (Responses, Anthropic, Gemini)
//	tier              name      the service tier that the answer reports
//	speed, geo        name      the speed and region that the answer reports (Anthropic)
//	content           text      the answer's text
//	text_bytes        bytes     the answer's text is filler of this size
//	total_bytes       bytes     the body has at least this size: filler, and in
//	                            whole bodies white space up to exactly this size
//	chunks            count     pieces the text is streamed in: default one a
//	                            word, and one for each 4 KiB of filler
//	tool              1         call the first tool that the request offers
//	first_delay       duration  wait before the first event, or the whole answer
//	delay             duration  wait between chunks
//	gzip              1         compress, whether the client asked or not
//	id                text      recorded in Served.ScriptID; key of fail_times
//	status            400-599   answer this error
//	retry_after       seconds   Retry-After of that error
//	fail              mode      see below
//	fail_after        chunks    chunks to send before failing: default 1, and
//	                            none at all, not even headers, for reset and stall
//	fail_times        count     fail (or status) only for so many requests with
//	                            this id, then answer normally
//
// A whole body counts as two chunks: fail_after sends its first half.
//
//	Mode               What happens
//	reset              the TCP connection is reset
//	stall              nothing more is sent until the client goes away
//	truncate           the body ends in good order, but unfinished
//	error              an error event inside the stream; status 500 if not streamed
//	broken_sse         an event that is not JSON, then on as if nothing happened
//	big_line           all text in one event: 1 MiB, unless a size is scripted
//	no_usage           no usage is reported
//	usage_on_finish    usage comes with the last choice (OpenAI chat and
//	                   completions) or the last chunk (Gemini) only, asked for or not
//	usage_every_chunk  running usage in every chunk (the same, Gemini's default)
//	slow_headers       first_delay, default 10s, before the headers
//	empty              status 200 without a body
//	html               an HTML page, status 200 unless scripted
package sandbox
