package sandbox

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSample(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"type":"array","items":`, 20) + `{}` + strings.Repeat(`}`, 20)
	tests := map[string]struct{ schema, want string }{
		"nothing":          {``, `{}`},
		"not a schema":     {`[1]`, `{}`},
		"no properties":    {`{"type":"object"}`, `{}`},
		"not an object":    {`{"type":"string"}`, `{}`},
		"implied object":   {`{"properties":{"a":{"type":"boolean"}}}`, `{"a":true}`},
		"Gemini's capital": {`{"type":"OBJECT","properties":{"a":{"type":"STRING"}}}`, `{"a":"sandbox"}`},
		"numbers":          {`{"properties":{"a":{"type":"number"},"b":{"type":"integer"}}}`, `{"a":1,"b":1}`},
		"constants":        {`{"properties":{"a":{"const":7},"b":{"enum":["x","y"]}}}`, `{"a":7,"b":"x"}`},
		"several types":    {`{"properties":{"a":{"type":["string","null"]},"b":{"type":[]}}}`, `{"a":"sandbox","b":null}`},
		"nested":           {`{"properties":{"a":{"type":"array","items":{"properties":{"b":{"type":"string"}}}}}}`, `{"a":[{"b":"sandbox"}]}`},
		"unknown":          {`{"properties":{"a":{"$ref":"#/x"},"b":true}}`, `{"a":null,"b":null}`},
		"too deep":         {`{"properties":{"a":` + deep + `}}`, `{"a":[[[[[[[[null]]]]]]]]}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, sample(json.RawMessage(test.schema))); diff != "" {
				t.Errorf("sample (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		json string
		want words
	}{
		"null":           {`null`, 0},
		"plain":          {`"four"`, 4},
		"escaped":        {`"\u00e9\n"`, 3},
		"strings":        {`["a","bc"]`, 3},
		"tokens":         {`[[1,2],[3]]`, 12},
		"parts":          {`[{"type":"text","text":"abc"},{"type":"image_url","image_url":{"url":"data:x"}}]`, 3},
		"nested content": {`[{"role":"user","content":[{"type":"input_text","text":"abc"}]},{"content":"d"}]`, 4},
		"no text":        {`[{"text":false}]`, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n words
			if err := json.Unmarshal([]byte(test.json), &n); err != nil || n != test.want {
				t.Errorf("%d bytes, want %d, %v", n, test.want, err)
			}
		})
	}
}

// TestPieces checks that the pieces of any text make the text, and that no
// piece cuts a character in two.
func TestPieces(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text   text
		pieces int
		want   string
	}{
		"a word each":            {literal("a  bc d ", nil), 4, "a  bc d "},
		"more pieces than bytes": {literal("é🙂", new(int64(10))), 10, "é🙂"},
		"one piece":              {literal("é\"\n", new(int64(1))), 1, "é\"\n"},
		"nothing":                {literal("", nil), 0, ""},
		"nothing in two pieces":  {literal("", new(int64(2))), 2, ""},
		"filler":                 {fill(100, new(int64(3))), 3, strings.Repeat(filler, 2)[:100]},
		"much filler":            {fill(fillerPiece+1, nil), 2, strings.Repeat(filler, 65)[:fillerPiece+1]},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.text.pieces != test.pieces {
				t.Errorf("%d pieces, want %d", test.text.pieces, test.pieces)
			}
			var joined strings.Builder
			for i := range test.text.pieces {
				var piece string
				if err := json.Unmarshal(test.text.appendPiece(nil, i), &piece); err != nil {
					t.Fatal(err)
				}
				joined.WriteString(piece)
			}
			var all string
			if err := json.Unmarshal(test.text.appendAll(nil), &all); err != nil {
				t.Fatal(err)
			}
			if joined.String() != test.want || all != test.want {
				t.Errorf("pieces make %q, all is %q, want %q", joined.String(), all, test.want)
			}
		})
	}
}

func TestTiers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		call call
		want string
	}{
		{"OpenAI by default", call{path: chatPath, body: chatBody}, "default"},
		{"OpenAI auto", call{path: chatPath, body: `{"service_tier":"auto",` + chatBody[1:]}, "default"},
		{"OpenAI fast is priority", call{path: chatPath, body: `{"service_tier":"fast",` + chatBody[1:]}, "priority"},
		{"OpenAI flex", call{path: "/v1/responses", body: `{"service_tier":"flex",` + inputBody[1:]}, "flex"},
		{"scripted downgrade", call{path: chatPath, body: `{"service_tier":"priority",` + chatBody[1:], headers: []string{"X-Sandbox-Tier: default"}}, "default"},
		{"Anthropic", call{path: "/v1/messages", body: messagesBody}, "standard"},
		{"Gemini by default", call{path: "/v1/models/gemini-2.5-pro:generateContent", body: geminiBody}, ""},
		{"Gemini flex", call{path: "/v1/models/gemini-2.5-pro:generateContent", body: `{"serviceTier":"flex",` + geminiBody[1:]}, "flex"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, test.call)
			if s := l.sole(t); s.Tier != test.want || !strings.Contains(string(got.body), `"`+test.want+`"`) && test.want != "" {
				t.Errorf("tier %q: %s", s.Tier, got.body)
			}
		})
	}
}
