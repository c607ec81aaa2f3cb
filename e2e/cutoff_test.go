package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"google.golang.org/genai"
)

// endless makes the sandbox talk for longer than the keys of this test last.
var endless = map[string]string{"X-Sandbox-Chunks": "20000", "X-Sandbox-Delay": "100us", "X-Sandbox-Prompt": "50"}

// lastCent is what each key of this test may spend, in nano-USD, and lastEvent
// more than what any event in it costs.
const (
	lastCent  = 1_000_000
	lastEvent = 30_000
)

// TestSDKsSeeCutStreamsEnd lets streams run out of money in the middle: each
// SDK must see an answer that ends at a limit of tokens, and no error.
func TestSDKsSeeCutStreamsEnd(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		w := newWorld(t, storage, "")
		w.buyCredits(t, "starter")
		keys := map[string]string{}
		for _, name := range []string{
			"chat", "chat with usage", "chat helper", "responses", "responses helper", "messages", "gemini",
		} {
			for _, language := range []string{"go", "js"} {
				keys[language+" "+name] = w.createKey(t, name, map[string]any{"usage_limit_dollars": "0.001"}).Key
			}
		}
		t.Run("go/openai/chat", func(t *testing.T) { w.cutChat(t, keys["go chat"], false) })
		t.Run("go/openai/chat with usage", func(t *testing.T) { w.cutChat(t, keys["go chat with usage"], true) })
		t.Run("go/openai/responses", func(t *testing.T) { w.cutResponse(t, keys["go responses"]) })
		t.Run("go/anthropic", func(t *testing.T) { w.cutMessage(t, keys["go messages"]) })
		t.Run("go/gemini", func(t *testing.T) { w.cutGemini(t, keys["go gemini"]) })
		w.runJavaScript(t, keys, "cutoff", "endings")
		w.checkBooksBalance(t)
		if complete := w.sandbox.Totals().Complete; complete != 0 {
			t.Errorf("%d streams were read to their end", complete)
		}
	})
}

// cutOff returns an error unless a request is booked as cut off at its key's
// limit. If the client was told how many tokens it got, it was charged for
// these.
func (g *gateway) cutOff(ctx context.Context, requestID string, told *int64) error {
	row, err := g.audit(ctx, requestID)
	if err != nil {
		return err
	}
	switch {
	case row.Error != "cut off: spend_exceeded" || row.Status != 200:
		return fmt.Errorf("request %s: status %d, error %q", requestID, row.Status, row.Error)
	case row.CostNanos > lastCent || row.CostNanos < lastCent-lastEvent:
		return fmt.Errorf("request %s cost %d of %d", requestID, row.CostNanos, lastCent)
	case told != nil && *told != row.CompletionTokens:
		return fmt.Errorf("request %s told its client of %d tokens and charged for %d", requestID, *told, row.CompletionTokens)
	}
	return nil
}

func (w *world) checkCutOff(t *testing.T, requestID string, told *int64) {
	t.Helper()
	if err := w.cutOff(t.Context(), requestID, told); err != nil {
		t.Error(err)
	}
}

func endlessOpenAI() (options []option.RequestOption) {
	for name, value := range endless {
		options = append(options, option.WithHeader(name, value))
	}
	return options
}

func (w *world) cutChat(t *testing.T, key string, usage bool) {
	client, ids := w.openAI(key)
	params := chatParams("gpt-4o")
	if usage {
		params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: param.NewOpt(true)}
	}
	stream := client.Chat.Completions.NewStreaming(t.Context(), params, endlessOpenAI()...)
	var answer openai.ChatCompletionAccumulator
	for stream.Next() {
		if !answer.AddChunk(stream.Current()) {
			t.Fatal("a chunk does not fit the ones before")
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(answer.Choices) != 1 || answer.Choices[0].FinishReason != "length" || answer.Choices[0].Message.Content == "" {
		t.Errorf("got %+v", answer.Choices)
	}
	var told *int64
	if usage {
		told = &answer.Usage.CompletionTokens
	}
	w.checkCutOff(t, ids.take(), told)
}

func (w *world) cutResponse(t *testing.T, key string) {
	client, ids := w.openAI(key)
	stream := client.Responses.NewStreaming(t.Context(), responseParams("gpt-5-mini"), endlessOpenAI()...)
	var text strings.Builder
	var told int64
	for stream.Next() {
		event := stream.Current()
		if event.Type == "response.output_text.delta" {
			text.WriteString(event.Delta)
		}
		if event.Type != "response.incomplete" {
			continue
		}
		told = event.Response.Usage.OutputTokens
		if event.Response.OutputText() != text.String() || event.Response.IncompleteDetails.Reason != "max_output_tokens" {
			t.Errorf("the response ends with %d bytes of text for the %d that came; %+v",
				len(event.Response.OutputText()), text.Len(), event.Response.IncompleteDetails)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	w.checkCutOff(t, ids.take(), &told)
}

func (w *world) cutMessage(t *testing.T, key string) {
	client, ids := w.anthropicSDK(key)
	var options []anthropicoption.RequestOption
	for name, value := range endless {
		options = append(options, anthropicoption.WithHeader(name, value))
	}
	params := messageParams("claude-haiku-4-5")
	params.MaxTokens = 64_000 // or the sandbox would end first
	stream := client.Messages.NewStreaming(t.Context(), params, options...)
	var message anthropic.Message
	for stream.Next() {
		if err := message.Accumulate(stream.Current()); err != nil {
			t.Fatalf("accumulate: %v", err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if message.StopReason != anthropic.StopReasonMaxTokens || len(message.Content) != 1 || message.Content[0].Text == "" {
		t.Errorf("stop reason %q, %d blocks", message.StopReason, len(message.Content))
	}
	w.checkCutOff(t, ids.take(), &message.Usage.OutputTokens)
}

func (w *world) cutGemini(t *testing.T, key string) {
	client, ids, err := w.geminiSDK(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	headers := geminiScript(sdkCase{})
	maps.Copy(headers.HTTPOptions.Headers, geminiHeader(endless))
	var text strings.Builder
	var last *genai.GenerateContentResponse
	for chunk, err := range client.Models.GenerateContentStream(t.Context(), "gemini-2.5-pro", genai.Text("hello"), headers) {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(chunk.Text())
		last = chunk
	}
	if last == nil || last.Candidates[0].FinishReason != genai.FinishReasonMaxTokens || text.Len() == 0 {
		t.Fatalf("got %d bytes of text and %+v", text.Len(), last)
	}
	told := int64(last.UsageMetadata.CandidatesTokenCount)
	w.checkCutOff(t, ids.take(), &told)
}

func geminiHeader(values map[string]string) map[string][]string {
	h := map[string][]string{}
	for name, value := range values {
		h[name] = []string{value}
	}
	return h
}
