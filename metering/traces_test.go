package metering_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/internal/sse"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// trace is a recorded response and what it must be read as. The body is in
// the file that the trace is named after.
type trace struct {
	Provider    string
	Endpoint    string
	Status      int
	ContentType string `json:"content_type"`
	Expected    struct {
		Prompt, Completion *int64
		CachedRead         *int64 `json:"cached_read"`
		CacheWrite         *int64 `json:"cache_write_5m"`
		CacheWriteLong     *int64 `json:"cache_write_1h"`
		Reasoning          *int64
		Model              string
		ServiceTier        string `json:"service_tier"`
		Speed              string
		Region             string `json:"inference_geo"`
		AudioIn            int64  `json:"audio_in"`
		WebSearches        int64  `json:"web_searches"`
		Free               bool
	}
	UsageFound  bool `json:"usage_found"`
	Final       bool
	StreamError bool `json:"stream_error"`
}

// summary is a reading in the terms of a trace.
type summary struct {
	Prompt, Completion, Cached, CacheWrite, CacheWriteLong, Reasoning int64
	AudioIn, WebSearches                                              int64
	Model, ServiceTier, Speed, Region                                 string
	Found, Final, Failed, Mismatch                                    bool
}

func (tr trace) want() summary {
	x := tr.Expected
	s := summary{
		AudioIn:     x.AudioIn,
		WebSearches: x.WebSearches,
		Model:       x.Model,
		ServiceTier: strings.TrimPrefix(x.ServiceTier, "default"),
		Speed:       x.Speed,
		Region:      x.Region,
		Found:       tr.UsageFound,
		Final:       tr.Final,
		Failed:      tr.StreamError || tr.Status != http.StatusOK,
	}
	if x.Free {
		// The response of a free endpoint is not read at all.
		s.Model = ""
	}
	if x.Prompt != nil {
		s.Prompt, s.Completion, s.Cached = *x.Prompt, *x.Completion, *x.CachedRead
		s.CacheWrite, s.CacheWriteLong, s.Reasoning = *x.CacheWrite, *x.CacheWriteLong, *x.Reasoning
	}
	return s
}

func summarize(r metering.Reading) summary {
	u := r.Total()
	return summary{
		Prompt:         u.Prompt(),
		Completion:     u.Completion(),
		Cached:         u.Cached(),
		CacheWrite:     u.CacheWrite,
		CacheWriteLong: u.CacheWriteLong,
		Reasoning:      u.Reasoning,
		AudioIn:        u.InputAudio + u.CacheReadAudio,
		WebSearches:    u.WebSearches,
		Model:          r.Model,
		ServiceTier:    r.ServiceTier,
		Speed:          r.Speed,
		Region:         r.Region,
		Found:          r.Found,
		Final:          r.Final,
		Failed:         r.Failed,
		Mismatch:       r.Mismatch,
	}
}

func (tr trace) classify(t *testing.T) metering.Endpoint {
	t.Helper()
	u, err := url.Parse(tr.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	protocol := metering.Protocol(strings.TrimSuffix(tr.Provider, "-compat"))
	path := u.Path
	if protocol == metering.OpenAI {
		path = strings.TrimPrefix(path, "/v1")
	}
	return metering.Classify(protocol, http.MethodPost, path, u.Query())
}

func TestTraces(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/traces/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var traces map[string]trace
	if err := json.Unmarshal(text, &traces); err != nil {
		t.Fatal(err)
	}
	if len(traces) < 40 {
		t.Fatalf("only %d traces", len(traces))
	}
	for name, tr := range traces {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := readTrace(t, name)
			endpoint := tr.classify(t)
			want := tr.want()
			check := func(how string, r io.Reader) {
				got := summarize(meter(t, endpoint, tr.ContentType, r))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%s (-want +got):\n%s", how, diff)
				}
			}
			check("whole", bytes.NewReader(body))
			if endpoint.ResponseFraming(tr.ContentType) == metering.Whole {
				return
			}
			for _, at := range splits(body) {
				check(fmt.Sprintf("split at %d", at), io.MultiReader(bytes.NewReader(body[:at]), bytes.NewReader(body[at:])))
			}
			check("one byte at a time", iotest.OneByteReader(bytes.NewReader(body)))
		})
	}
}

func readTrace(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata/traces", name))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return body
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	return body
}

// splits is every position of a short body, and of a long one some, with all
// those next to a line end.
func splits(body []byte) (positions []int) {
	for i := 1; i < len(body); i++ {
		nearLineEnd := bytes.ContainsAny(body[max(i-2, 0):min(i+2, len(body))], "\r\n")
		if len(body) < 4<<10 || i%997 == 0 || nearLineEnd {
			positions = append(positions, i)
		}
	}
	return positions
}

// meter reads a response as the gateway does.
func meter(t *testing.T, e metering.Endpoint, contentType string, body io.Reader) metering.Reading {
	t.Helper()
	m := e.NewMeter(metering.Request{})
	var events *sse.Reader
	switch e.ResponseFraming(contentType) {
	case metering.EventStream:
		events = sse.NewReader(body)
	case metering.ArrayStream:
		events = sse.NewArrayReader(body)
	case metering.Whole:
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		m.Read(text)
		return m.Reading()
	}
	defer events.Release()
	for {
		event, err := events.Next()
		if errors.Is(err, io.EOF) {
			return m.Reading()
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range [][]byte{event.Data, event.Bare} {
			if len(piece) > 0 {
				m.Read(piece)
			}
		}
	}
}
