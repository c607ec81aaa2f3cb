package metering

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// MaxPrompt is the most tokens that one run of a model is taken to read:
	// the largest context window among the models that providers serve. A
	// request that refers to what is not in its body is held for as many.
	MaxPrompt = 1 << 20
	// ToolRounds is how often a provider that runs tools of its own is taken
	// to run the model for one request. No provider states a limit that holds
	// for all of its tools: it is an assumption, and the only one of a Bound.
	ToolRounds = 10
	// preamble is what a provider adds to a prompt by itself: the markup of
	// messages and the instructions that go with tools.
	preamble = 2048
)

// Bound is the most that a request may use besides what it generates, as far
// as its body tells.
type Bound struct {
	// Prompt is tokens of input, in each of the rounds.
	Prompt int64
	// Predicted is tokens of output beyond the request's own limit, in each
	// answer: a prediction of it, of which what the model rejects is charged as
	// if it were generated.
	Predicted int64
	// Rounds is how often the model may run: once, but for tools that the
	// provider runs.
	Rounds int64
	// Tier, Speed and Region are what the request names; empty if it leaves
	// the choice to the provider or to the account's settings there.
	Tier, Speed, Region string
}

// PromptBound bounds what a request with this body may use.
//
// Text is bounded by its bytes: a token stands for at least one byte of text,
// and JSON has at least one byte for each byte of text. That is also true of
// reasoning that comes back encrypted, and of tools that the client runs: the
// model reads their declarations, which are in the body.
//
// Whatever else a model may be given is bounded by MaxPrompt alone: images,
// recordings and documents (a few bytes of a compressed one may be many
// tokens), files by address or id, cached content, earlier responses. What is
// not known to be text is taken for one of these. A body that is nil, or not
// a JSON object, is bounded by its bytes: no meter reads its use.
func PromptBound(p Protocol, body []byte) Bound {
	b := Bound{Prompt: int64(len(body)) + preamble, Rounds: 1}
	if p != OpenAI {
		b.Tier = "standard" // only at OpenAI may a project's setting say otherwise
	}
	b.Speed = "standard"
	object, ok := parseObject(body)
	if !ok {
		return b
	}
	object.ForEach(func(key, value gjson.Result) bool {
		b.member(strings.ToLower(key.Str), value)
		return true
	})
	return b
}

// member takes in a top-level member of a body.
func (b *Bound) member(key string, value gjson.Result) {
	if !isFailure(value) {
		return // null is as good as absent
	}
	switch key {
	case "service_tier", "servicetier":
		name(&b.Tier, value)
	case "speed":
		name(&b.Speed, value)
	case "inference_geo":
		name(&b.Region, value)
	case "tools":
		if hasHostedTool(value) {
			b.hosted()
		}
	case "context_management":
		if !onlyClears(value) {
			b.hosted()
		}
	case "web_search_options", "mcp_servers", "container":
		b.hosted()
	case "previous_response_id", "conversation":
		b.Prompt = MaxPrompt
	case "prompt": // of completions, or the name of a stored one
		if value.IsObject() {
			b.Prompt = MaxPrompt
		}
	case "functions", "response_format", "text", "generationconfig", "generation_config", "metadata",
		"tool_choice", "toolconfig", "tool_config", "thinking", "reasoning", "output_format", "output_config", "stream_options":
		// Settings, and schemas in which any name may appear.
	case "prediction":
		b.Predicted = max(b.Predicted, int64(len(value.Raw)))
		if !isText(value, 0) {
			b.Prompt, b.Predicted = MaxPrompt, MaxPrompt
		}
	case "input":
		if hasReference(value) || !isText(value, 0) {
			b.Prompt = MaxPrompt
		}
	default:
		if reference[key] || !isText(value, 0) {
			b.Prompt = MaxPrompt
		}
	}
}

func (b *Bound) hosted() { b.Prompt, b.Rounds = MaxPrompt, ToolRounds }

// name takes over what a request names. A name that is not a string may mean
// anything, and so may a second one.
func name(to *string, value gjson.Result) {
	named := *to == "" || *to == "standard"
	*to = ""
	if named && value.Type == gjson.String {
		*to = strings.Clone(value.Str)
	}
}

// clientTools start the types of tools that the client runs, though their
// declarations are the provider's own.
var clientTools = []string{"bash_", "text_editor_", "computer_", "memory_"}

// hasHostedTool tells whether one of the tools is not known to be run by the
// client.
func hasHostedTool(tools gjson.Result) bool {
	if !tools.IsArray() {
		return true
	}
	clients := true
	tools.ForEach(func(_, tool gjson.Result) bool {
		clients = isClientTool(tool)
		return clients
	})
	return !clients
}

