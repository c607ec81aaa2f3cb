package metering_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestSetModelChangesNothingElse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ body, want string }{
		{`{"model":"openai/gpt-4o"}`, `{"model":"m\"1"}`},
		{
			" {\n\t\"messages\" : [ {\"model\":\"no\"} ],\"model\" :\t\"\\u0061\" , \"x\":1e5}\n",
			" {\n\t\"messages\" : [ {\"model\":\"no\"} ],\"model\" :\t\"m\\\"1\" , \"x\":1e5}\n",
		},
		{`{"mod\u0065l":"a","metadata":{"model":"b"}}`, `{"mod\u0065l":"m\"1","metadata":{"model":"b"}}`},
		{`{"messages":[]}`, `{"messages":[]}`},
	} {
		original := []byte(tt.body)
		if diff := cmp.Diff(tt.want, string(metering.SetModel(original, `m"1`))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.body, diff)
		}
		if string(original) != tt.body {
			t.Errorf("%s became %s", tt.body, original)
		}
	}
}
