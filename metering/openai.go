package metering

import (
	"bytes"

	"github.com/tidwall/gjson"
)

var streamEnd = []byte("[DONE]")

func isChatText(key []byte) bool {
	switch string(key) {
	case "content", "reasoning_content", "reasoning", "refusal", "arguments":
		return true
	}
	return false
}

func isCompletionText(key []byte) bool { return string(key) == "text" }

func isNoText([]byte) bool { return false }

// chatMeter reads chat completions, legacy completions and embeddings: whole
// bodies and streams, of OpenAI and of the many servers that speak its
// dialect.
type chatMeter struct {
	reading Reading
	isText  func(key []byte) bool
	// hidesThinking: completion_tokens may leave out the thinking, which only
	// the total has then.
	hidesThinking bool
	answers       answers
}

func newChatMeter(choices int) Meter {
	return &chatMeter{isText: isChatText, answers: answers{asked: choices}}
}

func newCompletionMeter(choices int) Meter {
	return &chatMeter{isText: isCompletionText, answers: answers{asked: choices}}
}

func newEmbeddingsMeter(choices int) Meter {
	return &chatMeter{isText: isNoText, answers: answers{asked: choices}}
}

func newGeminiChatMeter(choices int) Meter {
	return &chatMeter{isText: isChatText, hidesThinking: true, answers: answers{asked: choices}}
}

func (m *chatMeter) Reading() Reading { return m.reading }

func (m *chatMeter) Read(piece []byte) {
	if bytes.HasPrefix(piece, streamEnd) {
		m.reading.Final = m.reading.Found
		return
	}
	var told report
	nameless := m.reading.Model == ""
	if nameless {
		told = m.readBody(piece)
		if m.reading.Final {
			// A body that came whole. With its usage nothing is estimated.
			return
		}
	}
	text, matters := glance(piece, m.isText)
	m.reading.TextBytes += text
	if matters && !nameless {
		told = m.readBody(piece)
	}
	if m.reading.Found && !told.usage {
		m.reading.TextAfter += text
	}
	if text > 0 && !told.finish {
		m.reading.Closing = false // it goes on
	}
}

// report is what a piece has told: a usage, and with it that one more answer
// has finished.
type report struct{ usage, finish bool }

func (m *chatMeter) readBody(piece []byte) (told report) {
	body, ok := parseObject(piece)
	if !ok {
		return told
	}
	var usage, choices gjson.Result
	body.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "model":
			rename(&m.reading.Model, value)
		case "service_tier":
			setTier(&m.reading.ServiceTier, value)
		case "error":
			m.reading.Failed = m.reading.Failed || isFailure(value)
		case "usage":
			usage = value
		case "choices":
			choices = value
		}
		return true
	})
	if usage.IsObject() {
		told = m.readUsage(usage, choices)
	}
	return told
}

// readUsage overwrites: a usage on several events is a running total.
func (m *chatMeter) readUsage(usage, choices gjson.Result) (told report) {
	counts, ok := readOpenAICounts(usage)
	if m.reading.Mismatch = counts.invalid; !ok {
		return told
	}
	if m.hidesThinking {
		counts.addHidden()
	}
	m.reading.Usage, m.reading.Mismatch = counts.usage()
	m.reading.Found, m.reading.TextAfter = true, 0
	told.usage = true
	none := true
	choices.ForEach(func(_, choice gjson.Result) bool {
		none = false
		if m.readChoice(choice) {
			told.finish = true
		}
		return true
	})
	// Without choices it is the extra event of include_usage, or a body that
	// has none. With choices, more usage may follow until all have finished.
	m.reading.Final = none || m.answers.complete()
	m.reading.Closing = m.answers.over() && !m.reading.Final
	return told
}

// readChoice tells whether the choice finishes for the first time.
func (m *chatMeter) readChoice(choice gjson.Result) (ends bool) {
	var finished bool
	var index float64
	choice.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "index":
			index = value.Num
		case "finish_reason":
			finished = finished || isFailure(value)
		case "message":
			finished = true
		case "error":
			m.reading.Failed = m.reading.Failed || isFailure(value)
		}
		return true
	})
	bit := m.answers.see(index)
	if finished {
		ends = m.answers.finished&bit == 0
		m.answers.finished |= bit
	}
	return ends
}

// setTier overwrites a service tier with the name that it is priced under.
func setTier(tier *string, v gjson.Result) {
	if v.Str == "" {
		return
	}
	if *tier = unlessStandard(v); *tier == "fast" {
		*tier = "priority"
	}
}

// openAICounts is a usage as OpenAI reports it, in either of its dialects:
// prompt and completion tokens, or input and output tokens.
type openAICounts struct {
	tally
	prompt, completion, total int64
	hasTotal                  bool

	cached, cachedAudio, written, writtenLong, audio, image int64
	reasoning, audioOut, imageOut                           int64
}

