package ending

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Events that say nothing about what is open. The provider writes the type
// first; an event that does not begin with it is looked at.
var (
	blockDelta = []byte(`{"type":"content_block_delta"`)
	ping       = []byte(`{"type":"ping"`)
)

// messages is Anthropic's messages.
type messages struct {
	started bool
	// open are the indexes of content blocks that have begun and not ended.
	open []int64
}

func (t *messages) See(data []byte) {
	if bytes.HasPrefix(data, blockDelta) || bytes.HasPrefix(data, ping) {
		return
	}
	event := view(data)
	switch event.Get("type").Str {
	case "message_start":
		t.started = true
	case "content_block_start":
		t.open = append(t.open, event.Get("index").Int())
	case "content_block_stop":
		index := event.Get("index").Int()
		t.open = slices.DeleteFunc(t.open, func(i int64) bool { return i == index })
	}
}

// End closes what is open. A message that has not begun has no end either.
func (t *messages) End(_ []byte, usage metering.Usage) []byte {
	if !t.started {
		return nil
	}
	var dst []byte
	for _, index := range t.open {
		dst = fmt.Appendf(dst, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%d}\n\n", index)
	}
	dst = fmt.Appendf(dst, "event: message_delta\ndata: {\"type\":\"message_delta\","+
		`"delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":%d,`+
		`"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":%d}}`+"\n\n",
		usage.Input, usage.CacheWrite+usage.CacheWriteLong, usage.CacheRead, usage.Output)
	return append(dst, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"...)
}
