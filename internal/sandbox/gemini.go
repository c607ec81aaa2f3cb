package sandbox

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddy-llm-gateway/gateway/metering"
)

type geminiContent struct {
	Role  string `json:"role"`
	Parts []struct {
		Text             string          `json:"text"`
		FunctionResponse json.RawMessage `json:"functionResponse"`
	} `json:"parts"`
}

// size is the number of bytes of text.
func (c *geminiContent) size() int {
	n := 0
	for _, p := range c.Parts {
		n += len(p.Text) + len(p.FunctionResponse)
	}
	return n
}

type geminiRequest struct {
	Contents          []geminiContent `json:"contents"`
	SystemInstruction geminiContent   `json:"systemInstruction"`
	ServiceTier       string          `json:"serviceTier"`
	Tools             []struct {
		FunctionDeclarations []struct {
			Name                 string          `json:"name"`
			Parameters           json.RawMessage `json:"parameters"`
			ParametersJSONSchema json.RawMessage `json:"parametersJsonSchema"`
		} `json:"functionDeclarations"`
	} `json:"tools"`
	ToolConfig struct {
		FunctionCallingConfig struct {
			Mode                 string   `json:"mode"`
			AllowedFunctionNames []string `json:"allowedFunctionNames"`
		} `json:"functionCallingConfig"`
	} `json:"toolConfig"`
	GenerationConfig struct {
		MaxOutputTokens    int64           `json:"maxOutputTokens"`
		ResponseSchema     json.RawMessage `json:"responseSchema"`
		ResponseJSONSchema json.RawMessage `json:"responseJsonSchema"`
	} `json:"generationConfig"`
	// GenerateContentRequest wraps all of the above where tokens are counted.
	GenerateContentRequest *geminiRequest `json:"generateContentRequest"`
}

func (req *geminiRequest) question(model string, stream bool) question {
	calling := req.ToolConfig.FunctionCallingConfig
	config := req.GenerationConfig
	q := question{
		model: model, stream: stream, promptBytes: req.SystemInstruction.size(), tier: req.ServiceTier,
		maxTokens: config.MaxOutputTokens, forced: calling.Mode == "ANY", schema: config.ResponseSchema,
	}
	if config.ResponseJSONSchema != nil {
		q.schema = config.ResponseJSONSchema
	}
	if len(calling.AllowedFunctionNames) > 0 {
		q.force = calling.AllowedFunctionNames[0]
	}
	for _, c := range req.Contents {
		q.promptBytes += c.size()
		q.answered = false
		for _, p := range c.Parts {
			q.answered = q.answered || p.FunctionResponse != nil
		}
	}
	for _, t := range req.Tools {
		for _, f := range t.FunctionDeclarations {
			schema := f.Parameters
			if f.ParametersJSONSchema != nil {
				schema = f.ParametersJSONSchema
			}
			q.tools = append(q.tools, tool{f.Name, schema})
		}
	}
	return q
}

func (x *exchange) generateContent(model string) error {
	return x.content(model, false)
}

func (x *exchange) streamGenerateContent(model string) error {
	return x.content(model, true)
}

func (x *exchange) content(model string, stream bool) error {
	var req geminiRequest
	if err := x.readJSON(&req); err != nil {
		return err
	}
	if len(req.Contents) == 0 {
		return invalid("* GenerateContentRequest.contents: contents is not specified")
	}
	sse := x.r.URL.Query().Get("alt") == "sse"
	return x.generate(req.question(model, stream), func(a *answer) dialect { return newGemini(a, sse) })
}

// countTokens counts tokens, for free.
func (x *exchange) countTokens(model string) error {
	var req geminiRequest
	if err := x.readJSON(&req); err != nil {
		return err
	}
	if req.GenerateContentRequest != nil {
		req = *req.GenerateContentRequest
	}
	if _, err := x.prepare(model, false); err != nil {
		return err
	}
	u, err := x.script.usage(req.question(model, false).promptBytes, 0)
	if err != nil {
		return invalid("%v", err)
	}
	body := fmt.Appendf(x.out[:0], `{"totalTokens":%d,"promptTokensDetails":`, u.Prompt())
	body = append(appendModalities(body, u.Prompt()-u.InputAudio, u.InputAudio), '}')
	return x.answerFree(body)
}

// geminiDialect is POST models/{model}:generateContent and its stream, as
// events or as one JSON array.
type geminiDialect struct {
	*answer
	sse bool
	// tail is what each chunk ends with besides its usage.
	tail string
	// sent tells that an element of the array precedes.
	sent bool
}

func newGemini(a *answer, sse bool) dialect {
	a.choices = 1
	if a.call != "" {
		a.text = literal(a.text.literal, new(int64(1))) // calls come whole
	}
	return &geminiDialect{
		answer: a, sse: sse,
		tail: `,"modelVersion":` + string(a.model) + `,"responseId":"` + a.id + `"}`,
	}
}

func (d *geminiDialect) streamType() string {
	if d.sse {
		return "text/event-stream"
	}
	return "application/json; charset=UTF-8"
}

// reports is false for an answer that cost nothing, since zeros are left out.
func (d *geminiDialect) reports(bool) bool {
	return d.fail != NoUsage && d.usage.Prompt()+d.usage.Completion() > 0
}

func (d *geminiDialect) finishReason() string {
	if d.cut {
		return "MAX_TOKENS"
	}
	return "STOP"
}

