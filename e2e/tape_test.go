package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// recordingHeader names the recording that answers a request. The gateway
// passes it on like any header of a native request.
const recordingHeader = "X-Recording"

// recording is a provider's answer, as it was on the wire.
type recording struct {
	status int
	header map[string]string
	body   []byte
	// piece is how many bytes are written and flushed at a time; 0 for all.
	piece int
	// pause is the time between two pieces.
	pause time.Duration
	// reset tears the connection down after the body instead of ending it.
	reset bool
}

// tape is a provider that answers with recordings, and with a description of
// the request where none is named.
type tape struct {
	url string
	// hits counts the requests that reached this provider.
	hits atomic.Int64

	mu         sync.Mutex
	recordings map[string]recording
}

func newTape(t *testing.T) *tape {
	t.Helper()
	p := &tape{recordings: make(map[string]recording)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *tape) add(name string, r recording) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recordings[name] = r
}

func (p *tape) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.hits.Add(1)
	name := r.Header.Get(recordingHeader)
	if name == "" {
		describe(w, r)
		return
	}
	p.mu.Lock()
	rec, ok := p.recordings[name]
	p.mu.Unlock()
	if !ok {
		http.Error(w, "no such recording: "+name, http.StatusNotFound)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // like a provider, which reads the question first
	rec.play(w)
}

func (rec recording) play(w http.ResponseWriter) {
	for name, value := range rec.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(rec.status)
	flusher := http.NewResponseController(w)
	for rest := rec.body; len(rest) > 0; {
		n := len(rest)
		if rec.piece > 0 {
			n = min(n, rec.piece)
		}
		if _, err := w.Write(rest[:n]); err != nil {
			return
		}
		_ = flusher.Flush() // a failure shows at the next write
		rest = rest[n:]
		time.Sleep(rec.pause)
	}
	if rec.reset {
		tearDown(w)
	}
}

// tearDown ends the connection with a TCP reset.
func tearDown(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // makes Close send a reset
	}
	conn.Close()
}

// seen describes a request as the provider received it.
type seen struct {
	Method string              `json:"method"`
	URI    string              `json:"uri"`
	Host   string              `json:"host"`
	Header map[string][]string `json:"header"`
	Length int64               `json:"length"`
	SHA256 string              `json:"sha256"`
}

func describe(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(seen{ // the client would notice
		Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header,
		Length: n, SHA256: hex.EncodeToString(sum.Sum(nil)),
	})
}

// trace is one entry of testdata/traces/expected.json: a recorded answer and
// what is known about it.
type trace struct {
	Provider    string            `json:"provider"`
	Endpoint    string            `json:"endpoint"`
	Stream      bool              `json:"stream"`
	Status      int               `json:"status"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	Request     json.RawMessage   `json:"request"`
	Expected    traceCounts       `json:"expected"`
	UsageFound  bool              `json:"usage_found"`
	Final       bool              `json:"final"`
	StreamError bool              `json:"stream_error"`
}

// traceCounts are the counts in a recorded answer; prompt and completion are
// inclusive totals. They are null where the wire says nothing.
type traceCounts struct {
	Prompt       *int64 `json:"prompt"`
	Completion   *int64 `json:"completion"`
	CachedRead   *int64 `json:"cached_read"`
	CacheWrite5m *int64 `json:"cache_write_5m"`
	CacheWrite1h *int64 `json:"cache_write_1h"`
	Reasoning    *int64 `json:"reasoning"`
	Model        string `json:"model"`
	Free         bool   `json:"free"`
}

// loadTraces reads the recorded answers and puts them on the tape, cut into
// small pieces so that no event arrives whole.
func (p *tape) loadTraces(t *testing.T) map[string]trace {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "traces", "expected.json"))
	if err != nil {
		t.Fatalf("read traces: %v", err)
	}
	var traces map[string]trace
	if err := json.Unmarshal(b, &traces); err != nil {
		t.Fatalf("read traces: %v", err)
	}
	for name, tr := range traces {
		body, err := os.ReadFile(filepath.Join("testdata", "traces", name))
		if err != nil {
			t.Fatalf("read trace: %v", err)
		}
		header := map[string]string{"Content-Type": tr.ContentType}
		for k, v := range tr.Headers {
			header[k] = v
		}
		if !tr.Stream {
			header["Content-Length"] = strconv.Itoa(len(body))
		}
		p.add(name, recording{status: tr.Status, header: header, body: body, piece: max(61, len(body)/64)})
	}
	return traces
}

// gatewayPath is where the gateway serves the provider's own path.
func (tr trace) gatewayPath() string {
	path := strings.ReplaceAll(tr.Endpoint, "{id}", "id-1")
	return "/" + tr.Provider + path
}

// unmetered tells that the endpoint's answers have no price per token here:
// the operator's policy for unpriced requests decides about them.
func (tr trace) unmetered() bool {
	return strings.HasPrefix(tr.Endpoint, "/v1/images/") || strings.HasPrefix(tr.Endpoint, "/v1/audio/")
}
