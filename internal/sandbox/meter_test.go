package sandbox

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestMetersAgree checks that the gateway's meters read from each answer
// exactly what the sandbox has on its books for it.
func TestMetersAgree(t *testing.T) {
	t.Parallel()
	scripts := map[string][]string{
		"default": nil,
		"cached":  {"X-Sandbox-Prompt: 1000", "X-Sandbox-Cached: 600", "X-Sandbox-Completion: 50", "X-Sandbox-Reasoning: 20"},
		"written": {"X-Sandbox-Prompt: 1000", "X-Sandbox-Cached: 300", "X-Sandbox-Cache-Write: 200"},
		"long":    {"X-Sandbox-Cache-Write: 200", "X-Sandbox-Cache-Write-Long: 100", "X-Sandbox-Searches: 2"},
		"audio":   {"X-Sandbox-Prompt: 1000", "X-Sandbox-Audio: 400"},
		"tools":   {"X-Sandbox-Tool-Prompt: 400"},
		"zero":    {"X-Sandbox-Prompt: 0", "X-Sandbox-Completion: 0"},
		"finish":  {"X-Sandbox-Fail: usage_on_finish"},
		"running": {"X-Sandbox-Fail: usage_every_chunk"},
		"broken":  {"X-Sandbox-Fail: broken_sse"},
		"cut off": {"X-Sandbox-Fail: truncate", "X-Sandbox-Fail-After: 4"},
	}
	all := append(families(), family{name: "embeddings", call: call{path: "/v1/embeddings", body: inputBody}},
		family{name: "completions", call: call{path: "/v1/completions", body: promptBody}})
	for script, headers := range scripts {
		for _, f := range all {
			if f.name == "gemini array" && script != "default" {
				continue // the same chunks as the events
			}
			t.Run(script+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				c := f.call
				c.headers = headers
				if f.name == "chat stream" || f.name == "completions stream" {
					c.body = `{` + asked + c.body[1:]
				}
				got := l.do(t, c)
				if got.status == http.StatusBadRequest && strings.Contains(string(got.body), "has no place for it") {
					return
				}
				s := l.sole(t)
				reading := meter(t, c, s.Protocol, got)
				if s.UsageReported != reading.Final {
					t.Errorf("reported is %t, but read %+v", s.UsageReported, reading)
				}
				if !s.UsageReported {
					return
				}
				if diff := cmp.Diff(s.Usage, reading.Usage); diff != "" {
					t.Errorf("usage (-served +read):\n%s", diff)
				}
				if reading.Mismatch || reading.Failed || reading.Model != s.ReportedModel || reading.ServiceTier != s.Tier && s.Tier != "default" && s.Tier != "standard" {
					t.Errorf("read %+v of %+v", reading, s)
				}
			})
		}
	}
}

// meter reads an answer as the gateway does.
func meter(t *testing.T, c call, p metering.Protocol, got reply) metering.Reading {
	t.Helper()
	target, err := url.Parse(c.path)
	if err != nil {
		t.Fatal(err)
	}
	path := target.Path
	if p == metering.OpenAI {
		path = strings.TrimPrefix(path, "/v1")
	}
	m := metering.Classify(p, http.MethodPost, path, target.Query()).NewMeter(metering.Request{})
	switch {
	case strings.HasPrefix(got.header.Get("Content-Type"), "text/event-stream"):
		for _, e := range events(t, got.body) {
			m.Read([]byte(e.data))
		}
	case got.body[0] == '[':
		var elements []json.RawMessage
		if err := json.Unmarshal(got.body, &elements); err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			m.Read(e)
		}
	default:
		m.Read(got.body)
	}
	return m.Reading()
}
