package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// catalog is what the model lists show.
var catalog = map[metering.Protocol][]string{
	metering.OpenAI:    {"gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "text-embedding-3-small"},
	metering.Anthropic: {"claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-sonnet-4-5"},
	metering.Gemini:    {"gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001"},
}

// models answers the list of models, or the one that is asked for.
func (x *exchange) models(model string) error {
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	x.entry.Model = model
	p := x.entry.Protocol
	var all []any
	for _, name := range catalog[p] {
		entry := modelEntry(p, name)
		if name == model {
			return x.answerValue(entry)
		}
		all = append(all, entry)
	}
	if model != "" {
		return &refusal{
			status: http.StatusNotFound, message: "The model '" + model + "' does not exist.", code: notFoundCode(p),
		}
	}
	switch p {
	case metering.Anthropic:
		return x.answerValue(map[string]any{
			"data": all, "has_more": false, "first_id": catalog[p][0], "last_id": catalog[p][len(all)-1],
		})
	case metering.Gemini:
		return x.answerValue(map[string]any{"models": all})
	}
	return x.answerValue(map[string]any{"object": "list", "data": all})
}

// notFoundCode is the code that OpenAI gives for a model it does not have.
func notFoundCode(p metering.Protocol) string {
	if p == metering.OpenAI {
		return "model_not_found"
	}
	return ""
}

func modelEntry(p metering.Protocol, name string) any {
	switch p {
	case metering.Anthropic:
		return map[string]any{"type": "model", "id": name, "display_name": name, "created_at": "2025-10-01T00:00:00Z"}
	case metering.Gemini:
		return map[string]any{
			"name": "models/" + name, "displayName": name, "version": "001",
			"inputTokenLimit": 1 << 20, "outputTokenLimit": 1 << 16,
			"supportedGenerationMethods": []string{"generateContent", "countTokens", "embedContent"},
		}
	}
	return map[string]any{"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "sandbox"}
}

// answerValue answers a value that costs nothing.
func (x *exchange) answerValue(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return x.answerFree(body)
}

// moderations finds nothing wrong with any input.
func (x *exchange) moderations(string) error {
	var req struct {
		Model string          `json:"model"`
		Input json.RawMessage `json:"input"`
	}
	if err := x.readJSON(&req); err != nil {
		return err
	}
	name, err := x.prepare(first(req.Model, "omni-moderation-latest"), false)
	if err != nil {
		return err
	}
	var inputs []json.RawMessage
	if json.Unmarshal(req.Input, &inputs) != nil {
		inputs = []json.RawMessage{req.Input}
	}
	results := make([]any, len(inputs))
	for i := range results {
		results[i] = map[string]any{
			"flagged": false, "categories": map[string]bool{"violence": false},
			"category_scores":              map[string]float64{"violence": 0.0001},
			"category_applied_input_types": map[string][]string{"violence": {"text"}},
		}
	}
	return x.answerValue(map[string]any{"id": "modr-" + x.id, "model": name, "results": results})
}

// echo answers with what arrived.
func (x *exchange) echo(string) error {
	sum := sha256.New()
	size, err := io.Copy(sum, x.r.Body)
	if err != nil {
		return invalid("reading the request: %v", err)
	}
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	return x.answerValue(Echo{
		Method: x.r.Method, Path: x.r.URL.EscapedPath(), Query: x.r.URL.RawQuery,
		Host: x.r.Host, Proto: x.r.Proto, Headers: x.r.Header, TransferEncoding: x.r.TransferEncoding,
		BodyBytes: size, BodySHA256: hex.EncodeToString(sum.Sum(nil)),
	})
}

// Echo is what /echo answers: the request as it arrived.
type Echo struct {
	Method           string      `json:"method"`
	Path             string      `json:"path"`
	Query            string      `json:"query"`
	Host             string      `json:"host"`
	Proto            string      `json:"proto"`
	Headers          http.Header `json:"headers"`
	TransferEncoding []string    `json:"transfer_encoding,omitempty"`
	BodyBytes        int64       `json:"body_bytes"`
	BodySHA256       string      `json:"body_sha256"`
}
