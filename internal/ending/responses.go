package ending

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"
)

// maxKept bounds the bytes that are kept of one response's output. Of a
// response with more, the end says that it is incomplete and leaves the output
// out: whoever put it together from its events has it anyway.
const maxKept = 1 << 20

// maxResponse bounds the response object that is kept. A larger one, which has
// long instructions or many tools, ends as one with the names of things only.
const maxResponse = 64 << 10

// responses is OpenAI's responses. Its closing events repeat the text that
// they close, and the last one all of the output.
type responses struct {
	// response is the object of response.created.
	response string
	items    []*item
	kept     int
	over     bool  // more than maxKept
	sequence int64 // of the next event, at the end
}

// item is an element of the output.
type item struct {
	index int64
	// head is the item as it was when it began.
	head  string
	parts []*part
	// done is the item as it was when it ended.
	done string
}

// part is a text in an item: of its content, of its summary, or the arguments
// of its call.
type part struct {
	kind  *kind
	index int64
	// head is the part as it was when it began; empty where it is a member of
	// the item itself.
	head string
	// text is as on the wire, without quotes. Pieces of JSON strings make one.
	text        []byte
	annotations []byte
	// said tells that its text was repeated at its end, and done is the part
	// as it was then.
	said bool
	done string
}

// kind is what texts are told apart by.
type kind struct {
	// delta and said are events: a piece of the text, and all of it.
	delta, said string
	// member has the text, in the event said and in the part or the item.
	member string
	// list is the item's member that has the part; empty where the text is
	// the item's own. index names its place there, and over is the event at
	// its end.
	list, index, over string
}

var kinds = []*kind{
	{"response.output_text.delta", "response.output_text.done", "text", "content", "content_index", "response.content_part.done"},
	{"response.refusal.delta", "response.refusal.done", "refusal", "content", "content_index", "response.content_part.done"},
	{"response.reasoning_text.delta", "response.reasoning_text.done", "text", "content", "content_index", "response.content_part.done"},
	{
		"response.reasoning_summary_text.delta", "response.reasoning_summary_text.done", "text",
		"summary", "summary_index", "response.reasoning_summary_part.done",
	},
	{delta: "response.function_call_arguments.delta", said: "response.function_call_arguments.done", member: "arguments"},
	{delta: "response.mcp_call_arguments.delta", said: "response.mcp_call_arguments.done", member: "arguments"},
	{delta: "response.custom_tool_call_input.delta", said: "response.custom_tool_call_input.done", member: "input"},
	{delta: "response.code_interpreter_call_code.delta", said: "response.code_interpreter_call_code.done", member: "code"},
}

// kindOf finds the kind by the type of a part as it begins.
func kindOf(partType string) *kind {
	switch partType {
	case "refusal":
		return kinds[1]
	case "reasoning_text":
		return kinds[2]
	case "summary_text":
		return kinds[3]
	}
	return kinds[0]
}

// event is what matters of an event. It lives as long as the data it is of.
type event struct {
	kind                            string
	output, place                   int64
	delta, item, part, response, at gjson.Result
}

func read(data []byte) (e event) {
	view(data).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "type":
			e.kind = value.Str
		case "output_index":
			e.output = value.Int()
		case "content_index", "summary_index":
			e.place = value.Int()
		case "delta":
			e.delta = value
		case "item":
			e.item = value
		case "part":
			e.part = value
		case "annotation":
			e.at = value
		case "response":
			e.response = value
		}
		return true
	})
	return e
}

func (t *responses) See(data []byte) {
	if t.over || t.seeText(data) {
		return
	}
	e := read(data)
	switch {
	case e.kind == "response.created":
		t.response = keptResponse(e.response)
		return
	case t.response == "":
		return
	}
	it := t.item(e.output)
	switch {
	case e.kind == "response.output_item.added":
		if it == nil {
			t.items = append(t.items, &item{index: e.output, head: t.keep(e.item.Raw)})
		}
	case it == nil || it.done != "":
	case e.kind == "response.output_item.done":
		it.done, it.parts = t.keep(e.item.Raw), nil
	case e.kind == "response.content_part.added" || e.kind == "response.reasoning_summary_part.added":
		it.parts = append(it.parts, &part{
			kind: kindOf(e.part.Get("type").Str), index: e.place, head: t.keep(e.part.Raw),
		})
	default:
		t.seePart(it, &e)
	}
}

