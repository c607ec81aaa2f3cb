package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// got is an event in a form that survives the next call and reads well.
type got struct {
	Raw, Name, Data, Bare string
	Incomplete            bool
}

func collect(tb testing.TB, r *Reader) []got {
	tb.Helper()
	var events []got
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			tb.Fatalf("next: %v", err)
		}
		if len(e.Raw) == 0 {
			tb.Fatal("event without bytes")
		}
		events = append(events, got{string(e.Raw), string(e.Name), string(e.Data), string(e.Bare), e.Incomplete})
	}
}

func rawOf(events []got) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.Raw)
	}
	return b.String()
}

// contents are the events that say something, without their bytes: where
// exactly a line end falls between two events depends on the reads.
func contents(events []got) []got {
	var out []got
	for _, e := range events {
		e.Raw = ""
		if e != (got{}) {
			out = append(out, e)
		}
	}
	return out
}

// pieces delivers the input in the given sizes, over and over.
func pieces(input string, sizes ...int) io.Reader {
	var readers []io.Reader
	for i := 0; len(input) > 0; i++ {
		n := min(max(sizes[i%len(sizes)], 1), len(input))
		readers = append(readers, strings.NewReader(input[:n]))
		input = input[n:]
	}
	return io.MultiReader(readers...)
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		input string
		want  []got
	}{
		"nothing": {"", nil},
		"LF":      {"event: a\ndata: 1\n\ndata: 2\n\n", []got{{"event: a\ndata: 1\n\n", "a", "1", "", false}, {"data: 2\n\n", "", "2", "", false}}},
		"CRLF":    {"event: a\r\ndata: 1\r\n\r\n", []got{{"event: a\r\ndata: 1\r\n\r\n", "a", "1", "", false}}},
		"bare CR": {"event: a\rdata: 1\r\rdata: 2\r\r", []got{{"event: a\rdata: 1\r\r", "a", "1", "", false}, {"data: 2\r\r", "", "2", "", false}}},
		"mixed line ends": {"data: 1\r\ndata: 2\rdata: 3\n\r\ndata: 4\n\n", []got{
			{"data: 1\r\ndata: 2\rdata: 3\n\r\n", "", "1\n2\n3", "", false}, {"data: 4\n\n", "", "4", "", false},
		}},
		"no space, only one space removed": {"data:1\n\ndata:  2\n\n", []got{{"data:1\n\n", "", "1", "", false}, {"data:  2\n\n", "", " 2", "", false}}},
		"several data lines, one empty":    {"data: a\ndata\ndata: b\n\n", []got{{"data: a\ndata\ndata: b\n\n", "", "a\n\nb", "", false}}},
		"comments, id and retry":           {": ping\n\nid: 7\nretry: 3\ndata: x\n\n", []got{{": ping\n\n", "", "", "", false}, {"id: 7\nretry: 3\ndata: x\n\n", "", "x", "", false}}},
		"byte order mark":                  {"\xEF\xBB\xBFdata: x\n\n", []got{{"\xEF\xBB\xBFdata: x\n\n", "", "x", "", false}}},
		"byte order mark alone":            {"\xEF\xBB\xBF\n\xEF\xBB\xBFdata: x\n\n", []got{{"\xEF\xBB\xBF\n", "", "", "", false}, {"\xEF\xBB\xBFdata: x\n\n", "", "", "\xEF\xBB\xBFdata: x", false}}},
		"last name wins":                   {"event: a\nevent: b\ndata: x\n\n", []got{{"event: a\nevent: b\ndata: x\n\n", "b", "x", "", false}}},
		"fields are case-sensitive":        {"Data: x\n\n", []got{{"Data: x\n\n", "", "", "Data: x", false}}},
		"missing blank line":               {"data: 1\n\ndata: 2\n", []got{{"data: 1\n\n", "", "1", "", false}, {"data: 2\n", "", "", "", true}}},
		"cut inside a line":                {"data: 1\n\nda", []got{{"data: 1\n\n", "", "1", "", false}, {"da", "", "", "da", true}}},
		"bare object":                      {"{\n \"error\": 1\n}\n\n", []got{{"{\n \"error\": 1\n}\n\n", "", "", "{\n \"error\": 1\n}", false}}},
		"bare object at the end":           {"data: 1\n\n{\"error\": 1}", []got{{"data: 1\n\n", "", "1", "", false}, {"{\"error\": 1}", "", "", "{\"error\": 1}", true}}},
		"blank lines only":                 {"\n\r\n\r", []got{{"\n", "", "", "", false}, {"\r\n", "", "", "", false}, {"\r", "", "", "", false}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, collect(t, NewReader(strings.NewReader(tt.input)))); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkSplits(t, tt.input, NewReader)
		})
	}
}

