package metering

import (
	"strings"

	"github.com/tidwall/gjson"
)

// geminiMeter reads Gemini's generateContent: a whole body, or the events or
// elements of a stream, each with running totals of which the last one counts.
type geminiMeter struct {
	reading Reading
	counts  geminiCounts
	answers answers
	blocked bool
	// embeds: the response has no candidates to wait for.
	embeds bool
}

func newGeminiMeter(choices int) Meter { return &geminiMeter{answers: answers{asked: choices}} }
func newGeminiEmbedMeter(int) Meter    { return &geminiMeter{embeds: true} }

func (m *geminiMeter) Reading() Reading { return m.reading }

func (m *geminiMeter) Read(piece []byte) {
	body, ok := parse(piece)
	if !ok {
		return
	}
	// An error of a stream that was asked for as an array is in an array, be
	// it the only thing in the body.
	if body.IsArray() {
		body.ForEach(func(_, element gjson.Result) bool {
			m.readResponse(element)
			return true
		})
		return
	}
	m.readResponse(body)
}

func (m *geminiMeter) readResponse(body gjson.Result) {
	if !body.IsObject() {
		return
	}
	before, told, goesOn := m.reading.TextBytes, false, false
	body.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "modelVersion":
			rename(&m.reading.Model, value)
		case "error":
			m.reading.Failed = m.reading.Failed || isFailure(value)
		case "promptFeedback":
			m.blocked = m.blocked || value.Get("blockReason").Str != ""
		case "candidates":
			goesOn = m.readCandidates(value)
		case "usageMetadata":
			told = m.readUsage(value)
		}
		return true
	})
	switch {
	case told:
		m.reading.TextAfter = 0
	case m.reading.Found:
		m.reading.TextAfter += m.reading.TextBytes - before
	}
	m.reading.Final = m.reading.Found && (m.embeds || m.blocked || m.answers.complete())
	m.reading.Closing = m.reading.Found && !m.reading.Final && m.answers.seen != 0 && m.answers.over() && !goesOn
}

// readCandidates tells whether a candidate that had finished has more text.
func (m *geminiMeter) readCandidates(candidates gjson.Result) (goesOn bool) {
	candidates.ForEach(func(_, candidate gjson.Result) bool {
		bit, before := m.answers.see(candidate.Get("index").Num), m.reading.TextBytes
		candidate.Get("content.parts").ForEach(func(_, part gjson.Result) bool {
			m.reading.TextBytes += int64(len(part.Get("text").Str) + len(part.Get("functionCall.args").Raw))
			return true
		})
		more := m.reading.TextBytes > before
		goesOn = goesOn || more && m.answers.finished&bit != 0
		switch {
		case candidate.Get("finishReason").Str != "":
			m.answers.finished |= bit
		case more:
			m.answers.finished &^= bit
		}
		return true
	})
	return goesOn
}

func (m *geminiMeter) readUsage(usage gjson.Result) (told bool) {
	told = m.counts.read(usage)
	m.reading.Found = m.reading.Found || told
	m.reading.Usage, m.reading.Mismatch = m.counts.usage()
	if tier := geminiTier(usage); tier.Str != "" {
		m.reading.ServiceTier = strings.TrimPrefix(unlessStandard(tier), "on_demand_")
	}
	return told
}

// geminiTier is the tier that was served. Vertex AI calls it the type of
// traffic.
func geminiTier(usage gjson.Result) gjson.Result {
	if tier := usage.Get("serviceTier"); tier.Str != "" {
		return tier
	}
	return usage.Get("trafficType")
}

// geminiCounts is a usage as Gemini reports it. Zeros are left out, thoughts
// are not in the candidates, and what tools put into the prompt is not in the
// prompt.
type geminiCounts struct {
	invalid                                          bool
	prompt, toolPrompt, cached, candidates, thoughts int64
	total                                            int64
	hasTotal                                         bool
	audio, image, toolAudio, toolImage               int64
	cachedAudio, candidatesAudio, candidatesImage    int64
}

// read overwrites each field that the usage has. It returns if there was a
// valid one.
func (c *geminiCounts) read(usage gjson.Result) (found bool) {
	var t tally
	c.hasTotal = false
	usage.ForEach(func(key, value gjson.Result) bool {
		into := c.field(key.Str)
		if into == nil {
			c.readModalities(key.Str, value, &t)
			return true
		}
		if n, ok := t.count(value); ok {
			*into = n
			found = true
			c.hasTotal = c.hasTotal || into == &c.total
		}
		return true
	})
	c.invalid = t.invalid
	return found
}

func (c *geminiCounts) field(key string) *int64 {
	switch key {
	case "promptTokenCount":
		return &c.prompt
	case "toolUsePromptTokenCount":
		return &c.toolPrompt
	case "cachedContentTokenCount":
		return &c.cached
	case "candidatesTokenCount", "responseTokenCount":
		return &c.candidates
	case "thoughtsTokenCount":
		return &c.thoughts
	case "totalTokenCount":
		return &c.total
	}
	return nil
}

func (c *geminiCounts) readModalities(key string, details gjson.Result, t *tally) {
	switch key {
	case "promptTokensDetails":
		c.audio, c.image = modalities(details, t)
	case "toolUsePromptTokensDetails":
		c.toolAudio, c.toolImage = modalities(details, t)
	case "cacheTokensDetails":
		c.cachedAudio, _ = modalities(details, t)
	case "candidatesTokensDetails", "responseTokensDetails":
		c.candidatesAudio, c.candidatesImage = modalities(details, t)
	}
}

// modalities sums the tokens that may be priced apart. Text, video and
// documents are not.
func modalities(details gjson.Result, t *tally) (audio, image int64) {
	details.ForEach(func(_, part gjson.Result) bool {
		n, _ := t.count(part.Get("tokenCount"))
		switch part.Get("modality").Str {
		case "AUDIO":
			audio = min(audio+n, maxCount-1)
		case "IMAGE":
			image = min(image+n, maxCount-1)
		}
		return true
	})
	return audio, image
}

// usage divides the counts into disjoint buckets. Where the usage is nothing
// but a total, it is taken for input, and a mismatch.
func (c *geminiCounts) usage() (u Usage, mismatch bool) {
	t := tally{invalid: c.invalid}
	input := c.prompt + c.toolPrompt
	output := c.candidates + c.thoughts
	if input == 0 && output == 0 {
		input = c.total
		t.invalid = t.invalid || c.total > 0
	}
	u = prompt{
		total:       input,
		cached:      c.cached,
		cachedAudio: c.cachedAudio,
		audio:       c.audio + c.toolAudio,
		image:       c.image + c.toolImage,
	}.usage(&t)
	u.OutputAudio = t.atMost(c.candidatesAudio, c.candidates)
	u.OutputImage = t.atMost(c.candidatesImage, c.candidates-u.OutputAudio)
	u.Output = output - u.OutputAudio - u.OutputImage
	u.Reasoning = c.thoughts
	return u, t.invalid || c.hasTotal && c.total != input+output
}
