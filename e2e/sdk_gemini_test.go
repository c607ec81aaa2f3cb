package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genai"
)

// geminiSDK is the Google GenAI SDK as a developer would set it up.
func (w *world) geminiSDK(ctx context.Context, key string) (*genai.Client, *answers, error) {
	ids := new(answers)
	client, err := genai.NewClient(ctx, &genai.ClientConfig{
		APIKey:      key,
		Backend:     genai.BackendGeminiAPI,
		HTTPClient:  &http.Client{Transport: ids},
		HTTPOptions: genai.HTTPOptions{BaseURL: w.url + "/gemini"},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("create client: %w", err)
	}
	return client, ids, nil
}

func geminiScript(c sdkCase) *genai.GenerateContentConfig {
	return &genai.GenerateContentConfig{HTTPOptions: &genai.HTTPOptions{Headers: c.header()}}
}

func (w *world) testGemini(t *testing.T) {
	client, ids, err := w.geminiSDK(t.Context(), w.key.Key)
	if err != nil {
		t.Fatal(err)
	}
	question := genai.Text("What is the weather in Paris?")

	t.Run("generate", func(t *testing.T) {
		c := sdkCases["gemini/generate"]
		answer, err := client.Models.GenerateContent(t.Context(), c.ask, question, geminiScript(c))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Text() == "" {
			t.Error("the answer is empty")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("generate stream", func(t *testing.T) {
		c := sdkCases["gemini/generate stream"]
		var text strings.Builder
		for chunk, err := range client.Models.GenerateContentStream(t.Context(), c.ask, question, geminiScript(c)) {
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(chunk.Text())
		}
		if text.Len() == 0 {
			t.Error("the answer is empty")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("tools", func(t *testing.T) { w.testGeminiTools(t, client, ids) })
	t.Run("count tokens", func(t *testing.T) {
		c := sdkCases["gemini/count tokens"]
		count, err := client.Models.CountTokens(t.Context(), c.ask, question, nil)
		if err != nil {
			t.Fatal(err)
		}
		if count.TotalTokens == 0 {
			t.Error("no tokens counted")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
}

func (w *world) testGeminiTools(t *testing.T, client *genai.Client, ids *answers) {
	first, second := sdkCases["gemini/tool call"], sdkCases["gemini/tool result"]
	contents := genai.Text("What is the weather in Paris?")
	options := geminiScript(first)
	options.Tools = []*genai.Tool{{FunctionDeclarations: []*genai.FunctionDeclaration{{
		Name: "get_weather", ParametersJsonSchema: weatherSchema(),
	}}}}
	call, err := client.Models.GenerateContent(t.Context(), first.ask, contents, options)
	if err != nil {
		t.Fatal(err)
	}
	w.checkBooked(t, ids.take(), first.charge)
	calls := call.FunctionCalls()
	if len(calls) != 1 || calls[0].Name != "get_weather" {
		t.Fatalf("the model did not call the tool: %+v", call.Candidates)
	}
	contents = append(contents, call.Candidates[0].Content, genai.NewContentFromFunctionResponse(
		calls[0].Name, map[string]any{"result": "20 degrees"}, genai.RoleUser))
	options.HTTPOptions = &genai.HTTPOptions{Headers: second.header()}
	answer, err := client.Models.GenerateContent(t.Context(), second.ask, contents, options)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Text() == "" {
		t.Error("the answer is empty")
	}
	w.checkBooked(t, ids.take(), second.charge)
}
