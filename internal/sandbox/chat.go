package sandbox

import (
	"fmt"
	"strconv"
)

// chatForm and completionForm are where chat and legacy completions differ.
var (
	chatForm       = form{idPrefix: "chatcmpl-", object: "chat.completion", chunk: "chat.completion.chunk", chat: true}
	completionForm = form{idPrefix: "cmpl-", object: "text_completion", chunk: "text_completion"}
)

type form struct {
	idPrefix, object, chunk string
	chat                    bool
}

// chatDialect is POST /v1/chat/completions and POST /v1/completions.
type chatDialect struct {
	*answer
	form
	// head is what all chunks begin with.
	head []byte
}

func newChat(a *answer, f form) dialect {
	a.id = f.idPrefix + a.id
	return &chatDialect{answer: a, form: f}
}

func (d *chatDialect) streamType() string { return eventStream }

func (d *chatDialect) reports(stream bool) bool {
	switch {
	case d.fail == NoUsage:
		return false
	case d.fail == UsageOnFinish, d.fail == UsageEveryChunk, !stream:
		return true
	}
	return d.wantsUsage
}

func (d *chatDialect) appendHead(dst []byte, object string) []byte {
	dst = fmt.Appendf(dst, `{"id":"%s","object":"%s","created":%d,"model":%s,`, d.id, object, d.created, d.model)
	if d.chat {
		dst = appendString(append(dst, `"service_tier":`...), d.tier)
		dst = append(dst, `,"system_fingerprint":"fp_sandbox",`...)
	}
	return append(dst, `"choices":[`...)
}

func (d *chatDialect) whole(dst []byte) []byte {
	dst = d.appendHead(dst, d.object)
	for i := range d.choices {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, `{"index":%d,`, i)
		dst = d.appendMessage(dst)
		dst = append(dst, `,"logprobs":null,"finish_reason":"`+d.finishReason()+`"}`...)
	}
	dst = append(dst, ']')
	if d.fail != NoUsage {
		dst = appendChatUsage(append(dst, `,"usage":`...), d.usage)
	}
	return append(dst, "}\n"...)
}

func (d *chatDialect) appendMessage(dst []byte) []byte {
	switch {
	case !d.chat:
		return d.text.appendAll(append(dst, `"text":`...))
	case d.call != "":
		dst = append(dst, `"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{`...)
		dst = append(dst, `"id":"call_`+d.id+`","type":"function","function":{"name":`...)
		dst = append(appendString(dst, d.call), `,"arguments":`...)
		return append(d.text.appendAll(dst), `}}]}`...)
	}
	dst = append(dst, `"message":{"role":"assistant","content":`...)
	return append(d.text.appendAll(dst), `,"refusal":null,"annotations":[]}`...)
}

func (d *chatDialect) finishReason() string {
	switch {
	case d.call != "":
		return "tool_calls"
	case d.cut:
		return "length"
	}
	return "stop"
}

func (d *chatDialect) begin(dst []byte) []byte {
	d.head = append(d.appendHead([]byte("data: "), d.chunk), `{"index":`...)
	if !d.chat {
		return dst
	}
	for i := range d.choices {
		dst = d.open(dst, i)
		if d.call != "" {
			dst = append(dst, `"delta":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"index":0,`...)
			dst = append(dst, `"id":"call_`+d.id+`","type":"function","function":{"name":`...)
			dst = append(appendString(dst, d.call), `,"arguments":""}}]}`...)
		} else {
			dst = append(dst, `"delta":{"role":"assistant","content":"","refusal":null}`...)
		}
		dst = d.close(dst, "", 0)
	}
	return dst
}

func (d *chatDialect) delta(dst []byte, piece int) []byte {
	for i := range d.choices {
		dst = d.open(dst, i)
		switch {
		case !d.chat:
			dst = d.text.appendPiece(append(dst, `"text":`...), piece)
		case d.call != "":
			dst = append(dst, `"delta":{"tool_calls":[{"index":0,"function":{"arguments":`...)
			dst = append(d.text.appendPiece(dst, piece), `}}]}`...)
		default:
			dst = d.text.appendPiece(append(dst, `"delta":{"content":`...), piece)
			dst = append(dst, '}')
		}
		dst = d.close(dst, "", piece+1)
	}
	return dst
}

func (d *chatDialect) end(dst []byte) []byte {
	for i := range d.choices {
		dst = d.open(dst, i)
		if d.chat {
			dst = append(dst, `"delta":{}`...)
		} else {
			dst = append(dst, `"text":""`...)
		}
		dst = d.close(dst, d.finishReason(), d.text.pieces)
	}
	if d.wantsUsage && d.reportsApart() {
		dst = append(dst, d.head[:len(d.head)-len(`{"index":`)]...)
		dst = append(appendChatUsage(append(dst, `],"usage":`...), d.usage), "}\n\n"...)
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// reportsApart tells that usage has a chunk of its own.
func (d *chatDialect) reportsApart() bool {
	return d.fail != NoUsage && d.fail != UsageOnFinish && d.fail != UsageEveryChunk
}

func (d *chatDialect) open(dst []byte, choice int) []byte {
	dst = append(dst, d.head...)
	return append(strconv.AppendInt(dst, int64(choice), 10), ',')
}

// close ends a chunk after which so many pieces are out.
func (d *chatDialect) close(dst []byte, finish string, pieces int) []byte {
	dst = append(dst, `,"logprobs":null,"finish_reason":`...)
	if finish == "" {
		dst = append(dst, "null}]"...)
	} else {
		dst = append(dst, `"`+finish+`"}]`...)
	}
	switch {
	case d.fail == UsageEveryChunk, d.fail == UsageOnFinish && finish != "":
		dst = appendChatUsage(append(dst, `,"usage":`...), d.usageAfter(pieces))
	case d.wantsUsage && d.reportsApart():
		dst = append(dst, `,"usage":null`...)
	}
	if !d.plain {
		dst = append(append(dst, `,"obfuscation":"`...), filler[:pieces%wordBytes]...)
		dst = append(dst, '"')
	}
	return append(dst, "}\n\n"...)
}

func (d *chatDialect) fault(dst []byte) []byte {
	return append(dst, `data: {"error":{"message":"The server had an error while processing your request.",`+
		`"type":"server_error","param":null,"code":null}}`+"\n\n"...)
}

func (d *chatDialect) broken(dst []byte) []byte {
	return append(dst, `data: {"id":"`+d.id+`","choices":[{"index":0,"delta":{"cont`+"\n\n"...)
}
