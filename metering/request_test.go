package metering_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestReadRequest(t *testing.T) {
	t.Parallel()
	const maxTokens = 1_000_000_000 - 1
	files := post(metering.OpenAI, "/files")
	images := post(metering.OpenAI, "/images/generations")
	countTokens := post(metering.Anthropic, "/v1/messages/count_tokens")
	stream := post(metering.Gemini, "/v1beta/models/gemini-2.5-pro:streamGenerateContent")
	tests := map[string]struct {
		endpoint metering.Endpoint
		body     string
		want     metering.Request
	}{
		"least":                          {chat, `{"model":"gpt-4o"}`, metering.Request{Model: "gpt-4o", Choices: 1}},
		"escaped key and value":          {chat, `{"mod\u0065l":"gpt\u002d4o"}`, metering.Request{Model: "gpt-4o", Choices: 1}},
		"stream hides its usage":         {chat, `{"model":"m","stream":true}`, metering.Request{Model: "m", Stream: true, HidesUsage: true, Choices: 1}},
		"stream options are null":        {chat, `{"model":"m","stream":true,"stream_options":null}`, metering.Request{Model: "m", Stream: true, HidesUsage: true, Choices: 1}},
		"usage declined":                 {chat, `{"model":"m","stream":true,"stream_options":{"include_usage":false}}`, metering.Request{Model: "m", Stream: true, HidesUsage: true, Choices: 1}},
		"usage asked for":                {chat, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, metering.Request{Model: "m", Stream: true, Choices: 1}},
		"no stream":                      {chat, `{"model":"m","stream":false}`, metering.Request{Model: "m", Choices: 1}},
		"the larger cap, for each of n":  {chat, `{"model":"m","max_tokens":10,"max_completion_tokens":20,"n":3}`, metering.Request{Model: "m", MaxTokens: 60, Choices: 3}},
		"n without a cap":                {chat, `{"model":"m","n":3}`, metering.Request{Model: "m", Choices: 3}},
		"best_of counts as n":            {completions, `{"model":"m","max_tokens":10,"n":2,"best_of":5}`, metering.Request{Model: "m", MaxTokens: 50, Choices: 5}},
		"absurd limits":                  {chat, `{"model":"m","max_tokens":1e300,"n":1e300}`, metering.Request{Model: "m", MaxTokens: maxTokens, Choices: maxTokens}},
		"negative limits":                {chat, `{"model":"m","max_tokens":-1,"n":-5}`, metering.Request{Model: "m", Choices: 1}},
		"null limits":                    {chat, `{"model":"m","max_tokens":null,"n":null}`, metering.Request{Model: "m", Choices: 1}},
		"embeddings never hide it":       {embeddings, `{"model":"e","input":"x"}`, metering.Request{Model: "e", Choices: 1}},
		"responses":                      {responses, `{"model":"m","stream":true,"max_output_tokens":7}`, metering.Request{Model: "m", Stream: true, MaxTokens: 7, Choices: 1}},
		"responses in the background":    {responses, `{"model":"m","background":true}`, metering.Request{Model: "m", Background: true, Choices: 1}},
		"messages":                       {messages, `{"model":"c","stream":true,"max_tokens":7}`, metering.Request{Model: "c", Stream: true, MaxTokens: 7, Choices: 1}},
		"model of the path":              {generate, `{"contents":[]}`, metering.Request{Model: "gemini-2.5-pro", Choices: 1}},
		"model of the path and the body": {generate, `{"model":"models/gemini-2.5-pro"}`, metering.Request{Model: "gemini-2.5-pro", Choices: 1}},
		"stream of the path":             {stream, `{}`, metering.Request{Model: "gemini-2.5-pro", Stream: true, Choices: 1}},
		"candidates":                     {generate, `{"generationConfig":{"maxOutputTokens":10,"candidateCount":2}}`, metering.Request{Model: "gemini-2.5-pro", MaxTokens: 20, Choices: 2}},
		"candidates, other spelling":     {generate, `{"generation_config":{"max_output_tokens":10,"candidate_count":2}}`, metering.Request{Model: "gemini-2.5-pro", MaxTokens: 20, Choices: 2}},
		"config is null":                 {generate, `{"generationConfig":null}`, metering.Request{Model: "gemini-2.5-pro", Choices: 1}},
		"Gemini in OpenAI's dialect":     {geminiChat, `{"model":"models/gemini-2.5-pro","stream":true}`, metering.Request{Model: "gemini-2.5-pro", Stream: true, HidesUsage: true, Choices: 1}},
		"free endpoint with a model":     {countTokens, `{"model":"c"}`, metering.Request{Model: "c", Choices: 1}},
		"free endpoint without":          {files, `--boundary`, metering.Request{Choices: 1}},
		"unpriced with a model":          {images, `{"model":"gpt-image-1"}`, metering.Request{Model: "gpt-image-1", Choices: 1}},
		"unpriced form":                  {images, "--boundary\r\n", metering.Request{Choices: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := []byte(tt.body)
			got, err := tt.endpoint.ReadRequest(body)
			if err != nil {
				t.Fatal(err)
			}
			clear(body) // shows a reference to the body that was kept
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(metering.Request{}, "PromptTokens")); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidBodies(t *testing.T) {
	t.Parallel()
	images := post(metering.OpenAI, "/images/generations")
	moderations := post(metering.OpenAI, "/moderations")
	tests := map[string]struct {
		endpoint metering.Endpoint
		body     string
		says     string
	}{
		"empty":                          {chat, ``, "not a JSON object"},
		"cut":                            {chat, `{"model":"m"`, "not a JSON object"},
		"two values":                     {chat, `{"model":"m"}{}`, "not a JSON object"},
		"array":                          {chat, `[]`, "not a JSON object"},
		"free endpoint, cut":             {moderations, `{"model":`, "not a JSON object"},
		"unpriced, cut":                  {images, ` {"model":`, "not a JSON object"},
		"two models":                     {chat, `{"model":"cheap","model":"dear"}`, `"model" appears twice`},
		"two models, one escaped":        {chat, `{"model":"cheap","\u006dodel":"dear"}`, `"model" appears twice`},
		"two models, one in capitals":    {chat, `{"model":"cheap","Model":"dear"}`, `"Model" must be written "model"`},
		"two models, unpriced":           {images, `{"model":"cheap","model":"dear"}`, `"model" appears twice`},
		"two models, messages":           {messages, `{"model":"cheap","model":"dear"}`, `"model" appears twice`},
		"two models, responses":          {responses, `{"model":"cheap","model":"dear"}`, `"model" appears twice`},
		"a letter that folds to s":       {chat, `{"model":"m","ſtream":true}`, `"ſtream" must be written "stream"`},
		"two streams":                    {chat, `{"model":"m","stream":false,"stream":true}`, `"stream" appears twice`},
		"two stream options":             {chat, `{"model":"m","stream_options":{"include_usage":true},"stream_options":{}}`, `"stream_options" appears twice`},
		"usage asked for and declined":   {chat, `{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}`, `"include_usage" appears twice`},
		"two backgrounds":                {responses, `{"model":"m","background":false,"background":true}`, `"background" appears twice`},
		"two configs":                    {generate, `{"generationConfig":{},"generation_config":{}}`, `"generationConfig" appears twice`},
		"two caps in the config":         {generate, `{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}`, `"maxOutputTokens" appears twice`},
		"config is no object":            {generate, `{"generationConfig":[]}`, "not an object"},
		"another model than in the path": {generate, `{"model":"models/gemini-3-pro"}`, "differs from the path's"},
		"model is no string":             {chat, `{"model":["m"]}`, `"model" is not a string`},
		"stream is no boolean":           {chat, `{"model":"m","stream":"true"}`, `"stream" is not a boolean`},
		"stream is a number":             {messages, `{"model":"m","stream":1}`, `"stream" is not a boolean`},
		"background is no boolean":       {responses, `{"model":"m","background":"true"}`, `"background" is not a boolean`},
		"limit is no number":             {chat, `{"model":"m","max_tokens":"9"}`, "a limit is not a number"},
		"choices are no number":          {chat, `{"model":"m","n":true}`, "a limit is not a number"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.endpoint.ReadRequest([]byte(tt.body))
			if !errors.Is(err, metering.ErrInvalidBody) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v: %s", err, metering.ErrInvalidBody, tt.says)
			}
			if got != (metering.Request{}) {
				t.Errorf("request %+v with an error", got)
			}
		})
	}
}

func TestPromptEstimate(t *testing.T) {
	t.Parallel()
	image := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00\x9D\xFF", 30_000)))
	text := strings.Repeat("some words ", 4_000)
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		body     string
		payloads int
		// payload is how many bytes are in payloads.
		payload int
	}{
		"text":               {`{"content":` + string(quoted) + `}`, 0, 0},
		"image URL":          {`{"image_url":{"url":"data:image/png;base64,` + image + `"}}`, 1, len(image)},
		"input image":        {`{"image_url": "data:image/png;base64,` + image + `"}`, 1, len(image)},
		"escaped slashes":    {`{"url":"data:image\/png;base64,` + strings.ReplaceAll(image, "/", `\/`) + `"}`, 1, len(strings.ReplaceAll(image, "/", `\/`))},
		"inline data":        {`{"inlineData":{"mimeType":"image/png","data": "` + image + `"}}`, 1, len(image)},
		"source, twice":      {`{"source":{"data":"` + image + `","type":"base64"}},{"source":{"data" : "` + image + `"}}`, 2, 2 * len(image)},
		"file":               {`{"file_data":"data:application/pdf;base64,` + image + `"}`, 1, len(image)},
		"data that is text":  {`{"data":` + string(quoted) + `}`, 0, 0},
		"data that is short": {`{"data":"aGVsbG8="}`, 0, 0},
		"data in a string":   {`{"text":"{\"data\":\"` + image + `\"}"}`, 0, 0},
		"URL in plain text":  {`{"url":"data:text/plain,` + image + `"}`, 0, 0},
		"data cut":           {`{"data":"` + image, 0, 0},
		"data object":        {`{"data":{"a":1},"data`, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// An endpoint that does not parse the body takes any text.
			got, err := post(metering.OpenAI, "/files").ReadRequest([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if want := int64((len(tt.body)-tt.payload+3)/4 + 1500*tt.payloads); got.PromptTokens != want {
				t.Errorf("estimate %d, want %d", got.PromptTokens, want)
			}
		})
	}
}

func TestAskUsage(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ body, want string }{
		"absent":               {`{"model":"m", "stream" : true}`, `{"stream_options":{"include_usage":true},"model":"m", "stream" : true}`},
		"absent, white space":  {" {\n \"stream\": true\n}\n", " {\"stream_options\":{\"include_usage\":true},\n \"stream\": true\n}\n"},
		"empty object":         {`{ }`, `{"stream_options":{"include_usage":true} }`},
		"null":                 {`{"stream_options": null ,"stream":true}`, `{"stream_options": {"include_usage":true} ,"stream":true}`},
		"not an object":        {`{"stream_options":[1],"stream":true}`, `{"stream_options":{"include_usage":true},"stream":true}`},
		"empty options":        {`{"stream_options":{ },"stream":true}`, `{"stream_options":{"include_usage":true },"stream":true}`},
		"other options":        {`{"stream_options":{"include_obfuscation":false}}`, `{"stream_options":{"include_usage":true,"include_obfuscation":false}}`},
		"declined":             {`{"stream_options":{"x":1,"include_usage": false }}`, `{"stream_options":{"x":1,"include_usage": true }}`},
		"usage is null":        {`{"stream_options":{"include_usage":null}}`, `{"stream_options":{"include_usage":true}}`},
		"the same words in it": {`{"messages":[{"content":"\"stream_options\":{}","stream_options":{"include_usage":true}}],"é":1,"stream_options":{}}`, `{"messages":[{"content":"\"stream_options\":{}","stream_options":{"include_usage":true}}],"é":1,"stream_options":{"include_usage":true}}`},
		"not JSON":             {`nonsense`, `nonsense`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := []byte(tt.body)
			if got := string(metering.AskUsage(body)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if string(body) != tt.body {
				t.Errorf("the body itself was changed: %s", body)
			}
		})
	}
}

