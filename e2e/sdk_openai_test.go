package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

// openAI is the OpenAI SDK as a developer would set it up.
func (w *world) openAI(key string) (openai.Client, *answers) {
	ids := new(answers)
	return openai.NewClient(
		option.WithBaseURL(w.url+"/openai/v1/"),
		option.WithAPIKey(key),
		option.WithHTTPClient(&http.Client{Transport: ids}),
	), ids
}

func openAIScript(c sdkCase) []option.RequestOption {
	var options []option.RequestOption
	for name, value := range c.script() {
		options = append(options, option.WithHeader(name, value))
	}
	return options
}

func (w *world) testOpenAI(t *testing.T) {
	client, ids := w.openAI(w.key.Key)

	t.Run("chat", func(t *testing.T) {
		c := sdkCases["openai/chat"]
		completion, err := client.Chat.Completions.New(t.Context(), chatParams(c.ask), openAIScript(c)...)
		if err != nil {
			t.Fatal(err)
		}
		if completion.Choices[0].Message.Content == "" {
			t.Error("the answer is empty")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("chat stream", func(t *testing.T) {
		c := sdkCases["openai/chat stream"]
		stream := client.Chat.Completions.NewStreaming(t.Context(), chatParams(c.ask), openAIScript(c)...)
		var answer openai.ChatCompletionAccumulator
		for stream.Next() {
			answer.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if len(answer.Choices) != 1 || answer.Choices[0].Message.Content == "" {
			t.Errorf("the answer is empty: %+v", answer.Choices)
		}
		if answer.Usage.TotalTokens != 0 {
			t.Errorf("the stream reports usage that was not asked for: %+v", answer.Usage)
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("tools", func(t *testing.T) { w.testOpenAITools(t, client, ids) })
	t.Run("embeddings", func(t *testing.T) {
		c := sdkCases["openai/embeddings"]
		embedding, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
			Model: c.ask,
			Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("hello")},
		}, openAIScript(c)...)
		if err != nil {
			t.Fatal(err)
		}
		if len(embedding.Data) != 1 || len(embedding.Data[0].Embedding) == 0 {
			t.Errorf("no vector: %+v", embedding)
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("responses", func(t *testing.T) {
		c := sdkCases["openai/responses"]
		response, err := client.Responses.New(t.Context(), responseParams(c.ask), openAIScript(c)...)
		if err != nil {
			t.Fatal(err)
		}
		if response.OutputText() == "" {
			t.Error("the answer is empty")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("responses stream", func(t *testing.T) {
		c := sdkCases["openai/responses stream"]
		stream := client.Responses.NewStreaming(t.Context(), responseParams(c.ask), openAIScript(c)...)
		var text strings.Builder
		var used int64
		for stream.Next() {
			event := stream.Current()
			text.WriteString(event.Delta)
			used = max(used, event.Response.Usage.TotalTokens)
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if text.Len() == 0 || used != c.used.prompt()+c.used.output {
			t.Errorf("got %d bytes of text and %d tokens", text.Len(), used)
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
}

func (w *world) testOpenAITools(t *testing.T, client openai.Client, ids *answers) {
	first, second := sdkCases["openai/tool call"], sdkCases["openai/tool result"]
	params := chatParams(first.ask)
	params.Tools = []openai.ChatCompletionToolUnionParam{
		openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name:       "get_weather",
			Parameters: shared.FunctionParameters(weatherSchema()),
		}),
	}
	call, err := client.Chat.Completions.New(t.Context(), params, openAIScript(first)...)
	if err != nil {
		t.Fatal(err)
	}
	w.checkBooked(t, ids.take(), first.charge)
	message := call.Choices[0].Message
	if len(message.ToolCalls) != 1 || message.ToolCalls[0].Function.Name != "get_weather" {
		t.Fatalf("the model did not call the tool: %+v", message)
	}
	params.Messages = append(params.Messages, message.ToParam(), openai.ToolMessage("20 degrees", message.ToolCalls[0].ID))
	answer, err := client.Chat.Completions.New(t.Context(), params, openAIScript(second)...)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Choices[0].Message.Content == "" {
		t.Error("the answer is empty")
	}
	w.checkBooked(t, ids.take(), second.charge)
}

func chatParams(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the weather in Paris?")},
	}
}

func responseParams(model string) responses.ResponseNewParams {
	return responses.ResponseNewParams{
		Model: model,
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("What is the weather in Paris?")},
	}
}

func weatherSchema() map[string]any {
	return map[string]any{
		"type":       "object",
		"properties": map[string]any{"city": map[string]any{"type": "string"}},
		"required":   []string{"city"},
	}
}
