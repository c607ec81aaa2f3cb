package ending

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/caddy-llm-gateway/gateway/internal/sse"
	"github.com/caddy-llm-gateway/gateway/metering"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var used = metering.Usage{Input: 900, CacheRead: 100, Output: 40, Reasoning: 8}

// Each stream is in testdata: NAME.events are the data of its events, one a
// line, and NAME.end is what ends it behind them.
var goldens = map[string]Stream{
	"chat":                      {Endpoint: "chat/completions"},
	"chat_usage":                {Endpoint: "chat/completions", ShowsUsage: true},
	"chat_choices":              {Endpoint: "chat/completions", Choices: 3},
	"chat_finished":             {Endpoint: "chat/completions"},
	"chat_nothing":              {Endpoint: "openai/chat/completions"},
	"completions":               {Endpoint: "completions", ShowsUsage: true},
	"responses_text":            {Endpoint: "responses"},
	"responses_call":            {Endpoint: "responses"},
	"responses_reasoning":       {Endpoint: "responses"},
	"responses_between_items":   {Endpoint: "responses"},
	"responses_nothing":         {Endpoint: "responses"},
	"messages_text":             {Endpoint: "messages"},
	"messages_between_blocks":   {Endpoint: "messages"},
	"messages_nothing":          {Endpoint: "messages"},
	"gemini":                    {Endpoint: "streamGenerateContent", Framing: metering.EventStream},
	"gemini_candidates":         {Endpoint: "streamGenerateContent", Framing: metering.EventStream, Choices: 2},
	"gemini_array":              {Endpoint: "streamGenerateContent", Framing: metering.ArrayStream},
	"gemini_array_nothing":      {Endpoint: "streamGenerateContent", Framing: metering.ArrayStream},
	"transcriptions_of_unknown": {Endpoint: "audio/transcriptions"},
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for name, stream := range goldens {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, err := os.ReadFile(filepath.Join("testdata", name+".events"))
			if err != nil {
				t.Fatal(err)
			}
			got := endOf(stream, events)
			golden := filepath.Join("testdata", name+".end")
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("end (-want +got):\n%s", diff)
			}
			checkFrames(t, stream, got)
		})
	}
}

// endOf ends a stream behind events, of which each is gone when the next one
// comes.
func endOf(stream Stream, events []byte) []byte {
	tracker := Track(stream)
	var last []byte
	for line := range bytes.Lines(events) {
		clear(last)
		last = bytes.Clone(bytes.TrimSpace(line))
		tracker.See(last)
	}
	return tracker.End(last, used)
}

// checkFrames checks that an end is made of whole events of valid JSON.
func checkFrames(t *testing.T, stream Stream, end []byte) {
	t.Helper()
	reader := sse.NewReader(bytes.NewReader(end))
	if stream.Framing == metering.ArrayStream {
		reader = sse.NewArrayReader(strings.NewReader("[{}" + strings.TrimPrefix(string(end), "[")))
	}
	for {
		event, err := reader.Next()
		if err != nil {
			return
		}
		if event.Incomplete {
			t.Errorf("torn event %q", event.Raw)
		}
		if data := event.Data; len(data) > 0 && string(data) != "[DONE]" && !gjson.ValidBytes(data) {
			t.Errorf("not JSON: %s", data)
		}
	}
}

// TestLongResponsesAreNotKept checks the bound on the only text that a
// tracker keeps.
func TestLongResponsesAreNotKept(t *testing.T) {
	t.Parallel()
	events, err := os.ReadFile(filepath.Join("testdata", "responses_text.events"))
	if err != nil {
		t.Fatal(err)
	}
	delta := fmt.Sprintf(`{"type":"response.output_text.delta","sequence_number":%%d,"item_id":"msg_1","output_index":0,"content_index":0,"delta":%q}`+"\n",
		strings.Repeat("x", maxKept/4))
	for i := range 5 {
		events = fmt.Appendf(events, delta, 100+i)
	}
	end := endOf(Stream{Endpoint: "responses"}, events)
	data, ok := bytes.CutPrefix(end, []byte("event: response.incomplete\ndata: "))
	if !ok || len(end) > 4<<10 {
		t.Fatalf("%d bytes of end: %.200q", len(end), end)
	}
	event := gjson.ParseBytes(data)
	if event.Get("sequence_number").Int() != 105 || event.Get("response.status").Str != "incomplete" || event.Get("response.output").Exists() {
		t.Errorf("got %s", data)
	}
}

func TestLargeResponseObjectsAreReduced(t *testing.T) {
	t.Parallel()
	created := fmt.Sprintf(`{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","instructions":%q,"model":"m","output":[]}}`,
		strings.Repeat("x", maxResponse))
	end := endOf(Stream{Endpoint: "responses"}, []byte(created))
	if len(end) > 1<<10 || !bytes.Contains(end, []byte(`"id":"resp_1"`)) || !bytes.Contains(end, []byte(`"output":[]`)) {
		t.Errorf("got %.300q", end)
	}
	checkFrames(t, Stream{}, end)
}

// FuzzTrackers checks that no event can stop a tracker or make it allocate
// without bounds.
func FuzzTrackers(f *testing.F) {
	for name := range goldens {
		events, err := os.ReadFile(filepath.Join("testdata", name+".events"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(events)
	}
	f.Fuzz(func(_ *testing.T, events []byte) {
		for _, stream := range goldens {
			endOf(stream, events)
		}
	})
}

// TestEventsAreNotAllocatedFor checks the hot path: after the first events,
// a text delta leaves no garbage.
func TestEventsAreNotAllocatedFor(t *testing.T) { //nolint:paralleltest // counts allocations
	for name, stream := range goldens {
		events, err := os.ReadFile(filepath.Join("testdata", name+".events"))
		if err != nil {
			t.Fatal(err)
		}
		tracker := Track(stream)
		var last []byte
		for line := range bytes.Lines(events) {
			last = bytes.TrimSpace(line)
			tracker.See(last)
		}
		// Text grows by appending, which is less than one allocation an event.
		// Escapes in a call's arguments cost one, in gjson.
		if n := testing.AllocsPerRun(100, func() { tracker.See(last) }); n > 0 && name != "responses_call" {
			t.Errorf("%s: %v allocations an event", name, n)
		}
	}
}

func BenchmarkSee(b *testing.B) {
	for name, stream := range goldens {
		events, err := os.ReadFile(filepath.Join("testdata", name+".events"))
		if err != nil {
			b.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(events), []byte("\n"))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tracker := Track(stream)
			for _, line := range lines {
				tracker.See(line)
			}
			for b.Loop() {
				tracker.See(lines[len(lines)-1])
				if kept, ok := tracker.(*responses); ok && kept.kept > maxKept/2 {
					b.StopTimer()
					tracker = Track(stream)
					for _, line := range lines {
						tracker.See(line)
					}
					b.StartTimer()
				}
			}
		})
	}
}
