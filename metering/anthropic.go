package metering

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"
)

var (
	// The provider writes the type first. A piece is only skipped by its
	// beginning: anywhere further on the text could be a tool's input, which
	// the client has a hand in.
	blockDelta = []byte(`{"type":"content_block_delta"`)
	ping       = []byte(`{"type":"ping"`)
)

func isMessageText(key []byte) bool {
	switch string(key) {
	case "text", "thinking", "partial_json":
		return true
	}
	return false
}

// messagesMeter reads Anthropic's messages. In a stream message_start has the
// input, and each message_delta totals that overwrite what was known.
type messagesMeter struct {
	reading    Reading
	usage      messageUsage
	searches   int64
	iterations []iteration
	stopped    bool
	// counted: a message_delta has told how much was generated. What
	// message_start says of the output is about its beginning.
	counted bool
}

func newMessagesMeter(int) Meter { return &messagesMeter{} }

func (m *messagesMeter) Reading() Reading { return m.reading }

func (m *messagesMeter) Read(piece []byte) {
	if bytes.HasPrefix(piece, blockDelta) {
		m.addText(piece)
		return
	}
	if bytes.HasPrefix(piece, ping) {
		return
	}
	event, ok := parseObject(piece)
	if !ok {
		return
	}
	switch event.Get("type").Str {
	case "message_start":
		m.readMessage(event.Get("message"))
	case "message_delta":
		m.readUsage(event.Get("usage"))
		m.reading.Closing = m.reading.Found
		if event.Get("usage.output_tokens").Exists() {
			m.counted, m.reading.TextAfter = true, 0
		}
	case "message_stop":
		m.stopped = true
		m.reading.Final, m.reading.Closing = m.reading.Found, false
	case "message":
		m.addText(piece)
		m.stopped = true
		m.readMessage(event)
	case "content_block_start":
		m.reading.Closing = false
	case "content_block_delta":
		m.addText(piece)
	case "error":
		m.reading.Failed = true
	}
}

func (m *messagesMeter) addText(piece []byte) {
	text, _ := glance(piece, isMessageText)
	m.reading.TextBytes += text
	m.reading.Closing = false // whatever a message_delta has said
	if m.counted {
		m.reading.TextAfter += text
	}
}

func (m *messagesMeter) readMessage(message gjson.Result) {
	rename(&m.reading.Model, message.Get("model"))
	m.readUsage(message.Get("usage"))
}

func (m *messagesMeter) readUsage(usage gjson.Result) {
	var t tally
	m.usage.read(usage, &t)
	t.set(&m.searches, usage.Get("server_tool_use.web_search_requests"))
	if tier := usage.Get("service_tier"); tier.Str != "" {
		m.reading.ServiceTier = unlessStandard(tier)
	}
	if speed := usage.Get("speed"); speed.Str != "" {
		m.reading.Speed = unlessStandard(speed)
	}
	if region := usage.Get("inference_geo"); region.Str != "" {
		m.reading.Region = unlessStandard(region)
	}
	if iterations := usage.Get("iterations"); iterations.IsArray() {
		m.iterations = readIterations(iterations, &t)
	}
	m.reading.Mismatch = m.reading.Mismatch || t.invalid
	if !m.usage.hasInput || !m.usage.hasOutput {
		return
	}
	m.reading.Found = true
	m.reading.Final = m.stopped
	m.divide()
}

