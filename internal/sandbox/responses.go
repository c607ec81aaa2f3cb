package sandbox

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/caddy-llm-gateway/gateway/metering"
)

type responsesRequest struct {
	Model           string          `json:"model"`
	Input           responsesInput  `json:"input"`
	Instructions    words           `json:"instructions"`
	Stream          bool            `json:"stream"`
	StreamOptions   streamOptions   `json:"stream_options"`
	MaxOutputTokens int64           `json:"max_output_tokens"`
	ServiceTier     string          `json:"service_tier"`
	Tools           []openAITool    `json:"tools"`
	ToolChoice      json.RawMessage `json:"tool_choice"`
	Text            struct {
		Format openAIFormat `json:"format"`
	} `json:"text"`
}

// responsesInput is a string, or an array of items.
type responsesInput struct {
	size     words
	answered bool
}

func (in *responsesInput) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &in.size); err != nil || data[0] != '[' {
		return err
	}
	var items []struct {
		Type   string `json:"type"`
		Output words  `json:"output"`
	}
	if err := json.Unmarshal(data, &items); err != nil {
		return err
	}
	for _, item := range items {
		in.size += item.Output
		in.answered = item.Type == "function_call_output"
	}
	return nil
}

func (x *exchange) responses(string) error {
	var req responsesRequest
	if err := x.readJSON(&req); err != nil {
		return err
	}
	pad := req.StreamOptions.IncludeObfuscation
	q := question{
		model: req.Model, stream: req.Stream, promptBytes: int(req.Input.size + req.Instructions),
		maxTokens: req.MaxOutputTokens, answered: req.Input.answered, tier: openAITier(req.ServiceTier),
		schema: req.Text.Format.schema(), plain: pad != nil && !*pad,
	}
	q.openAITools(req.Tools, req.ToolChoice)
	return x.generate(q, newResponses)
}

// responsesDialect is POST /v1/responses.
type responsesDialect struct {
	*answer
	item string
	// sequence numbers the events.
	sequence int
}

func newResponses(a *answer) dialect {
	d := &responsesDialect{answer: a, item: "msg_" + a.id}
	if a.call != "" {
		d.item = "fc_" + a.id
	}
	a.id = "resp_" + a.id
	return d
}

func (d *responsesDialect) streamType() string { return eventStream }

func (d *responsesDialect) reports(bool) bool { return d.fail != NoUsage }

func (d *responsesDialect) whole(dst []byte) []byte {
	return append(d.appendResponse(dst, d.status()), '\n')
}

// status is how the response ends.
func (d *responsesDialect) status() string {
	if d.cut {
		return "incomplete"
	}
	return "completed"
}

// appendResponse appends the response object in the given status; its output
// and its usage come with the last one only.
func (d *responsesDialect) appendResponse(dst []byte, status string) []byte {
	done := status == "completed" || status == "incomplete"
	dst = fmt.Appendf(dst, `{"id":"%s","object":"response","created_at":%d,"status":"%s","background":false,`,
		d.id, d.created, status)
	switch status {
	case "failed":
		dst = append(dst, `"error":{"code":"server_error","message":"The sandbox was told to fail."},"incomplete_details":null,`...)
	case "incomplete":
		dst = append(dst, `"error":null,"incomplete_details":{"reason":"max_output_tokens"},`...)
	default:
		dst = append(dst, `"error":null,"incomplete_details":null,`...)
	}
	dst = append(dst, `"instructions":null,"max_output_tokens":null,"metadata":{},"model":`...)
	dst = append(append(dst, d.model...), `,"output":[`...)
	if done {
		dst = d.appendItem(dst, status)
	}
	dst = append(dst, `],"parallel_tool_calls":true,"previous_response_id":null,"service_tier":`...)
	dst = appendString(dst, d.tier)
	dst = append(dst, `,"store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto",`+
		`"tools":[],"top_p":1.0,"truncation":"disabled"`...)
	if !done || d.fail == NoUsage {
		return append(dst, `,"usage":null}`...)
	}
	dst = appendResponsesUsage(append(dst, `,"usage":`...), d.usage)
	if n := d.usage.WebSearches; n > 0 {
		dst = fmt.Appendf(dst, `,"tool_usage":{"web_search":{"num_requests":%d}}`, n)
	}
	return append(dst, '}')
}

