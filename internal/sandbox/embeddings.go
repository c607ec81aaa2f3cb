package sandbox

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Vectors have this many dimensions unless the request says otherwise.
const (
	openAIDimensions = 1536
	geminiDimensions = 768
	maxDimensions    = 4096
)

// embedInput is a list of texts to embed: a string, strings, tokens, or lists
// of tokens.
type embedInput struct {
	size  words
	texts int
}

func (in *embedInput) UnmarshalJSON(data []byte) error {
	in.texts = 1
	if err := json.Unmarshal(data, &in.size); err != nil || data[0] != '[' {
		return err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil {
		return err
	}
	if len(items) > 0 && (items[0][0] == '"' || items[0][0] == '[') {
		in.texts = len(items)
	}
	return nil
}

func (x *exchange) embeddings(string) error {
	var req struct {
		Model          string     `json:"model"`
		Input          embedInput `json:"input"`
		EncodingFormat string     `json:"encoding_format"`
		Dimensions     int        `json:"dimensions"`
	}
	if err := x.readJSON(&req); err != nil {
		return err
	}
	if req.Input.texts == 0 {
		return invalid("'input' is required")
	}
	u, err := x.prepareEmbedding(req.Model, int(req.Input.size))
	if err != nil {
		return err
	}
	vector, err := vectorOf(req.Dimensions, openAIDimensions, req.EncodingFormat == "base64")
	if err != nil {
		return err
	}
	body := make([]byte, 0, (req.Input.texts+1)*(len(vector)+128))
	body = append(body, `{"object":"list","data":[`...)
	for i := range req.Input.texts {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(fmt.Appendf(body, `{"object":"embedding","index":%d,"embedding":`, i), vector...)
		body = append(body, '}')
	}
	body = appendString(append(body, `],"model":`...), x.entry.ReportedModel)
	if x.script.Fail != NoUsage {
		body = fmt.Appendf(body, `,"usage":{"prompt_tokens":%d,"total_tokens":%d}`, u.Prompt(), u.Prompt())
	}
	return x.answerRead(append(body, '}'), u)
}

// prepareEmbedding is prepare for requests that only read.
func (x *exchange) prepareEmbedding(model string, size int) (metering.Usage, error) {
	if _, err := x.prepare(model, false); err != nil {
		return metering.Usage{}, err
	}
	u, err := x.script.usage(size, 0)
	if err != nil {
		return u, invalid("%v", err)
	}
	return metering.Usage{Input: u.Prompt()}, nil
}

type geminiEmbedRequest struct {
	Content              geminiContent `json:"content"`
	OutputDimensionality int           `json:"outputDimensionality"`
}

func (x *exchange) embedContent(model string) error {
	var req geminiEmbedRequest
	if err := x.readJSON(&req); err != nil {
		return err
	}
	return x.embedAll(model, []geminiEmbedRequest{req}, `"embedding":`, "")
}

func (x *exchange) batchEmbedContents(model string) error {
	var req struct {
		Requests []geminiEmbedRequest `json:"requests"`
	}
	if err := x.readJSON(&req); err != nil {
		return err
	}
	if len(req.Requests) == 0 {
		return invalid("* BatchEmbedContentsRequest.requests: at least one request is required")
	}
	return x.embedAll(model, req.Requests, `"embeddings":[`, "]")
}

func (x *exchange) embedAll(model string, requests []geminiEmbedRequest, before, after string) error {
	size := 0
	for i := range requests {
		size += requests[i].Content.size()
	}
	u, err := x.prepareEmbedding(model, size)
	if err != nil {
		return err
	}
	body := append(append(x.out[:0], '{'), before...)
	for i := range requests {
		vector, err := vectorOf(requests[i].OutputDimensionality, geminiDimensions, false)
		if err != nil {
			return err
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(append(append(body, `{"values":`...), vector...), '}')
	}
	body = append(body, after...)
	if x.script.Fail != NoUsage {
		body = fmt.Appendf(body, `,"usageMetadata":{"promptTokenCount":%d}`, u.Prompt())
	}
	return x.answerRead(append(body, '}'), u)
}

// vectors holds rendered vectors by shape: rendering 1,536 numbers takes
// longer than all the rest of an answer.
var vectors sync.Map

type vectorShape struct {
	dimensions int
	base64     bool
}

// vectorOf returns a unit vector as JSON: an array of numbers, or base64 of
// little-endian float32.
func vectorOf(wanted, otherwise int, inBase64 bool) (string, error) {
	if wanted == 0 {
		wanted = otherwise
	}
	if wanted < 1 || wanted > maxDimensions {
		return "", invalid("dimensions: %d is not from 1 to %d", wanted, maxDimensions)
	}
	shape := vectorShape{wanted, inBase64}
	if v, ok := vectors.Load(shape); ok {
		return v.(string), nil
	}
	v, _ := vectors.LoadOrStore(shape, shape.render())
	return v.(string), nil
}

func (s vectorShape) render() string {
	component := float32(1 / math.Sqrt(float64(s.dimensions)))
	if !s.base64 {
		number := strconv.FormatFloat(float64(component), 'g', -1, 32)
		return "[" + strings.Repeat(number+",", s.dimensions-1) + number + "]"
	}
	raw := make([]byte, 0, 4*s.dimensions)
	for range s.dimensions {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(component))
	}
	return `"` + base64.StdEncoding.EncodeToString(raw) + `"`
}
