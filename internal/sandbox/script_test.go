package sandbox

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseScript(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		headers []string
		model   string
		want    Script
		rest    string
		err     string
	}{
		{"nothing", nil, "gpt-4o", Script{}, "gpt-4o", ""},
		{"headers", []string{"X-Sandbox-First-Delay: 2s", "X-Sandbox-Tool: 1", "X-Sandbox-Content: a%0Ab"}, "m", Script{FirstDelay: 2 * time.Second, Tool: true, Content: new("a\nb")}, "m", ""},
		{"suffix", nil, "m+chunks=50,delay=10ms,tier=a%2Cb", Script{Chunks: new(int64(50)), Delay: 10 * time.Millisecond, Tier: "a,b"}, "m", ""},
		{"suffix wins", []string{"X-Sandbox-Prompt: 1", "X-Sandbox-Cached: 1"}, "m+prompt=0", Script{Prompt: new(int64(0)), Cached: 1}, "m", ""},
		{"content is decoded once", nil, "m+content=%2541", Script{Content: new("%41")}, "m", ""},
		{"unknown header", []string{"X-Sandbox-Foo: 1"}, "m", Script{}, "", `unknown script key "foo"`},
		{"unknown key", nil, "m+foo=1", Script{}, "", `unknown script key "foo"`},
		{"no value", nil, "m+chunks", Script{}, "", `script "chunks": not of the form key=value`},
		{"not a number", nil, "m+prompt=x", Script{}, "", `script key "prompt": "x" is not a number from 0 to 1000000000`},
		{"negative", nil, "m+cached=-1", Script{}, "", `script key "cached": "-1" is not a number from 0 to 1000000000`},
		{"not a duration", nil, "m+delay=10", Script{}, "", `script key "delay": "10" is not a duration such as 10ms`},
		{"not a status", nil, "m+status=200", Script{}, "", `script key "status": "200" is not a number from 400 to 599`},
		{"not a failure", nil, "m+fail=never", Script{}, "", `script key "fail": "never" is not one of [reset stall truncate error broken_sse big_line no_usage usage_on_finish usage_every_chunk slow_headers empty html]`},
		{"not a flag", nil, "m+gzip=maybe", Script{}, "", `script key "gzip": "maybe" is neither 1 nor 0`},
		{"not encoded", nil, "m+content=%zz", Script{}, "", `script key "content": invalid URL escape "%zz"`},
		{"no id", nil, "m+status=500,fail_times=1", Script{}, "", `script key "fail_times": needs an id to count by`},
		{"nothing to repeat", nil, "m+id=a,fail_times=1", Script{}, "", `script key "fail_times": needs fail or status`},
		{"nothing to delay", nil, "m+fail_after=1", Script{}, "", `script key "fail_after": needs fail`},
		{"nothing to retry", nil, "m+retry_after=1", Script{}, "", `script key "retry_after": needs status`},
		{"two texts", nil, "m+content=a,text_bytes=1", Script{}, "", `script keys "content" and "text_bytes": one or the other`},
		{"empty word", nil, "m+tier=", Script{}, "", `script key "tier": empty`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{"Accept": {"*/*"}}
			for _, line := range test.headers {
				name, value, _ := strings.Cut(line, ": ")
				h.Set(name, value)
			}
			got, rest, err := ParseScript(h, test.model)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || rest != test.rest {
				t.Errorf("model %q, %v", rest, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("script (-want +got):\n%s", diff)
			}
		})
	}
}

// TestScriptFits checks that numbers which an answer could not report are
// refused, as are numbers that contradict each other.
func TestScriptFits(t *testing.T) {
	t.Parallel()
	const gemini = "/v1/models/gemini-2.5-pro:generateContent"
	tests := []struct {
		path, body, header string
		status             int
	}{
		{chatPath, chatBody, "Searches: 1", 400},
		{chatPath, chatBody, "Cache-Write-Long: 1", 400},
		{chatPath, chatBody, "Tool-Prompt: 1", 400},
		{chatPath, chatBody, "Speed: fast", 400},
		{chatPath, chatBody, "Geo: us", 400},
		{chatPath, chatBody, "Audio: 1", 200},
		{chatPath, chatBody, "Fail: usage_on_finish", 400},
		{"/v1/responses", inputBody, "Audio: 1", 400},
		{"/v1/responses", streaming(inputBody), "Fail: usage_on_finish", 400},
		{"/v1/messages", messagesBody, "Audio: 1", 400},
		{"/v1/messages", streaming(messagesBody), "Fail: usage_every_chunk", 400},
		{gemini, geminiBody, "Cache-Write: 1", 400},
		{gemini, geminiBody, "Cache-Write-Long: 1", 400},
		{gemini, geminiBody, "Speed: fast", 400},
		{gemini, geminiBody, "Audio: 1", 200},
		{"/v1/models/m+prompt=10,cached=11:generateContent", geminiBody, "", 400},
		{"/v1/models/m+prompt=10,tool_prompt=11:generateContent", geminiBody, "", 400},
		{"/v1/models/m+completion=10,reasoning=11:generateContent", geminiBody, "", 400},
	}
	for _, test := range tests {
		t.Run(test.path+" "+test.header, func(t *testing.T) {
			t.Parallel()
			c := call{path: test.path, body: test.body}
			if test.header != "" {
				c.headers = []string{"X-Sandbox-" + test.header}
			}
			if got := newLab(t).do(t, c); got.status != test.status {
				t.Errorf("status %d, want %d: %s", got.status, test.status, got.body)
			}
		})
	}
}