func TestIsUsageEvent(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		`{"choices":[],"usage":{"prompt_tokens":1}}`:                   true,
		`{ "usage" : {"prompt_tokens":1}, "choices" : [ ] }`:           true,
		`{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}`:       false,
		`{"choices":[{"delta":{"content":"\"usage\""}}],"usage":null}`: false,
		`{"choices":[],"usage":null}`:                                  false,
		`{"choices":[],"prompt_filter_results":[]}`:                    false,
		`{"usage":{"prompt_tokens":1}}`:                                false,
		`{"choices":[],"error":{"message":"usage"}}`:                   false,
		`[DONE]`: false,
		``:       false,
	}
	for data, want := range tests {
		if got := metering.IsUsageEvent([]byte(data)); got != want {
			t.Errorf("%s: %v, want %v", data, got, want)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, seed := range []string{
		`{"model":"m","stream":true,"n":2,"max_tokens":5}`, `{"stream_options":{"include_usage":null}}`,
		`{"generationConfig":{"maxOutputTokens":-1}}`, `{"url":"data:image/png;base64,AAAA"}`, `{"model":"a","model":"b"}`, ``,
	} {
		f.Add([]byte(seed))
	}
	endpoints := []metering.Endpoint{chat, completions, embeddings, responses, messages, generate, geminiChat}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, e := range endpoints {
			r, err := e.ReadRequest(body)
			if err != nil {
				continue
			}
			if r.MaxTokens < 0 || r.MaxTokens >= 1e9 || r.Choices < 1 || r.PromptTokens < 0 {
				t.Fatalf("%s: %+v", e.Name, r)
			}
		}
		r, err := chat.ReadRequest(body)
		if err != nil || !r.HidesUsage {
			return
		}
		asked := metering.AskUsage(body)
		again, err := chat.ReadRequest(asked)
		if err != nil || again.HidesUsage {
			t.Fatalf("%s: %v, still hides its usage: %v", asked, err, again.HidesUsage)
		}
		again.HidesUsage, again.PromptTokens = r.HidesUsage, r.PromptTokens
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatalf("asking changed the request (-before +after):\n%s", diff)
		}
	})
}

func BenchmarkReadRequest(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"` +
		strings.Repeat("Tell me about Paris. ", 42) + `"}],"temperature":0.7,"max_tokens":256,"stream":true}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := chat.ReadRequest(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAskUsage(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","messages":[{"role":"user","content":"` + strings.Repeat("Tell me about Paris. ", 45) + `"}],"stream":true}`)
	b.ReportAllocs()
	for b.Loop() {
		metering.AskUsage(body)
	}
}
