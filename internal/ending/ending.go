// Package ending ends streams before their time, each in its protocol's own
// form, so that a client sees an answer that was cut off at a limit of tokens
// and not a broken one.
//
// What that takes beside the protocol, ids, open blocks and the like, a
// Tracker gathers from the events on their way to the client. It lives as
// long as the request does and nothing of it is stored; the only tracker that
// keeps text is that of OpenAI's responses, whose closing events repeat it.
package ending

import (
	"strconv"
	"unsafe"

	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Stream is what is known of a stream before its first event.
type Stream struct {
	// Endpoint is named as in package metering: "chat/completions".
	Endpoint string
	Framing  metering.Framing
	// Choices is how many answers the client asked for. 0 stands for 1.
	Choices int64
	// ShowsUsage tells that the client expects usage where its protocol has
	// it on request only.
	ShowsUsage bool
}

// Tracker follows one stream.
type Tracker interface {
	// See takes the data of an event that goes to the client. It keeps no
	// reference to it.
	See(data []byte)
	// End returns what ends the stream behind the events seen, of which last
	// is the last one. The usage is what the client is told that the answer
	// took.
	End(last []byte, usage metering.Usage) []byte
}

// Track returns the tracker of a stream. Streams whose form has no end that
// says more than the end of the response are tracked by one that ends them
// with nothing.
func Track(s Stream) Tracker {
	switch s.Endpoint {
	case "chat/completions", "openai/chat/completions":
		return &chat{stream: s, form: chatForm}
	case "completions":
		return &chat{stream: s, form: completionForm}
	case "responses":
		return &responses{}
	case "messages":
		return &messages{}
	case "streamGenerateContent":
		return &gemini{stream: s}
	}
	return silent{}
}

type silent struct{}

func (silent) See([]byte) {}

func (silent) End([]byte, metering.Usage) []byte { return nil }

// choices are the answers of one stream, by index.
type choices []choice

type choice struct {
	index    int64
	finished bool
}

// see notes that a choice has begun, or has come to its end.
func (c *choices) see(index int64, finished bool) {
	for i := range *c {
		if (*c)[i].index == index {
			(*c)[i].finished = (*c)[i].finished || finished
			return
		}
	}
	*c = append(*c, choice{index, finished})
}

// view returns the JSON in data without copying it. What is not valid is no
// harm: it reads as something else, or as nothing.
func view(data []byte) gjson.Result {
	return gjson.Parse(unsafe.String(unsafe.SliceData(data), len(data)))
}

// member is a member of an object, its value in JSON.
type member struct{ name, value string }

// appendMembers appends the named members of an object, each with a comma
// behind it, in the order in which the object has them.
func appendMembers(dst []byte, object gjson.Result, names ...string) []byte {
	object.ForEach(func(key, value gjson.Result) bool {
		for _, name := range names {
			if key.Str == name {
				dst = append(append(append(dst, key.Raw...), ':'), value.Raw...)
				dst = append(dst, ',')
			}
		}
		return true
	})
	return dst
}

// appendReplaced appends an object with other values for some of its members,
// which come last if it does not have them. A member without a value is left
// out.
func appendReplaced(dst []byte, object string, replacements ...member) []byte {
	dst = append(dst, '{')
	begin := len(dst)
	add := func(name, value string) {
		if value == "" {
			return
		}
		if len(dst) > begin {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, name...), ':'), value...)
	}
	done := make([]bool, len(replacements))
	gjson.Parse(object).ForEach(func(key, value gjson.Result) bool {
		for i, r := range replacements {
			if r.name == key.Str {
				add(key.Raw, r.value)
				done[i] = true
				return true
			}
		}
		add(key.Raw, value.Raw)
		return true
	})
	for i, r := range replacements {
		if !done[i] {
			add(strconv.Quote(r.name), r.value)
		}
	}
	return append(dst, '}')
}
