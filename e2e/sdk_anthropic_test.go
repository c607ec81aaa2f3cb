package e2e

import (
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

// anthropicSDK is the Anthropic SDK as a developer would set it up.
func (w *world) anthropicSDK(key string) (anthropic.Client, *answers) {
	ids := new(answers)
	return anthropic.NewClient(
		option.WithBaseURL(w.url+"/anthropic"),
		option.WithAPIKey(key),
		option.WithHTTPClient(&http.Client{Transport: ids}),
	), ids
}

func anthropicScript(c sdkCase) []option.RequestOption {
	var options []option.RequestOption
	for name, value := range c.script() {
		options = append(options, option.WithHeader(name, value))
	}
	return options
}

func (w *world) testAnthropic(t *testing.T) {
	client, ids := w.anthropicSDK(w.key.Key)

	t.Run("messages", func(t *testing.T) {
		c := sdkCases["anthropic/messages"]
		message, err := client.Messages.New(t.Context(), messageParams(c.ask), anthropicScript(c)...)
		if err != nil {
			t.Fatal(err)
		}
		if len(message.Content) == 0 || message.Content[0].Text == "" {
			t.Error("the answer is empty")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("messages stream", func(t *testing.T) {
		c := sdkCases["anthropic/messages stream"]
		stream := client.Messages.NewStreaming(t.Context(), messageParams(c.ask), anthropicScript(c)...)
		var message anthropic.Message
		for stream.Next() {
			if err := message.Accumulate(stream.Current()); err != nil {
				t.Fatalf("accumulate: %v", err)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if len(message.Content) == 0 || message.Usage.OutputTokens != c.used.output {
			t.Errorf("content %v, usage %+v", message.Content, message.Usage)
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
	t.Run("tools", func(t *testing.T) { w.testAnthropicTools(t, client, ids) })
	t.Run("count tokens", func(t *testing.T) {
		c := sdkCases["anthropic/count tokens"]
		params := messageParams(c.ask)
		count, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{
			Model: params.Model, Messages: params.Messages,
		})
		if err != nil {
			t.Fatal(err)
		}
		if count.InputTokens == 0 {
			t.Error("no tokens counted")
		}
		w.checkBooked(t, ids.take(), c.charge)
	})
}

func (w *world) testAnthropicTools(t *testing.T, client anthropic.Client, ids *answers) {
	first, second := sdkCases["anthropic/tool call"], sdkCases["anthropic/tool result"]
	params := messageParams(first.ask)
	params.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{
		Name:        "get_weather",
		InputSchema: anthropic.ToolInputSchemaParam{Properties: weatherSchema()["properties"]},
	}}}
	call, err := client.Messages.New(t.Context(), params, anthropicScript(first)...)
	if err != nil {
		t.Fatal(err)
	}
	w.checkBooked(t, ids.take(), first.charge)
	var id string
	for _, block := range call.Content {
		if block.Type == "tool_use" && block.Name == "get_weather" {
			id = block.ID
		}
	}
	if id == "" {
		t.Fatalf("the model did not call the tool: %+v", call.Content)
	}
	params.Messages = append(params.Messages, call.ToParam(),
		anthropic.NewUserMessage(anthropic.NewToolResultBlock(id, "20 degrees", false)))
	answer, err := client.Messages.New(t.Context(), params, anthropicScript(second)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Content) == 0 || answer.Content[0].Text == "" {
		t.Error("the answer is empty")
	}
	w.checkBooked(t, ids.take(), second.charge)
}

func messageParams(model string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model:     model,
		MaxTokens: 1024,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("What is the weather in Paris?"))},
	}
}