// appendItem appends the one output item: a message or a function call.
func (d *responsesDialect) appendItem(dst []byte, status string) []byte {
	done := status != "in_progress"
	if d.call != "" {
		dst = fmt.Appendf(dst, `{"id":"%s","type":"function_call","status":"%s","call_id":"call_%s","name":`,
			d.item, status, d.id)
		dst = append(appendString(dst, d.call), `,"arguments":`...)
		if done {
			return append(d.text.appendAll(dst), '}')
		}
		return append(dst, `""}`...)
	}
	dst = fmt.Appendf(dst, `{"id":"%s","type":"message","status":"%s","role":"assistant","content":[`, d.item, status)
	if done {
		dst = append(d.appendPart(dst, d.text.appendAll), ']')
		return append(dst, '}')
	}
	return append(dst, "]}"...)
}

func (d *responsesDialect) appendPart(dst []byte, appendText func([]byte) []byte) []byte {
	dst = appendText(append(dst, `{"type":"output_text","annotations":[],"logprobs":[],"text":`...))
	return append(dst, '}')
}

func (d *responsesDialect) begin(dst []byte) []byte {
	for _, event := range []string{"response.created", "response.in_progress"} {
		dst = append(d.open(dst, event), `,"response":`...)
		dst = shut(d.appendResponse(dst, "in_progress"))
	}
	dst = append(d.open(dst, "response.output_item.added"), `,"output_index":0,"item":`...)
	dst = shut(d.appendItem(dst, "in_progress"))
	if d.call != "" {
		return dst
	}
	dst = append(d.openItem(dst, "response.content_part.added"), `,"content_index":0,"part":`...)
	return shut(d.appendPart(dst, func(dst []byte) []byte { return append(dst, `""`...) }))
}

func (d *responsesDialect) delta(dst []byte, piece int) []byte {
	if d.call != "" {
		dst = append(d.openItem(dst, "response.function_call_arguments.delta"), `,"delta":`...)
	} else {
		dst = append(d.openItem(dst, "response.output_text.delta"), `,"content_index":0,"logprobs":[],"delta":`...)
	}
	dst = d.text.appendPiece(dst, piece)
	if !d.plain {
		dst = append(append(dst, `,"obfuscation":"`...), filler[:piece%wordBytes]...)
		dst = append(dst, '"')
	}
	return shut(dst)
}

func (d *responsesDialect) end(dst []byte) []byte {
	if d.call != "" {
		dst = append(d.openItem(dst, "response.function_call_arguments.done"), `,"name":`...)
		dst = append(appendString(dst, d.call), `,"arguments":`...)
		dst = shut(d.text.appendAll(dst))
	} else {
		dst = append(d.openItem(dst, "response.output_text.done"), `,"content_index":0,"logprobs":[],"text":`...)
		dst = shut(d.text.appendAll(dst))
		dst = append(d.openItem(dst, "response.content_part.done"), `,"content_index":0,"part":`...)
		dst = shut(d.appendPart(dst, d.text.appendAll))
	}
	dst = append(d.open(dst, "response.output_item.done"), `,"output_index":0,"item":`...)
	dst = shut(d.appendItem(dst, d.status()))
	dst = append(d.open(dst, "response."+d.status()), `,"response":`...)
	return shut(d.appendResponse(dst, d.status()))
}

// open begins an event, which shut ends.
func (d *responsesDialect) open(dst []byte, event string) []byte {
	dst = append(append(dst, "event: "...), event...)
	dst = append(append(dst, "\ndata: {\"type\":\""...), event...)
	dst = strconv.AppendInt(append(dst, `","sequence_number":`...), int64(d.sequence), 10)
	d.sequence++
	return dst
}

// openItem begins an event about the output item.
func (d *responsesDialect) openItem(dst []byte, event string) []byte {
	dst = append(append(d.open(dst, event), `,"item_id":"`...), d.item...)
	return append(dst, `","output_index":0`...)
}

func shut(dst []byte) []byte { return append(dst, "}\n\n"...) }

func (d *responsesDialect) fault(dst []byte) []byte {
	return shut(d.appendResponse(append(d.open(dst, "response.failed"), `,"response":`...), "failed"))
}

func (d *responsesDialect) broken(dst []byte) []byte {
	return append(d.openItem(dst, "response.output_text.delta"), ",\"del\n\n"...)
}

func appendResponsesUsage(dst []byte, u metering.Usage) []byte {
	writes := u.CacheWrite + u.CacheWriteLong
	dst = fmt.Appendf(dst, `{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d`,
		u.Prompt(), u.CacheRead, writes)
	if writes > 0 {
		dst = fmt.Appendf(dst, `,"cache_write_tokens_details":{"ttl_30m_tokens":%d,"ttl_12h_tokens":%d}`,
			u.CacheWrite, u.CacheWriteLong)
	}
	return fmt.Appendf(dst, `},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`,
		u.Completion(), u.Reasoning, u.Prompt()+u.Completion())
}
