package sandbox

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// nowhere is a writer that costs nothing, so that a benchmark measures the
// sandbox alone.
type nowhere struct{ header http.Header }

func (w nowhere) Header() http.Header         { return w.header }
func (w nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w nowhere) WriteHeader(int)             {}
func (w nowhere) Flush()                      {}

func BenchmarkProvider(b *testing.B) {
	padding := `"` + strings.Repeat("x", 900) + `"`
	body := strings.Replace(chatBody, `"twenty bytes of text"`, padding, 1)
	benchmarks := []struct {
		name string
		call call
	}{
		{"chat", call{path: chatPath, body: body}},
		{"chat stream of 50", call{path: chatPath, body: streaming(body), headers: []string{"X-Sandbox-Chunks: 50"}}},
		{"messages", call{path: "/v1/messages", body: messagesBody}},
		{"gemini", call{path: "/v1/models/gemini-2.5-pro:generateContent", body: geminiBody}},
		{"embeddings", call{path: "/v1/embeddings", body: inputBody}},
	}
	for _, bench := range benchmarks {
		b.Run(bench.name, func(b *testing.B) {
			p := New()
			template := lab{p, "http://sandbox"}.request(b, bench.call)
			b.ReportAllocs()
			for b.Loop() {
				r := *template
				r.Body = io.NopCloser(strings.NewReader(bench.call.body))
				p.ServeHTTP(nowhere{http.Header{}}, &r)
			}
			if t := p.Totals(); t.Complete != t.Requests {
				b.Fatalf("totals %+v", t)
			}
		})
	}
}