func TestArrayElements(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		input string
		want  []got
	}{
		"nothing":        {"", nil},
		"empty array":    {"[]", []got{{Raw: "[]"}}},
		"trailing bytes": {"[{}]\r\n", []got{{Raw: "[{}", Data: "{}"}, {Raw: "]\r\n"}}},
		"objects":        {"[{\"a\":1},\r\n{\"b\":[2,{}]}\n]", []got{{Raw: "[{\"a\":1}", Data: "{\"a\":1}"}, {Raw: ",\r\n{\"b\":[2,{}]}", Data: "{\"b\":[2,{}]}"}, {Raw: "\n]"}}},
		"brackets in strings": {`[{"a":"]}\"}"},"[\\"]`, []got{
			{Raw: `[{"a":"]}\"}"}`, Data: `{"a":"]}\"}"}`}, {Raw: `,"[\\"`, Data: `"[\\"`}, {Raw: `]`},
		}},
		"literals":        {"[1, true,null]", []got{{Raw: "[1", Data: "1"}, {Raw: ", true", Data: "true"}, {Raw: ",null", Data: "null"}, {Raw: "]"}}},
		"nested arrays":   {"[[1],[[]]]", []got{{Raw: "[[1]", Data: "[1]"}, {Raw: ",[[]]", Data: "[[]]"}, {Raw: "]"}}},
		"not an array":    {"{\"error\":{}}\n", []got{{Raw: "{\"error\":{}}", Data: "{\"error\":{}}"}, {Raw: "\n"}}},
		"cut in element":  {"[{\"a\":1},{\"b\"", []got{{Raw: "[{\"a\":1}", Data: "{\"a\":1}"}, {Raw: ",{\"b\"", Incomplete: true}}},
		"cut in literal":  {"[1,2", []got{{Raw: "[1", Data: "1"}, {Raw: ",2", Incomplete: true}}},
		"cut after comma": {"[1,", []got{{Raw: "[1", Data: "1"}, {Raw: ",", Incomplete: true}}},
		"cut in escape":   {`["\`, []got{{Raw: `["\`, Incomplete: true}}},
		"byte order mark": {"\xEF\xBB\xBF[1]", []got{{Raw: "\xEF\xBB\xBF[1", Data: "1"}, {Raw: "]"}}},
		"not JSON":        {"}} <html>", []got{{Raw: "}", Data: "}"}, {Raw: "}", Data: "}"}, {Raw: " <html>", Incomplete: true}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, collect(t, NewArrayReader(strings.NewReader(tt.input)))); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			checkSplits(t, tt.input, NewArrayReader)
		})
	}
}

// checkSplits reads the input in two parts at every position and one byte at a
// time, and expects the same events and all bytes.
func checkSplits(t *testing.T, input string, newReader func(io.Reader) *Reader) {
	t.Helper()
	want := contents(collect(t, newReader(strings.NewReader(input))))
	check := func(how string, r io.Reader) {
		events := collect(t, newReader(r))
		if raw := rawOf(events); raw != input {
			t.Errorf("%s: raw bytes %q, want %q", how, raw, input)
		}
		if diff := cmp.Diff(want, contents(events)); diff != "" {
			t.Errorf("%s (-whole +split):\n%s", how, diff)
		}
	}
	for i := 1; i < len(input); i++ {
		check(fmt.Sprintf("split at %d", i), pieces(input, i, len(input)))
	}
	check("one byte at a time", iotest.OneByteReader(strings.NewReader(input)))
	check("last byte with EOF", iotest.DataErrReader(strings.NewReader(input)))
}

