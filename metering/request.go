package metering

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// ErrInvalidBody is returned for a request body that is not a JSON object, or
// that a provider may read in another way than the gateway does.
var ErrInvalidBody = errors.New("invalid request body")

// bodyReader takes what it needs out of a request body.
type bodyReader func(body gjson.Result, r *Request) error

// ReadRequest reads a request body. A body of an Unpriced endpoint that is not
// a JSON object (a form with files, say) is accepted unread. It returns
// ErrInvalidBody.
func (e Endpoint) ReadRequest(body []byte) (Request, error) {
	r := Request{Model: e.Model, Stream: e.Streams, Choices: 1, PromptTokens: estimatePrompt(body)}
	if e.read == nil || e.Billing == Unpriced && !bytes.HasPrefix(skipSpace(body), []byte("{")) {
		return r, nil
	}
	object, ok := parseObject(body)
	if !ok {
		return Request{}, fmt.Errorf("%w: not a JSON object", ErrInvalidBody)
	}
	if err := e.read(object, &r); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrInvalidBody, err)
	}
	return r, nil
}

var modelKeys = []string{"model"}

func readModel(body gjson.Result, r *Request) error {
	var values [1]gjson.Result
	if err := pick(body, modelKeys, values[:]); err != nil {
		return err
	}
	return r.setModel(values[0])
}

var chatKeys = []string{"model", "stream", "stream_options", "max_completion_tokens", "max_tokens", "n", "best_of"}

// readChat reads the body of chat/completions and of completions.
func readChat(body gjson.Result, r *Request) error {
	var values [7]gjson.Result
	if err := pick(body, chatKeys, values[:]); err != nil {
		return err
	}
	var includes [1]gjson.Result
	if options := values[2]; options.IsObject() {
		if err := pick(options, includeUsageKeys, includes[:]); err != nil {
			return err
		}
	}
	if err := errors.Join(r.setModel(values[0]), r.setStream(values[1])); err != nil {
		return err
	}
	r.HidesUsage = r.Stream && includes[0].Type != gjson.True
	return r.setLimits(values[3:5], values[5:7])
}

var responsesKeys = []string{"model", "stream", "background", "max_output_tokens"}

func readResponses(body gjson.Result, r *Request) error {
	var values [4]gjson.Result
	if err := pick(body, responsesKeys, values[:]); err != nil {
		return err
	}
	if err := errors.Join(r.setModel(values[0]), r.setStream(values[1])); err != nil {
		return err
	}
	var err error
	if r.Background, err = flag("background", values[2]); err != nil {
		return err
	}
	return r.setLimits(values[3:4], nil)
}

var messagesKeys = []string{"model", "stream", "max_tokens"}

func readMessages(body gjson.Result, r *Request) error {
	var values [3]gjson.Result
	if err := pick(body, messagesKeys, values[:]); err != nil {
		return err
	}
	if err := errors.Join(r.setModel(values[0]), r.setStream(values[1])); err != nil {
		return err
	}
	return r.setLimits(values[2:3], nil)
}

// Google's servers take each name in either spelling.
var (
	geminiKeys     = []string{"model", "generationConfig", "generation_config"}
	generationKeys = []string{"maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"}
)

func readGemini(body gjson.Result, r *Request) error {
	var values [3]gjson.Result
	if err := pick(body, geminiKeys, values[:]); err != nil {
		return err
	}
	named := Request{Model: r.Model}
	if err := named.setModel(values[0]); err != nil {
		return err
	}
	if named.Model != r.Model {
		return errors.New("the model differs from the path's")
	}
	config := values[1]
	if values[2].Exists() {
		if config.Exists() {
			return errors.New(`"generationConfig" appears twice`)
		}
		config = values[2]
	}
	if !isFailure(config) {
		return nil
	}
	var limits [4]gjson.Result
	if err := pick(config, generationKeys, limits[:]); err != nil {
		return fmt.Errorf("generationConfig: %w", err)
	}
	return r.setLimits(limits[:2], limits[2:])
}

