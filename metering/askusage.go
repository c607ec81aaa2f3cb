package metering

import "github.com/tidwall/gjson"

var (
	streamOptionsKeys = []string{"stream_options"}
	includeUsageKeys  = []string{"include_usage"}
)

// AskUsage returns the request body with stream_options.include_usage set, so
// that the stream reports its usage, and every other byte as it was. The body
// is one that ReadRequest has accepted; it is not changed itself.
func AskUsage(body []byte) []byte {
	object := view(body)
	var options, include [1]gjson.Result
	if pick(object, streamOptionsKeys, options[:]) != nil {
		return body
	}
	if !options[0].Exists() {
		return insert(body, object.Index, `"stream_options":{"include_usage":true}`)
	}
	if pick(options[0], includeUsageKeys, include[:]) != nil {
		return replace(body, options[0], `{"include_usage":true}`)
	}
	if !include[0].Exists() {
		return insert(body, options[0].Index, `"include_usage":true`)
	}
	return replace(body, include[0], "true")
}

// insert adds a member as the first one of the object at index.
func insert(body []byte, object int, member string) []byte {
	at := object + len("{")
	if next := skipSpace(body[at:]); len(next) > 0 && next[0] != '}' {
		member += ","
	}
	return splice(body, at, at, member)
}

func replace(body []byte, v gjson.Result, text string) []byte {
	return splice(body, v.Index, v.Index+len(v.Raw), text)
}

func splice(body []byte, from, to int, text string) []byte {
	out := make([]byte, 0, len(body)+len(text))
	out = append(out, body[:from]...)
	out = append(out, text...)
	return append(out, body[to:]...)
}

var usageEventKeys = []string{"choices", "usage"}

// IsUsageEvent tells if the data is the extra event that include_usage causes:
// a usage without choices.
func IsUsageEvent(data []byte) bool {
	if _, matters := glance(data, isNoText); !matters {
		return false
	}
	var values [2]gjson.Result
	if pick(view(data), usageEventKeys, values[:]) != nil {
		return false
	}
	choices, usage := values[0], values[1]
	return choices.IsArray() && isEmpty(choices) && usage.IsObject()
}

func isEmpty(array gjson.Result) bool {
	empty := true
	array.ForEach(func(_, _ gjson.Result) bool {
		empty = false
		return false
	})
	return empty
}
