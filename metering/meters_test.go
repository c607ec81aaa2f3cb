package metering_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func post(p metering.Protocol, path string) metering.Endpoint {
	return metering.Classify(p, http.MethodPost, path, nil)
}

var (
	chat         = post(metering.OpenAI, "/chat/completions")
	completions  = post(metering.OpenAI, "/completions")
	embeddings   = post(metering.OpenAI, "/embeddings")
	responses    = post(metering.OpenAI, "/responses")
	compact      = post(metering.OpenAI, "/responses/compact")
	messages     = post(metering.Anthropic, "/v1/messages")
	generate     = post(metering.Gemini, "/v1beta/models/gemini-2.5-pro:generateContent")
	embedContent = post(metering.Gemini, "/v1beta/models/gemini-embedding-2:embedContent")
	geminiChat   = post(metering.Gemini, "/v1beta/openai/chat/completions")
)

func read(e metering.Endpoint, pieces ...string) metering.Reading {
	m := e.NewMeter(metering.Request{})
	for _, p := range pieces {
		// A copy that is wiped afterwards shows if a meter keeps a reference.
		piece := []byte(p)
		m.Read(piece)
		clear(piece)
	}
	return m.Reading()
}

type meterTest struct {
	endpoint metering.Endpoint
	pieces   []string
	want     metering.Reading
}

func runMeterTests(t *testing.T, tests map[string]meterTest) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, read(tt.endpoint, tt.pieces...)); diff != "" {
				t.Errorf("reading (-want +got):\n%s", diff)
			}
		})
	}
}

func mismatched(r metering.Reading) metering.Reading {
	r.Mismatch = true
	return r
}

func TestMetersOfOtherEndpoints(t *testing.T) {
	t.Parallel()
	const body = `{"model":"m","input_tokens":5,"usage":{"input_tokens":5,"output_tokens":5}}`
	free := read(post(metering.Anthropic, "/v1/messages/count_tokens"), body)
	if diff := cmp.Diff(metering.Reading{Found: true, Final: true}, free); diff != "" {
		t.Errorf("free endpoint (-want +got):\n%s", diff)
	}
	unpriced := read(post(metering.OpenAI, "/images/generations"), body)
	if diff := cmp.Diff(metering.Reading{}, unpriced); diff != "" {
		t.Errorf("unpriced endpoint (-want +got):\n%s", diff)
	}
	unclassified := read(metering.Endpoint{}, body)
	if diff := cmp.Diff(metering.Reading{}, unclassified); diff != "" {
		t.Errorf("no endpoint (-want +got):\n%s", diff)
	}
}

func TestMetersSurviveDeepNesting(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 20<<20)
	for _, e := range []metering.Endpoint{chat, responses, messages, generate} {
		if got := read(e, deep, `{"usage":`+deep); got.Found {
			t.Errorf("%s found a usage", e.Name)
		}
	}
	if _, err := chat.ReadRequest([]byte(`{"model":"m","messages":` + deep)); err == nil {
		t.Error("a deeply nested request was accepted")
	}
}

func TestManyBracketsAreNotDeep(t *testing.T) {
	t.Parallel()
	bodies := map[string]string{
		"in a string":            `{"model":"m","content":"` + strings.Repeat("[{", 20_000) + `"}`,
		"one beside the other":   `{"content":[` + strings.Repeat("[{}],", 20_000) + `0],"model":"m"}`,
		"after an escaped quote": `{"content":"\"` + strings.Repeat("[", 20_000) + `","model":"m"}`,
	}
	for name, body := range bodies {
		if r, err := chat.ReadRequest([]byte(body)); err != nil || r.Model != "m" {
			t.Errorf("%s: model %q, %v", name, r.Model, err)
		}
	}
	if _, err := chat.ReadRequest([]byte(`{"model":"m","content":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`)); err == nil {
		t.Error("valid but deeply nested JSON was accepted")
	}
}

