package metering

import "github.com/tidwall/gjson"

// imageTool is the model of a responses' image generation when the response
// does not name it. No price list has it, so it counts as unpriced.
const imageTool = "image_generation"

func isDelta(key []byte) bool { return string(key) == "delta" }

func isResponseText(key []byte) bool {
	switch string(key) {
	case "text", "arguments":
		return true
	}
	return false
}

// responsesMeter reads OpenAI's responses: named events, of which the last one
// has the whole response, or a whole body.
type responsesMeter struct{ reading Reading }

func newResponsesMeter(int) Meter { return &responsesMeter{} }

func (m *responsesMeter) Reading() Reading { return m.reading }

func (m *responsesMeter) Read(piece []byte) {
	deltas, matters := glance(piece, isDelta)
	if !matters && m.reading.Model != "" {
		m.reading.TextBytes += deltas
		return
	}
	body, ok := parseObject(piece)
	if !ok {
		return
	}
	switch body.Get("object").Str {
	case "response", "response.compaction":
		text, _ := glance(piece, isResponseText)
		m.reading.TextBytes += text
		m.readResponse(body)
		return
	}
	kind, response := body.Get("type").Str, body.Get("response")
	switch {
	case kind == "error" || isFailure(body.Get("error")):
		m.reading.Failed = true
	case response.IsObject():
		m.readResponse(response)
		if kind == "response.completed" || kind == "response.incomplete" || kind == "response.failed" {
			m.reading.Final = m.reading.Found
		}
	default:
		m.reading.TextBytes += deltas
	}
}

func (m *responsesMeter) readResponse(response gjson.Result) {
	var usage, tools, used gjson.Result
	over := false
	response.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "model":
			rename(&m.reading.Model, value)
		case "service_tier":
			setTier(&m.reading.ServiceTier, value)
		case "error":
			m.reading.Failed = m.reading.Failed || isFailure(value)
		case "status":
			m.reading.Failed = m.reading.Failed || value.Str == "failed"
			over = value.Str != "queued" && value.Str != "in_progress"
		case "object":
			over = over || value.Str == "response.compaction"
		case "usage":
			usage = value
		case "tools":
			tools = value
		case "tool_usage":
			used = value
		}
		return true
	})
	if !usage.IsObject() {
		return
	}
	counts, ok := readOpenAICounts(usage)
	if m.reading.Mismatch = counts.invalid; !ok {
		return
	}
	m.reading.Usage, m.reading.Mismatch = counts.usage()
	m.reading.Found = true
	m.reading.Final = over
	m.readTools(tools, used)
}

// readTools reads what the provider's own tools used: searches, and images,
// which another model made.
func (m *responsesMeter) readTools(tools, used gjson.Result) {
	var searches tally
	searches.set(&m.reading.Usage.WebSearches, used.Get("web_search.num_requests"))
	m.reading.Mismatch = m.reading.Mismatch || searches.invalid
	images := used.Get("image_gen")
	if !images.IsObject() {
		return
	}
	counts, ok := readOpenAICounts(images)
	if !ok {
		m.reading.Mismatch = m.reading.Mismatch || counts.invalid
		return
	}
	usage, mismatch := counts.usage()
	m.reading.Mismatch = m.reading.Mismatch || mismatch
	if usage == (Usage{}) {
		return
	}
	model := imageTool
	rename(&model, tools.Get(`#(type=="image_generation").model`))
	m.reading.Others = []ModelUsage{{Model: model, Usage: usage}}
}