// appendChunk appends a response with one part, which is the last if finish
// is not empty.
func (d *geminiDialect) appendChunk(dst []byte, part func([]byte) []byte, finish string, usage *metering.Usage) []byte {
	dst = append(dst, `{"candidates":[{"content":{"parts":[`...)
	dst = append(part(dst), `],"role":"model"},"index":0`...)
	if finish != "" {
		dst = append(append(dst, `,"finishReason":"`...), finish...)
		dst = append(dst, '"')
		dst = d.appendSearches(dst)
	}
	dst = append(dst, "}]"...)
	if usage != nil && d.fail != NoUsage {
		dst = d.appendUsage(append(dst, `,"usageMetadata":`...), *usage)
	}
	return append(dst, d.tail...)
}

// appendSearches appends the queries that the answer is grounded in.
func (d *geminiDialect) appendSearches(dst []byte) []byte {
	n := int(d.usage.WebSearches)
	if n == 0 {
		return dst
	}
	queries := strings.Repeat(`"books that balance",`, n)
	return append(dst, `,"groundingMetadata":{"webSearchQueries":[`+queries[:len(queries)-1]+`]}`...)
}

// appendUsage appends the usage metadata, in which no field is zero.
func (d *geminiDialect) appendUsage(dst []byte, u metering.Usage) []byte {
	dst = append(dst, '{')
	for _, f := range [...]struct {
		name  string
		count int64
	}{
		{"promptTokenCount", u.Prompt() - d.toolPrompt},
		{"candidatesTokenCount", u.Output - u.Reasoning},
		{"cachedContentTokenCount", u.CacheRead},
		{"thoughtsTokenCount", u.Reasoning},
		{"toolUsePromptTokenCount", d.toolPrompt},
		{"totalTokenCount", u.Prompt() + u.Output},
	} {
		if f.count != 0 {
			dst = fmt.Appendf(dst, `"%s":%d,`, f.name, f.count)
		}
	}
	if u.CacheRead > 0 {
		dst = append(appendModalities(append(dst, `"cacheTokensDetails":`...), u.CacheRead, 0), ',')
	}
	if d.toolPrompt > 0 {
		dst = append(appendModalities(append(dst, `"toolUsePromptTokensDetails":`...), d.toolPrompt, 0), ',')
	}
	if d.tier != "" {
		dst = append(appendString(append(dst, `"serviceTier":`...), d.tier), ',')
	}
	dst = append(dst, `"promptTokensDetails":`...)
	return append(appendModalities(dst, u.Prompt()-d.toolPrompt-u.InputAudio, u.InputAudio), '}')
}

func appendModalities(dst []byte, text, audio int64) []byte {
	dst = append(dst, '[')
	if text > 0 {
		dst = fmt.Appendf(dst, `{"modality":"TEXT","tokenCount":%d}`, text)
	}
	if text > 0 && audio > 0 {
		dst = append(dst, ',')
	}
	if audio > 0 {
		dst = fmt.Appendf(dst, `{"modality":"AUDIO","tokenCount":%d}`, audio)
	}
	return append(dst, ']')
}

// appendPart appends the part that holds the text's given range, or the call.
func (d *geminiDialect) appendPart(dst []byte, appendText func([]byte) []byte) []byte {
	if d.call == "" {
		return append(appendText(append(dst, `{"text":`...)), '}')
	}
	dst = appendString(append(dst, `{"functionCall":{"id":"fc_`+d.id+`","name":`...), d.call)
	dst = append(append(dst, `,"args":`...), d.text.literal...)
	return append(dst, `},"thoughtSignature":"CiQ="}`...)
}

func (d *geminiDialect) whole(dst []byte) []byte {
	part := func(dst []byte) []byte { return d.appendPart(dst, d.text.appendAll) }
	return append(d.appendChunk(dst, part, d.finishReason(), &d.usage), '\n')
}

func (d *geminiDialect) begin(dst []byte) []byte { return dst }

func (d *geminiDialect) delta(dst []byte, piece int) []byte {
	part := func(dst []byte) []byte {
		return d.appendPart(dst, func(dst []byte) []byte { return d.text.appendPiece(dst, piece) })
	}
	usage := d.usageAfter(piece + 1)
	if d.fail == UsageOnFinish {
		return d.shut(d.appendChunk(d.open(dst), part, "", nil))
	}
	return d.shut(d.appendChunk(d.open(dst), part, "", &usage))
}

func (d *geminiDialect) end(dst []byte) []byte {
	part := func(dst []byte) []byte { return append(dst, `{"text":""}`...) }
	dst = d.shut(d.appendChunk(d.open(dst), part, d.finishReason(), &d.usage))
	if d.sse {
		return dst
	}
	return append(dst, ']')
}

// open begins an event or an element, which shut ends.
func (d *geminiDialect) open(dst []byte) []byte {
	switch {
	case d.sse:
		return append(dst, "data: "...)
	case d.sent:
		return append(dst, ",\r\n"...)
	}
	d.sent = true
	return append(dst, '[')
}

func (d *geminiDialect) shut(dst []byte) []byte {
	if d.sse {
		return append(dst, "\r\n\r\n"...)
	}
	return dst
}

const geminiFault = `{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}`

func (d *geminiDialect) fault(dst []byte) []byte {
	if d.sse {
		return append(dst, geminiFault+"\r\n\r\n"...) // bare, without "data:"
	}
	return append(append(d.open(dst), geminiFault...), ']')
}

func (d *geminiDialect) broken(dst []byte) []byte {
	return d.shut(append(d.open(dst), `{"candidates":[{"content":{"par`...))
}