// isClientTool knows functions: OpenAI's and Anthropic's by their type or
// their schema, Gemini's by there being nothing else.
func isClientTool(tool gjson.Result) bool {
	typed, clients, schema, others := false, true, false, false
	tool.ForEach(func(key, value gjson.Result) bool {
		switch strings.ToLower(key.Str) {
		case "type":
			typed = true
			clients = clients && (value.Str == "function" || value.Str == "custom" ||
				slices.ContainsFunc(clientTools, func(prefix string) bool { return strings.HasPrefix(value.Str, prefix) }))
		case "input_schema":
			schema = true
		case "functiondeclarations", "function_declarations":
		default:
			others = true
		}
		return true
	})
	if typed {
		return clients
	}
	return tool.IsObject() && (schema || !others)
}

// onlyClears tells whether an Anthropic context management does no more than
// drop parts of the conversation, for which no model is run.
func onlyClears(management gjson.Result) bool {
	edits := management.Get("edits")
	clears := management.IsObject() && edits.IsArray()
	edits.ForEach(func(_, edit gjson.Result) bool {
		clears = clears && strings.HasPrefix(edit.Get("type").Str, "clear_")
		return clears
	})
	return clears
}

// hasReference tells whether an item of the input may be the id of an earlier
// one: such an item need not say so.
func hasReference(input gjson.Result) bool {
	found := false
	if input.IsArray() {
		input.ForEach(func(_, item gjson.Result) bool {
			found = item.IsObject() && !item.Get("type").Exists() && !item.Get("content").Exists()
			return !found
		})
	}
	return found
}

// textTypes are the types of parts that are text, or what holds parts.
var textTypes = setOf("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "message",
	"reasoning", "thinking", "redacted_thinking", "function", "custom", "function_call", "function_call_output",
	"custom_tool_call", "custom_tool_call_output", "tool_use", "tool_result", "content", "ephemeral")

// reference are the names of members that hold or name what is not text, in
// the lower case of all spellings that a server may take.
var reference = setOf("image_url", "imageurl", "image", "images", "input_image", "input_audio", "audio", "audio_url",
	"video", "videos", "video_url", "file", "file_id", "file_url", "file_data", "filedata", "inlinedata", "inline_data",
	"cachedcontent", "cached_content", "image_embeds", "source")

// opaque are members whose values come from the client's own tools, and are
// text to the model whatever names are in them.
var opaque = setOf("args", "response", "arguments")

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set
}

// isText tells whether a value is text through and through. Deeper than any
// real message it does not look.
func isText(v gjson.Result, depth int) bool {
	const deepest = 32
	if !v.IsObject() && !v.IsArray() {
		return true
	}
	if depth > deepest {
		return false
	}
	inTool := v.IsObject() && v.Get("type").Str == "tool_use"
	text := true
	v.ForEach(func(key, value gjson.Result) bool {
		switch member := strings.ToLower(key.Str); {
		case !isFailure(value):
		case member == "type":
			text = value.Type == gjson.String && textTypes[value.Str]
		case reference[member]:
			text = false
		case opaque[member], inTool && member == "input":
		default:
			text = isText(value, depth+1)
		}
		return text
	})
	return text
}

// WorstCase is the most that a request may cost, at the organization's own
// rate: the bound's prompt, its prediction and the given number of generated
// tokens in each round, each token at the dearest rate of its kind, long-context and
// cache-write rates included, with the dearest multipliers that the request
// leaves possible, and a web search in each round where there are several. Out
// of range, it is the largest Money.
//
// It is no bound if the provider answers with another, dearer model, or has
// one make images, whose tokens neither the request nor the price list bounds.
func (r *Rule) WorstCase(b Bound, outputTokens int64, at time.Time, d Discount) Money {
	rates := &r.Rates
	if r.LongAbove > 0 && b.Prompt > r.LongAbove {
		dearer := r.Rates.atLeast(&r.LongRates)
		rates = &dearer
	}
	buckets := rates.buckets()
	once := multiply(atLeastZero(b.Prompt), slices.Max(buckets[:promptBuckets])).
		plus(multiply(atLeastZero(outputTokens)+atLeastZero(b.Predicted), slices.Max(buckets[promptBuckets:])))
	rounds := atLeastZero(b.Rounds)
	scale := r.dearest(Tier, b.Tier, at) * r.dearest(Speed, b.Speed, at) * r.dearest(Region, b.Region, at)
	searches := uint128{}
	if rounds > 1 {
		searches = multiply(rounds, uint64(rates.WebSearch)).times(unity)
	}
	_, yours, err := once.times(rounds).times(scale).plus(searches).amounts(d)
	if err != nil {
		return math.MaxInt64
	}
	return yours
}

// dearest is the largest factor, per mille and at least one, that a response
// to a request may select which names this value; an empty one names none.
func (r *Rule) dearest(dim Dimension, value string, at time.Time) uint64 {
	open := value == "" || strings.EqualFold(value, "auto")
	if !open {
		if strings.EqualFold(value, "standard_only") {
			return 1000
		}
		if perMille, known := r.multiplier(dim, value, at); known {
			return max(1000, perMille)
		}
	}
	most := uint64(1000)
	for i := range r.Multipliers {
		if m := &r.Multipliers[i]; m.Dimension == dim && inEffect(m.From, m.Until, at) {
			most = max(most, uint64(m.PerMille))
		}
	}
	return most
}