func TestEventIsDeliveredWithoutWaitingForMore(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		newReader func(io.Reader) *Reader
		sent      string
	}{
		"LF":           {NewReader, "data: 1\n\n"},
		"CR":           {NewReader, "data: 1\r\r"},
		"half of CRLF": {NewReader, "data: 1\r\n\r"},
		"element":      {NewArrayReader, "[{}"},
		"array's end":  {NewArrayReader, "]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipe, w := io.Pipe()
			defer w.Close()
			go w.Write([]byte(tt.sent))
			// A reader that waited for more would block here until the test
			// times out.
			e, err := tt.newReader(pipe).Next()
			if err != nil || string(e.Raw) != tt.sent || e.Incomplete {
				t.Errorf("got %q, incomplete %v, %v; want %q", e.Raw, e.Incomplete, err, tt.sent)
			}
		})
	}
}

func TestReadyOnlyForWholeEvents(t *testing.T) {
	t.Parallel()
	r := NewReader(pieces("data: 1\n\ndata: 2\n\ndata: 3\n\n", 22, 100))
	var ready []bool
	for range 3 {
		ready = append(ready, r.Ready())
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []bool{false, true, false}; !slices.Equal(ready, want) {
		t.Errorf("ready before each event: %v, want %v", ready, want)
	}
}

func TestReadyKeepsTheEventBefore(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader("data: a\ndata: b\n\ndata: c\ndata: d\n\n"))
	e, err := r.Next()
	if err != nil || !r.Ready() {
		t.Fatalf("next: %v, ready: %v", err, r.Ready())
	}
	if string(e.Data) != "a\nb" {
		t.Errorf("data after Ready is %q", e.Data)
	}
}

func TestReadErrorComesAfterTheRest(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	r := NewReader(io.MultiReader(strings.NewReader("data: 1\n\ndata: 2"), iotest.ErrReader(broken)))
	var events []got
	for {
		e, err := r.Next()
		if err != nil {
			if !errors.Is(err, broken) {
				t.Fatalf("error %v, want %v", err, broken)
			}
			break
		}
		events = append(events, got{Raw: string(e.Raw), Incomplete: e.Incomplete})
	}
	want := []got{{Raw: "data: 1\n\n"}, {Raw: "data: 2", Incomplete: true}}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Errorf("error after the error: %v", err)
	}
}

func TestReaderWithoutProgressFails(t *testing.T) {
	t.Parallel()
	r := NewReader(idleReader{})
	if _, err := r.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v, want %v", err, io.ErrNoProgress)
	}
}

type idleReader struct{}

func (idleReader) Read([]byte) (int, error) { return 0, nil }

func TestEventsAboveTheLimitComeInPieces(t *testing.T) {
	t.Parallel()
	const limit = 64
	long := strings.Repeat("x", 10*limit)
	tests := map[string]struct {
		newReader func(io.Reader) *Reader
		input     string
		// whole is the data of the events that are not cut.
		whole []string
	}{
		"one line":            {NewReader, "data: 1\n\ndata: " + long + "\n\ndata: 2\n\n", []string{"1", "2"}},
		"bare CR":             {NewReader, "data: 1\r\rdata: " + long + "\r\rdata: 2\r\r", []string{"1", "2"}},
		"many lines":          {NewReader, strings.Repeat("data: abc\r\n", limit) + "\r\ndata: 2\n\n", []string{"2"}},
		"field after a piece": {NewReader, "data: " + long + "\ndata: 3\n\ndata: 2\n\n", []string{"2"}},
		"element":             {NewArrayReader, "[1,{\"a\":\"" + long + "\\\"" + long + "\"},{}]", []string{"1", "{}"}},
		"white space":         {NewArrayReader, "[1," + strings.Repeat(" ", 5*limit) + "]", []string{"1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= limit; size++ {
				r := tt.newReader(pieces(tt.input, size))
				r.limit = limit
				events := collect(t, r)
				if raw := rawOf(events); raw != tt.input {
					t.Fatalf("reads of %d: raw bytes differ: %q", size, raw)
				}
				var whole []string
				torn := 0
				for _, e := range events {
					if e.Incomplete {
						torn++
					}
					if e.Data != "" {
						whole = append(whole, e.Data)
					}
				}
				if diff := cmp.Diff(tt.whole, whole); diff != "" {
					t.Errorf("reads of %d: whole events (-want +got):\n%s", size, diff)
				}
				if torn == 0 {
					t.Errorf("reads of %d: no piece is marked incomplete", size)
				}
			}
		})
	}
}