// What a piece of text begins with as the provider writes it, and the members
// that matter of it. Quotes in a string are escaped, so none of these is part
// of the text.
var (
	textDelta    = []byte(`{"type":"response.output_text.delta"`)
	outputIndex  = []byte(`output_index":`)
	contentIndex = []byte(`content_index":`)
	deltaString  = []byte(`delta":"`)
)

// seeText takes the most frequent event without parsing it. It returns false
// if that event is none, or not in its usual form.
func (t *responses) seeText(data []byte) bool {
	if !bytes.HasPrefix(data, textDelta) {
		return false
	}
	output, hasOutput := number(data, outputIndex)
	place, hasPlace := number(data, contentIndex)
	_, text, hasText := bytes.Cut(data, deltaString)
	it := t.item(output)
	if !hasOutput || !hasPlace || !hasText || it == nil {
		return false
	}
	for _, p := range it.parts {
		if p.index == place && p.kind == kinds[0] {
			text = text[:stringLength(text)]
			if t.count(len(text)); !t.over {
				p.text = append(p.text, text...)
			}
			return true
		}
	}
	return false
}

// number reads the digits behind a name.
func number(data, name []byte) (n int64, ok bool) {
	i := bytes.Index(data, name)
	if i < 0 {
		return 0, false
	}
	for _, digit := range data[i+len(name):] {
		if digit < '0' || digit > '9' || n > maxKept {
			break
		}
		n, ok = 10*n+int64(digit-'0'), true
	}
	return n, ok
}

// stringLength is the length of a JSON string, from behind its opening quote.
func stringLength(text []byte) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return len(text)
}

// seePart follows the texts in an item.
func (t *responses) seePart(it *item, e *event) {
	for _, p := range it.parts {
		switch {
		case p.index != e.place:
		case e.kind == p.kind.delta:
			t.append(&p.text, e.delta)
			return
		case e.kind == p.kind.said:
			p.said = true
			return
		case e.kind == p.kind.over:
			p.done = t.keep(e.part.Raw)
			return
		case e.kind == "response.output_text.annotation.added":
			if len(p.annotations) > 0 {
				p.annotations = append(p.annotations, ',')
			}
			p.annotations = append(p.annotations, t.keep(e.at.Raw)...)
			return
		}
	}
	for _, k := range kinds {
		if k.delta == e.kind && k.list == "" {
			p := &part{kind: k}
			it.parts = append(it.parts, p)
			t.append(&p.text, e.delta)
			return
		}
	}
}

func (t *responses) item(index int64) *item {
	for _, it := range t.items {
		if it.index == index {
			return it
		}
	}
	return nil
}

func keptResponse(response gjson.Result) string {
	if len(response.Raw) <= maxResponse {
		return strings.Clone(response.Raw)
	}
	head := appendMembers([]byte{'{'}, response, "id", "object", "created_at", "model", "service_tier",
		"previous_response_id", "metadata", "error", "parallel_tool_calls", "tool_choice")
	return string(append(head, `"instructions":null,"tools":[]}`...))
}

// keep returns a copy of what is to outlive its event, within bounds.
func (t *responses) keep(raw string) string {
	if t.count(len(raw)); t.over {
		return ""
	}
	return strings.Clone(raw)
}

func (t *responses) append(text *[]byte, delta gjson.Result) {
	if t.count(len(delta.Raw)); t.over || delta.Type != gjson.String {
		return
	}
	*text = append(*text, delta.Raw[1:len(delta.Raw)-1]...)
}

func (t *responses) count(n int) {
	if t.kept += n; t.kept > maxKept {
		t.over, t.items = true, nil
	}
}