// readOpenAICounts is not ok if the usage has no valid count of tokens.
func readOpenAICounts(usage gjson.Result) (c openAICounts, ok bool) {
	var hasPrompt, hasCompletion bool
	usage.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "prompt_tokens", "input_tokens":
			c.prompt, hasPrompt = c.count(value)
		case "completion_tokens", "output_tokens":
			c.completion, hasCompletion = c.count(value)
		case "total_tokens":
			c.total, c.hasTotal = c.count(value)
		case "prompt_tokens_details", "input_tokens_details":
			c.readPromptDetails(value)
		case "completion_tokens_details", "output_tokens_details":
			c.readCompletionDetails(value)
		}
		return true
	})
	switch {
	case hasPrompt && hasCompletion:
	case c.invalid || !c.hasTotal && !hasPrompt && !hasCompletion:
		return c, false
	case !c.hasTotal:
		// Embeddings have no completion.
	case hasCompletion:
		c.prompt = max(c.total-c.completion, 0)
	default:
		c.completion = 0
		if hasPrompt {
			c.completion = max(c.total-c.prompt, 0)
		} else {
			c.prompt = c.total
		}
	}
	return c, true
}

func (c *openAICounts) readPromptDetails(details gjson.Result) {
	details.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "cached_tokens":
			c.set(&c.cached, value)
		case "cached_tokens_details":
			c.set(&c.cachedAudio, value.Get("audio_tokens"))
		case "cache_write_tokens":
			c.set(&c.written, value)
		case "cache_write_tokens_details":
			c.set(&c.writtenLong, value.Get("ttl_12h_tokens"))
		case "audio_tokens":
			c.set(&c.audio, value)
		case "image_tokens":
			c.set(&c.image, value)
		}
		return true
	})
}

func (c *openAICounts) readCompletionDetails(details gjson.Result) {
	details.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "reasoning_tokens":
			c.set(&c.reasoning, value)
		case "audio_tokens":
			c.set(&c.audioOut, value)
		case "image_tokens":
			c.set(&c.imageOut, value)
		}
		return true
	})
}

// addHidden adds the generated tokens that only the total has.
func (c *openAICounts) addHidden() {
	if c.hasTotal && c.total > c.prompt+c.completion {
		c.completion = c.total - c.prompt
	}
}

// usage divides the counts into disjoint buckets.
func (c *openAICounts) usage() (u Usage, mismatch bool) {
	// Some compatible servers leave the reasoning out of the completion. They
	// give themselves away by a total that has it.
	if c.hasTotal && c.reasoning > 0 && c.total == c.prompt+c.completion+c.reasoning {
		c.completion += c.reasoning
	}
	u = prompt{
		total:       c.prompt,
		cached:      c.cached,
		cachedAudio: c.cachedAudio,
		written:     c.written,
		writtenLong: c.writtenLong,
		audio:       c.audio,
		image:       c.image,
	}.usage(&c.tally)
	u.OutputAudio = c.atMost(c.audioOut, c.completion)
	u.OutputImage = c.atMost(c.imageOut, c.completion-u.OutputAudio)
	u.Output = c.completion - u.OutputAudio - u.OutputImage
	c.atMost(c.reasoning, c.completion)
	u.Reasoning = min(c.reasoning, u.Output)
	return u, c.invalid || c.hasTotal && c.total != c.prompt+c.completion
}

// prompt is an input side that includes everything: the total of all tokens,
// and parts of it that may overlap, since tokens of each kind may be cached.
type prompt struct {
	total                                                   int64
	cached, cachedAudio, written, writtenLong, audio, image int64
}

// usage divides the prompt into buckets that add up to its total.
func (p prompt) usage(t *tally) (u Usage) {
	cached := t.atMost(p.cached, p.total)
	written := t.atMost(p.written, p.total-cached)
	audio := t.atMost(p.audio, p.total)
	image := t.atMost(p.image, p.total-audio)

	u.CacheWriteLong = t.atMost(p.writtenLong, written)
	u.CacheWrite = written - u.CacheWriteLong
	u.CacheReadAudio = min(p.cachedAudio, cached, audio)
	u.CacheRead = cached - u.CacheReadAudio
	u.InputAudio = audio - u.CacheReadAudio
	u.InputImage = image
	u.Input = p.total - cached - written - u.InputAudio - u.InputImage
	if u.Input >= 0 {
		return u
	}
	// So many tokens must be in two parts at once. Providers that do not say
	// which kinds were cached count audio and images from the cache in both.
	over := -u.Input
	u.Input = 0
	audioToo := min(over, u.InputAudio, u.CacheRead)
	u.InputAudio -= audioToo
	u.CacheReadAudio += audioToo
	u.CacheRead -= audioToo
	over -= audioToo
	imageToo := min(over, u.InputImage)
	u.InputImage -= imageToo
	u.InputAudio -= over - imageToo
	return u
}
