package sandbox

import (
	"encoding/json"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/metering"
)

type messagesRequest struct {
	Model    string `json:"model"`
	System   words  `json:"system"`
	Messages []struct {
		Role    string          `json:"role"`
		Content anthropicBlocks `json:"content"`
	} `json:"messages"`
	Stream    bool   `json:"stream"`
	MaxTokens int64  `json:"max_tokens"`
	Speed     string `json:"speed"`
	Tools     []struct {
		Name        string          `json:"name"`
		InputSchema json.RawMessage `json:"input_schema"`
	} `json:"tools"`
	ToolChoice struct {
		Type string `json:"type"`
		Name string `json:"name"`
	} `json:"tool_choice"`
	OutputConfig struct {
		Format struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"format"`
	} `json:"output_config"`
}

// anthropicBlocks is a message's content: a string, or an array of blocks.
type anthropicBlocks struct {
	size words
	// result tells that a tool's result is among the blocks.
	result bool
}

func (b *anthropicBlocks) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &b.size); err != nil || data[0] != '[' {
		return err
	}
	var blocks []struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &blocks); err != nil {
		return err
	}
	for _, block := range blocks {
		b.result = b.result || block.Type == "tool_result"
	}
	return nil
}

// readMessages reads a request for a message, or for its size.
func (x *exchange) readMessages() (question, error) {
	if x.r.Header.Get("Anthropic-Version") == "" {
		return question{}, invalid("anthropic-version: header is required")
	}
	var req messagesRequest
	if err := x.readJSON(&req); err != nil {
		return question{}, err
	}
	if len(req.Messages) == 0 {
		return question{}, invalid("messages: at least one message is required")
	}
	choice := req.ToolChoice
	q := question{
		model: req.Model, stream: req.Stream, maxTokens: req.MaxTokens, promptBytes: int(req.System),
		forced: choice.Type == "any" || choice.Type == "tool", force: choice.Name,
		schema: req.OutputConfig.Format.Schema, tier: "standard", speed: req.Speed,
	}
	for _, m := range req.Messages {
		q.promptBytes += int(m.Content.size)
		q.answered = m.Content.result
	}
	for _, t := range req.Tools {
		q.tools = append(q.tools, tool{t.Name, t.InputSchema})
	}
	return q, nil
}

func (x *exchange) messages(string) error {
	q, err := x.readMessages()
	if err != nil {
		return err
	}
	if q.maxTokens <= 0 {
		return invalid("max_tokens: Field required")
	}
	return x.generate(q, newMessages)
}

// messageSize counts tokens, for free.
func (x *exchange) messageSize(string) error {
	q, err := x.readMessages()
	if err != nil {
		return err
	}
	if _, err := x.prepare(q.model, false); err != nil {
		return err
	}
	u, err := x.script.usage(q.promptBytes, 0)
	if err != nil {
		return invalid("%v", err)
	}
	return x.answerFree(fmt.Appendf(x.out[:0], `{"input_tokens":%d}`, u.Prompt()))
}

// messagesDialect is POST /v1/messages.
type messagesDialect struct{ *answer }

func newMessages(a *answer) dialect {
	a.id = "msg_" + a.id
	return messagesDialect{a}
}

func (d messagesDialect) streamType() string { return eventStream }

func (d messagesDialect) reports(bool) bool { return d.fail != NoUsage }

func (d messagesDialect) stopReason() string {
	switch {
	case d.call != "":
		return "tool_use"
	case d.cut:
		return "max_tokens"
	}
	return "end_turn"
}

func (d messagesDialect) appendHead(dst []byte) []byte {
	dst = append(append(dst, `{"id":"`...), d.id...)
	dst = append(append(dst, `","type":"message","role":"assistant","model":`...), d.model...)
	return append(dst, `,"content":[`...)
}

func (d messagesDialect) whole(dst []byte) []byte {
	dst = d.appendHead(dst)
	if d.call != "" {
		dst = append(d.appendToolUse(dst), `,"input":`...)
		dst = append(dst, d.text.literal...)
	} else {
		dst = d.text.appendAll(append(dst, `{"type":"text","text":`...))
	}
	dst = append(dst, `}],"stop_reason":"`+d.stopReason()+`","stop_sequence":null,"stop_details":null`...)
	if d.fail != NoUsage {
		dst = d.appendUsage(append(dst, `,"usage":`...), d.usage)
	}
	return append(dst, '}')
}

// appendToolUse appends the block that calls the tool, up to its input.
func (d messagesDialect) appendToolUse(dst []byte) []byte {
	dst = append(dst, `{"type":"tool_use","id":"toolu_`+d.id+`","name":`...)
	return appendString(dst, d.call)
}

// appendUsage appends the full usage object, as whole messages and the start
// of a stream have it.
func (d messagesDialect) appendUsage(dst []byte, u metering.Usage) []byte {
	dst = d.appendCounts(append(dst, '{'), u)
	dst = fmt.Appendf(dst, `,"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}`,
		u.CacheWrite, u.CacheWriteLong)
	dst = appendString(append(dst, `,"service_tier":`...), d.tier)
	dst = appendString(append(dst, `,"inference_geo":`...), first(d.geo, "global"))
	if d.speed != "" {
		dst = appendString(append(dst, `,"speed":`...), d.speed)
	}
	return append(dst, '}')
}

// appendCounts appends the counts that the end of a stream repeats.
func (d messagesDialect) appendCounts(dst []byte, u metering.Usage) []byte {
	dst = fmt.Appendf(dst, `"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":%d`,
		u.Input, u.CacheWrite+u.CacheWriteLong, u.CacheRead, u.Output)
	if u.Reasoning > 0 {
		dst = fmt.Appendf(dst, `,"output_tokens_details":{"thinking_tokens":%d}`, u.Reasoning)
	}
	if u.WebSearches > 0 {
		dst = fmt.Appendf(dst, `,"server_tool_use":{"web_search_requests":%d,"web_fetch_requests":0}`, u.WebSearches)
	}
	return dst
}

func (d messagesDialect) begin(dst []byte) []byte {
	dst = append(dst, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":"...)
	dst = append(d.appendHead(dst), `],"stop_reason":null,"stop_sequence":null,"stop_details":null`...)
	if d.fail != NoUsage {
		start := d.usage
		start.Output, start.Reasoning, start.WebSearches = min(1, start.Output), 0, 0
		dst = d.appendUsage(append(dst, `,"usage":`...), start)
	}
	dst = append(dst, "}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":"...)
	if d.call != "" {
		dst = append(d.appendToolUse(dst), `,"input":{}}`...)
	} else {
		dst = append(dst, `{"type":"text","text":""}`...)
	}
	return append(dst, "}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n"...)
}

func (d messagesDialect) delta(dst []byte, piece int) []byte {
	dst = append(dst, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"...)
	if d.call != "" {
		dst = append(dst, `{"type":"input_json_delta","partial_json":`...)
	} else {
		dst = append(dst, `{"type":"text_delta","text":`...)
	}
	return append(d.text.appendPiece(dst, piece), "}}\n\n"...)
}

func (d messagesDialect) end(dst []byte) []byte {
	dst = append(dst, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"...)
	dst = append(dst, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\""...)
	dst = append(append(dst, d.stopReason()...), `","stop_sequence":null}`...)
	if d.fail != NoUsage {
		dst = append(d.appendCounts(append(dst, `,"usage":{`...), d.usage), '}')
	}
	return append(dst, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"...)
}

func (d messagesDialect) fault(dst []byte) []byte {
	return append(dst, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"},"+
		"\"request_id\":\"req_"+d.id+"\"}\n\n"...)
}

func (d messagesDialect) broken(dst []byte) []byte {
	return append(dst, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"del\n\n"...)
}