func readGeminiChat(body gjson.Result, r *Request) error {
	err := readChat(body, r)
	r.Model = strings.TrimPrefix(r.Model, "models/")
	return err
}

func (r *Request) setModel(v gjson.Result) error {
	switch v.Type {
	case gjson.Null:
		return nil
	case gjson.String:
		r.Model = strings.TrimPrefix(strings.Clone(v.Str), "models/")
		return nil
	}
	return errors.New(`"model" is not a string`)
}

func (r *Request) setStream(v gjson.Result) (err error) {
	r.Stream, err = flag("stream", v)
	return err
}

// flag reads a boolean strictly: lenient servers take "true" and 1 for true,
// strict ones refuse them.
func flag(name string, v gjson.Result) (bool, error) {
	switch v.Type {
	case gjson.True:
		return true, nil
	case gjson.False, gjson.Null:
		return false, nil
	}
	return false, fmt.Errorf("%q is not a boolean", name)
}

// setLimits takes the largest of the caps on tokens, and of the numbers of
// choices.
func (r *Request) setLimits(caps, choices []gjson.Result) error {
	perChoice, err := largest(caps)
	if err != nil {
		return err
	}
	n, err := largest(choices)
	if err != nil {
		return err
	}
	r.Choices = max(n, 1)
	r.MaxTokens = product(perChoice, r.Choices)
	return nil
}

// largest returns the largest of some numbers, within [0, maxCount).
func largest(values []gjson.Result) (n int64, err error) {
	for _, v := range values {
		switch v.Type {
		case gjson.Null:
		case gjson.Number:
			// In this order, so that what is not a number becomes 0.
			n = max(n, int64(min(max(0, v.Num), maxCount-1)))
		default:
			return 0, errors.New("a limit is not a number")
		}
	}
	return n, nil
}

const (
	bytesPerToken = 4
	// payloadTokens is about what an image of a usual size takes. Documents
	// and recordings take more, small images less.
	payloadTokens = 1500
	// minPayload is the length of base64 from which it is taken for a file.
	minPayload = 64
)

// estimatePrompt counts a token for every four bytes of the body, which is
// about right for English with its JSON around it and for other scripts, and
// a flat amount for every image, recording or document inside it. These are
// the values of "data" and the "data:" URLs, if they are base64.
//
// It does not see what the provider adds from an earlier response, a cached
// content or a file.
func estimatePrompt(body []byte) int64 {
	text := int64(len(body))
	var payloads int64
	for rest := body; ; {
		i := bytes.Index(rest, []byte(`"data`))
		if i < 0 {
			break
		}
		inString := i > 0 && rest[i-1] == '\\'
		rest = rest[i+len(`"data`):]
		if n := payloadLength(rest); n > 0 && !inString {
			text -= int64(n)
			payloads++
		}
	}
	return (text+bytesPerToken-1)/bytesPerToken + payloads*payloadTokens
}

// payloadLength is the length of the base64 that follows `"data`, or 0.
func payloadLength(rest []byte) int {
	if bytes.HasPrefix(rest, []byte(":")) {
		head := rest[:min(len(rest), 128)]
		_, after, ok := bytes.Cut(head, []byte(";base64,"))
		if !ok {
			return 0
		}
		rest = rest[len(head)-len(after):]
	} else {
		value, isKey := bytes.CutPrefix(rest, []byte(`"`))
		value, hasValue := bytes.CutPrefix(skipSpace(value), []byte(":"))
		text, isString := bytes.CutPrefix(skipSpace(value), []byte(`"`))
		if !isKey || !hasValue || !isString {
			return 0
		}
		rest = text
	}
	n := bytes.IndexByte(rest, '"')
	if n < minPayload || bytes.IndexByte(rest[:n], ' ') >= 0 || !isBase64(rest[:minPayload]) {
		return 0
	}
	return n
}

// isBase64 takes both alphabets, and the backslash that some encoders put
// before a slash.
func isBase64(text []byte) bool {
	for _, b := range text {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case b == '+', b == '/', b == '-', b == '_', b == '=', b == '\\':
		default:
			return false
		}
	}
	return true
}