func TestLongLinesAreReadInLinearTime(t *testing.T) {
	t.Parallel()
	const size = 12 << 20
	tests := map[string]struct {
		newReader func(io.Reader) *Reader
		data      string
		input     func(data string) string
	}{
		"line":    {NewReader, strings.Repeat("0123456789abcdef", size/16), func(d string) string { return "data: " + d + "\n\n" }},
		"element": {NewArrayReader, `"` + strings.Repeat(`0123456789\"abcd`, size/16) + `"`, func(d string) string { return "[" + d + "]" }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// With a rescan at every read this would look at some 10^13 bytes.
			events := collect(t, tt.newReader(pieces(tt.input(tt.data), 7)))
			if len(events) == 0 || events[0].Data != tt.data {
				t.Error("the data was not read whole")
			}
		})
	}
}

func TestReleasedReaderReadsNothing(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader("data: 1\n\ndata: 2\n\n"))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	r.Release()
	r.Release()
	if e, err := r.Next(); err == nil || len(e.Raw) > 0 {
		t.Errorf("got %q, %v", e.Raw, err)
	}
}

func FuzzReader(f *testing.F) {
	for _, seed := range []string{"", "data: 1\n\n", "a\r\n\r\n\r", "\xEF\xBB\xBFdata:x\rdata\r\n\r", "{\n}\n", `[{"a":"\""},1, "x"]`, "[[", "]x"} {
		f.Add([]byte(seed), uint8(3), uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, first, second uint8) {
		input := string(data)
		for _, newReader := range []func(io.Reader) *Reader{NewReader, NewArrayReader} {
			whole := collect(t, newReader(bytes.NewReader(data)))
			split := collect(t, newReader(pieces(input, int(first), int(second))))
			single := collect(t, newReader(iotest.OneByteReader(bytes.NewReader(data))))
			for _, events := range [][]got{whole, split, single} {
				if raw := rawOf(events); raw != input {
					t.Fatalf("raw bytes %q, want %q", raw, input)
				}
				if diff := cmp.Diff(contents(whole), contents(events)); diff != "" {
					t.Fatalf("events (-whole +split):\n%s", diff)
				}
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	event := "data: " + `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795430100,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}`
	element := "{" + strings.Repeat("\n \"text\": \"Hello\",", 12) + "\n \"n\": {\"m\": 1}\n}"
	streams := map[string]struct {
		newReader func(io.Reader) *Reader
		input     string
	}{
		"50 events LF":     {NewReader, strings.Repeat(event+"\n\n", 50)},
		"50 events CR":     {NewReader, strings.Repeat(event+"\r\r", 50)},
		"50 elements":      {NewArrayReader, "[" + strings.Repeat(element+",\r\n", 49) + element + "]"},
		"10 MB line":       {NewReader, "data: " + strings.Repeat("x", 10<<20) + "\n\n"},
		"10 MB in element": {NewArrayReader, `["` + strings.Repeat("x", 10<<20) + `"]`},
	}
	for name, s := range streams {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(s.input)))
			src := strings.NewReader("")
			for b.Loop() {
				src.Reset(s.input)
				r := s.newReader(chunked{src})
				for {
					if _, err := r.Next(); err != nil {
						break
					}
				}
				r.Release()
			}
		})
	}
}

// chunked delivers at most 32 KB a read, as an HTTP/2 body does.
type chunked struct{ r io.Reader }

func (c chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 32<<10)]) }
