package ending

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// End closes all that is open, from the inside out. A response that has not
// begun has no end either.
func (t *responses) End(last []byte, usage metering.Usage) []byte {
	if t.response == "" {
		return nil
	}
	t.sequence = view(last).Get("sequence_number").Int() + 1
	var dst, output []byte
	slices.SortStableFunc(t.items, func(a, b *item) int { return cmp.Compare(a.index, b.index) })
	for i, it := range t.items {
		if it.done == "" {
			dst = t.endItem(dst, it)
		}
		if i > 0 {
			output = append(output, ',')
		}
		output = append(output, it.done...)
	}
	replacements := []member{
		{"status", `"incomplete"`},
		{"incomplete_details", `{"reason":"max_output_tokens"}`},
		{"output", "[" + string(output) + "]"},
		{"usage", fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},`+
			`"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`,
			usage.Prompt(), usage.Cached(), usage.Completion(), usage.Reasoning, usage.Prompt()+usage.Completion())},
	}
	if t.over {
		replacements[2].value = ""
	}
	dst = append(t.open(dst, "response.incomplete"), `,"response":`...)
	return append(appendReplaced(dst, t.response, replacements...), "}\n\n"...)
}

// endItem ends an item and what is open in it.
func (t *responses) endItem(dst []byte, it *item) []byte {
	head := gjson.Parse(it.head)
	lists := map[string][]byte{}
	replacements := []member{{"status", `"incomplete"`}}
	for _, p := range it.parts {
		text := `"` + string(p.text) + `"`
		if p.done == "" && !p.said {
			dst = append(t.openPart(dst, p.kind.said, head, it, p), `,"`+p.kind.member+`":`+text...)
			switch p.kind.said {
			case "response.output_text.done":
				dst = append(dst, `,"logprobs":[]`...)
			case "response.function_call_arguments.done":
				dst = append(append(dst, `,"name":`...), head.Get("name").Raw...)
			}
			dst = append(dst, "}\n\n"...)
		}
		if p.kind.list == "" {
			replacements = append(replacements, member{p.kind.member, text})
			continue
		}
		if p.done == "" {
			p.done = string(p.whole(text))
			dst = append(t.openPart(dst, p.kind.over, head, it, p), `,"part":`...)
			dst = append(append(dst, p.done...), "}\n\n"...)
		}
		list := lists[p.kind.list]
		if len(list) > 0 {
			list = append(list, ',')
		}
		lists[p.kind.list] = append(list, p.done...)
	}
	for _, name := range [...]string{"content", "summary"} {
		if list := lists[name]; list != nil {
			replacements = append(replacements, member{name, "[" + string(list) + "]"})
		}
	}
	it.done = string(appendReplaced(nil, it.head, replacements...))
	dst = append(t.open(dst, "response.output_item.done"), `,"output_index":`...)
	dst = append(strconv.AppendInt(dst, it.index, 10), `,"item":`...)
	return append(append(dst, it.done...), "}\n\n"...)
}

// whole is the part as it would be at its end.
func (p *part) whole(text string) []byte {
	replacements := []member{{p.kind.member, text}}
	if len(p.annotations) > 0 {
		replacements = append(replacements, member{"annotations", "[" + string(p.annotations) + "]"})
	}
	return appendReplaced(nil, p.head, replacements...)
}

// open begins an event.
func (t *responses) open(dst []byte, kind string) []byte {
	dst = fmt.Appendf(dst, "event: %[1]s\ndata: {\"type\":\"%[1]s\",\"sequence_number\":%[2]d", kind, t.sequence)
	t.sequence++
	return dst
}

// openPart begins an event about a part of an item.
func (t *responses) openPart(dst []byte, kind string, head gjson.Result, it *item, p *part) []byte {
	dst = t.open(dst, kind)
	if id := head.Get("id"); id.Exists() {
		dst = append(append(dst, `,"item_id":`...), id.Raw...)
	}
	dst = fmt.Appendf(dst, `,"output_index":%d`, it.index)
	if p.kind.index != "" {
		dst = fmt.Appendf(dst, `,"%s":%d`, p.kind.index, p.index)
	}
	return dst
}