func FuzzMeters(f *testing.F) {
	for _, seed := range [][]string{
		chatBody(`"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":7}`),
		{`{"type":"message","model":"m","usage":{"input_tokens":1,"output_tokens":2,"iterations":[{"type":"compaction","input_tokens":3}]}}`},
		{`{"object":"response","status":"completed","usage":{"input_tokens":1,"output_tokens":2},"tool_usage":{"image_gen":{"input_tokens":1}}}`},
		{`{"candidates":[{"index":0,"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":4}]}}`},
	} {
		f.Add([]byte(seed[0]), []byte(`{"usage":{"input_tokens":-1}}`))
	}
	endpoints := []metering.Endpoint{chat, completions, embeddings, responses, compact, messages, generate, embedContent, geminiChat}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, e := range endpoints {
			r := read(e, string(first), string(second))
			if err := plausible(r); err != nil {
				t.Fatalf("%s: %v: %+v", e.Name, err, r)
			}
		}
	})
}

// plausible checks what holds for every reading, whatever was read.
func plausible(r metering.Reading) error {
	const limit = 4 * 1_000_000_000
	usages := []metering.Usage{r.Usage}
	for _, o := range r.Others {
		usages = append(usages, o.Usage)
	}
	for _, u := range usages {
		for _, n := range []int64{
			u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio, u.CacheWrite, u.CacheWriteLong,
			u.Output, u.OutputAudio, u.OutputImage, u.WebSearches, u.Reasoning,
		} {
			if n < 0 || n > limit {
				return fmt.Errorf("a bucket of %d", n)
			}
		}
		if u.Reasoning > u.Output {
			return errors.New("more reasoning than output")
		}
	}
	if r.Final && !r.Found {
		return errors.New("final without a usage")
	}
	if r.TextBytes < 0 {
		return errors.New("negative text")
	}
	return nil
}

func BenchmarkMeter(b *testing.B) {
	const head = `"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795430100,"model":"gpt-4o-2024-08-06","service_tier":"default",`
	chatStream := []string{}
	messageStream := []string{`{"type":"message_start","message":{"model":"claude","usage":{"input_tokens":25,"output_tokens":1}}}`}
	geminiStream := []string{}
	for range 50 {
		chatStream = append(chatStream, `{`+head+`"choices":[{"index":0,"delta":{"content":" Hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x9"}`)
		messageStream = append(messageStream, `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" Hello"}}`)
		geminiStream = append(geminiStream, `{"candidates":[{"content":{"parts":[{"text":" Hello"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":31,"candidatesTokenCount":3,"totalTokenCount":34,"promptTokensDetails":[{"modality":"TEXT","tokenCount":31}]},"modelVersion":"gemini-2.5-pro"}`)
	}
	chatStream = append(chatStream, `{`+head+`"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":50,"total_tokens":59,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`, "[DONE]")
	messageStream = append(messageStream, `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":50}}`, `{"type":"message_stop"}`)
	for name, s := range map[string]struct {
		endpoint metering.Endpoint
		events   []string
	}{
		"chat, 50 events":     {chat, chatStream},
		"messages, 50 events": {messages, messageStream},
		"gemini, 50 events":   {generate, geminiStream},
	} {
		var pieces [][]byte
		for _, e := range s.events {
			pieces = append(pieces, []byte(e))
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m := s.endpoint.NewMeter(metering.Request{})
				for _, p := range pieces {
					m.Read(p)
				}
				if r := m.Reading(); !r.Found {
					b.Fatal("no usage")
				}
			}
		})
	}
}

func BenchmarkMeterWholeChat(b *testing.B) {
	for name, text := range map[string]string{
		"1 KB":  strings.Repeat("Money moves, and \\\"books\\\" balance. ", 12),
		"20 KB": strings.Repeat("Money moves, and \\\"books\\\" balance. ", 560),
	} {
		body := []byte(`{"id":"chatcmpl-9x8y7z6w5v4u3t2s1r0q","object":"chat.completion","created":1795430100,"model":"gpt-4o-2024-08-06",` +
			`"choices":[{"index":0,"message":{"role":"assistant","content":"` + text + `","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],` +
			`"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},` +
			`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},` +
			`"service_tier":"default","system_fingerprint":"fp_b376dfbbd5"}`)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				m := chat.NewMeter(metering.Request{})
				m.Read(body)
				if r := m.Reading(); !r.Final {
					b.Fatal("no usage")
				}
			}
		})
	}
}