// divide sets the reading's usage from what was read so far.
//
// Iterations, where there are any, are the whole bill: compactions are not in
// the top-level usage, and advisors and fallbacks ran on other models. The
// answering model's own messages are what the top level is about; everything
// else is apart, a compaction too, since each inference has its own context,
// and so its own long-context threshold.
func (m *messagesMeter) divide() {
	var t tally
	var own, all messageUsage
	var others []ModelUsage
	for _, it := range m.iterations {
		all.add(it.usage)
		model := it.model
		if model == "" {
			model = m.reading.Model
		}
		if it.kind == "message" && model == m.reading.Model {
			own.add(it.usage)
			continue
		}
		others = append(others, ModelUsage{Model: model, Usage: it.usage.buckets(&t)})
	}
	top := m.usage
	switch {
	case len(m.iterations) == 0 || own.sameTotals(top):
		// The top level also has the cache's lifetimes and the thinking.
	case all.covers(top):
		top = own
	default:
		t.invalid, others = true, nil
	}
	m.reading.Usage = top.buckets(&t)
	m.reading.Usage.WebSearches = m.searches
	m.reading.Others = others
	m.reading.Mismatch = m.reading.Mismatch || t.invalid
}

type iteration struct {
	kind, model string
	usage       messageUsage
}

// maxIterations bounds what a response may cost to read.
const maxIterations = 1000

func readIterations(array gjson.Result, t *tally) (iterations []iteration) {
	array.ForEach(func(_, v gjson.Result) bool {
		it := iteration{kind: strings.Clone(v.Get("type").Str)}
		rename(&it.model, v.Get("model"))
		it.usage.read(v, t)
		iterations = append(iterations, it)
		return len(iterations) < maxIterations
	})
	return iterations
}

// messageUsage is a usage as Anthropic reports it: the input has neither what
// was read from the cache nor what was written to it.
type messageUsage struct {
	input, cached, written, writtenLong, output, thinking int64
	hasInput, hasOutput                                   bool
}

// read overwrites what the usage has, and keeps the rest: message_delta has
// no lifetimes, for example. What is written to the cache beyond the long
// lifetime's part counts as short.
func (u *messageUsage) read(usage gjson.Result, t *tally) {
	hasWritten := false
	var lifetimes gjson.Result
	usage.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "input_tokens":
			if n, ok := t.count(value); ok {
				u.input, u.hasInput = n, true
			}
		case "output_tokens":
			if n, ok := t.count(value); ok {
				u.output, u.hasOutput = n, true
			}
		case "cache_read_input_tokens":
			t.set(&u.cached, value)
		case "cache_creation_input_tokens":
			if n, ok := t.count(value); ok {
				u.written, hasWritten = n, true
			}
		case "cache_creation":
			lifetimes = value
		case "output_tokens_details":
			t.set(&u.thinking, value.Get("thinking_tokens"))
		}
		return true
	})
	if !lifetimes.IsObject() {
		return
	}
	var short int64
	t.set(&short, lifetimes.Get("ephemeral_5m_input_tokens"))
	t.set(&u.writtenLong, lifetimes.Get("ephemeral_1h_input_tokens"))
	if !hasWritten {
		u.written = short + u.writtenLong
	}
	t.invalid = t.invalid || u.written != short+u.writtenLong
}

func (u *messageUsage) add(v messageUsage) {
	u.input += v.input
	u.cached += v.cached
	u.written += v.written
	u.writtenLong += v.writtenLong
	u.output += v.output
	u.thinking += v.thinking
}

func (u *messageUsage) sameTotals(v messageUsage) bool {
	return u.input == v.input && u.cached == v.cached && u.written == v.written && u.output == v.output
}

func (u *messageUsage) covers(v messageUsage) bool {
	return u.input+u.cached+u.written >= v.input+v.cached+v.written && u.output >= v.output
}

func (u *messageUsage) buckets(t *tally) Usage {
	long := t.atMost(u.writtenLong, u.written)
	return Usage{
		Input:          u.input,
		CacheRead:      u.cached,
		CacheWrite:     u.written - long,
		CacheWriteLong: long,
		Output:         u.output,
		Reasoning:      t.atMost(u.thinking, u.output),
	}
}

// unlessStandard is the value in lower case, or empty if it means the usual.
func unlessStandard(v gjson.Result) string {
	value := strings.ToLower(v.Str)
	switch value {
	case "standard", "default", "auto", "unspecified", "on_demand", "global", "not_available":
		return ""
	}
	return strings.Clone(value)
}
