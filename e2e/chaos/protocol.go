package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// ask is what a client wants of the provider, and how it will answer.
type ask struct {
	protocol metering.Protocol
	model    string
	stream   bool
	// hideUsage: the client of an OpenAI stream does not ask for its usage.
	hideUsage bool
	// maxTokens is what the request allows; 0 leaves it out.
	maxTokens int
	// prompt and output are the tokens that the provider counts.
	prompt, output int
	// pieces that the output is streamed in, each so much after the last.
	pieces int
	delay  time.Duration
	// leaveAfter so many events the client hangs up; 0 is never.
	leaveAfter int
	// padding makes the request's records in the journal larger: it is part of
	// the User-Agent, behind a space.
	padding string
}

// textBytes is the size of the answer's text for each of its tokens: what the
// gateway takes for a token where it has nothing but the text to go by. So what
// it makes of a broken stream is never more than what was served.
const textBytes = 4

// request makes the HTTP request. The marker tells it from all others.
func (a *ask) request(base, key, marker string) (*http.Request, error) {
	path, body := a.body()
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	req, err := http.NewRequest(http.MethodPost, base+path, bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	h := req.Header
	switch a.protocol {
	case metering.Anthropic:
		h.Set("X-Api-Key", key)
		h.Set("Anthropic-Version", "2023-06-01")
	case metering.Gemini:
		h.Set("X-Goog-Api-Key", key)
	default:
		h.Set("Authorization", "Bearer "+key)
	}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", marker+a.padding)
	h.Set("X-Sandbox-Id", marker)
	h.Set("X-Sandbox-Prompt", strconv.Itoa(a.prompt))
	h.Set("X-Sandbox-Completion", strconv.Itoa(a.output))
	h.Set("X-Sandbox-Text-Bytes", strconv.Itoa(textBytes*a.output))
	if a.stream {
		h.Set("X-Sandbox-Chunks", strconv.Itoa(a.pieces))
		h.Set("X-Sandbox-Delay", a.delay.String())
	} else {
		h.Set("X-Sandbox-First-Delay", a.delay.String())
	}
	return req, nil
}

func (a *ask) body() (path string, body map[string]any) {
	const question = "Do the books balance?"
	messages := []map[string]string{{"role": "user", "content": question}}
	switch a.protocol {
	case metering.Anthropic:
		// This protocol requires a limit.
		return "/anthropic/v1/messages", map[string]any{
			"model": a.model, "messages": messages, "stream": a.stream, "max_tokens": max(1, a.maxTokens),
		}
	case metering.Gemini:
		body := map[string]any{"contents": []map[string]any{{"role": "user", "parts": []map[string]string{{"text": question}}}}}
		if a.maxTokens > 0 {
			body["generationConfig"] = map[string]int{"maxOutputTokens": a.maxTokens}
		}
		if a.stream {
			return "/gemini/v1beta/models/" + a.model + ":streamGenerateContent?alt=sse", body
		}
		return "/gemini/v1beta/models/" + a.model + ":generateContent", body
	default:
		body := map[string]any{"model": a.model, "messages": messages, "stream": a.stream}
		if a.maxTokens > 0 {
			body["max_tokens"] = a.maxTokens
		}
		if a.stream && !a.hideUsage {
			body["stream_options"] = map[string]bool{"include_usage": true}
		}
		return "/openai/v1/chat/completions", body
	}
}

// answer is what a client has seen of an answer.
type answer struct {
	// complete: the whole body, or the event that ends a stream.
	complete bool
	// left: the client hung up, as it wanted to.
	left bool
	// usage that the answer told of, if it did.
	usage    metering.Usage
	hasUsage bool
	events   int
}

// errLeft: the client hung up.
var errLeft = errors.New("client left")

// readWhole reads an answer that is not a stream.
func (a *answer) readWhole(body io.Reader) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	a.complete = true
	return a.readUsage(b)
}

// endings are what the last event of a stream contains, in each protocol.
var endings = map[metering.Protocol][]byte{
	metering.OpenAI:    []byte("[DONE]"),
	metering.Anthropic: []byte(`"message_stop"`),
	metering.Gemini:    []byte(`"finishReason"`),
}

// maxEvent bounds an event's size.
const maxEvent = 4 << 20

// readStream reads events to the end, or until the client leaves.
func (a *answer) readStream(body io.Reader, asked *ask) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		a.events++
		if bytes.Contains(data, []byte(`"usage`)) {
			if err := a.readUsage(data); err != nil {
				return err
			}
		}
		if bytes.Contains(data, endings[asked.protocol]) {
			a.complete = true
		}
		if asked.leaveAfter > 0 && a.events >= asked.leaveAfter && !a.complete {
			a.left = true
			return errLeft
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if !a.complete {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// usageJSON is where each protocol tells its usage.
type usageJSON struct {
	Usage    *usageCounts `json:"usage"`
	Message  *struct{ Usage *usageCounts }
	Metadata *struct {
		Prompt int64 `json:"promptTokenCount"`
		Output int64 `json:"candidatesTokenCount"`
	} `json:"usageMetadata"`
}

type usageCounts struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
}

// readUsage takes in what an event, or a whole body, tells of its usage.
// Anthropic tells the prompt at the start of a stream and the output at its
// end: the larger number of each kind is the last one.
func (a *answer) readUsage(b []byte) error {
	var u usageJSON
	if err := json.Unmarshal(b, &u); err != nil {
		return fmt.Errorf("answer is not JSON: %w", err)
	}
	add := func(c *usageCounts) {
		if c != nil {
			a.hasUsage = true
			a.usage.Input = max(a.usage.Input, c.Prompt, c.Input)
			a.usage.Output = max(a.usage.Output, c.Completion, c.Output)
		}
	}
	add(u.Usage)
	if u.Message != nil {
		add(u.Message.Usage)
	}
	if u.Metadata != nil {
		add(&usageCounts{Prompt: u.Metadata.Prompt, Completion: u.Metadata.Output})
	}
	return nil
}
