package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// TestRequestsReachTheProviderAsSent covers what native pass-through promises
// about requests: any method and path, unknown endpoints, headers, bodies.
func TestRequestsReachTheProviderAsSent(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		g := startGateway(t, config{storage: storage, upstream: provider.url, extra: recordUnpriced})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "native", nil).Key

		tests := map[string]struct {
			method, path, body string
			wantURI            string
			credential         string
		}{
			"a list, read":              {http.MethodGet, "/openai/v1/models?limit=2&after=a%2Fb", "", "/v1/models?limit=2&after=a%2Fb", "Authorization"},
			"OpenAI without version":    {http.MethodGet, "/openai/models", "", "/v1/models", "Authorization"},
			"a deletion":                {http.MethodDelete, "/openai/v1/files/file-1", "", "/v1/files/file-1", "Authorization"},
			"an unknown endpoint, read": {http.MethodGet, "/openai/v1/some/new/thing", "", "/v1/some/new/thing", "Authorization"},
			"an unknown endpoint":       {http.MethodPatch, "/openai/v1/some/new/thing", `{"spaces":  "kept"}`, "/v1/some/new/thing", "Authorization"},
			"Anthropic":                 {http.MethodGet, "/anthropic/v1/models", "", "/v1/models", "X-Api-Key"},
			"Gemini":                    {http.MethodGet, "/gemini/v1beta/models", "", "/v1beta/models", "X-Goog-Api-Key"},
			"Gemini, an escaped path":   {http.MethodGet, "/gemini/v1beta/models/a%2Fb", "", "/v1beta/models/a%2Fb", "X-Goog-Api-Key"},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				res, body := g.send(t, key, tt.method, tt.path, strings.NewReader(tt.body), map[string]string{
					"Content-Type":      "application/json",
					"Cookie":            "session=secret",
					"Anthropic-Version": "2026-10-21",
					"X-Custom":          "kept",
					"X-Api-Key":         key,
					"Accept-Encoding":   "br",
					"Connection":        "X-Hop",
					"X-Hop":             "one hop only",
				})
				if res.StatusCode != http.StatusOK {
					t.Fatalf("status %d: %s", res.StatusCode, body)
				}
				var got seen
				if err := json.Unmarshal(body, &got); err != nil {
					t.Fatalf("decode the provider's description: %v", err)
				}
				if got.Method != tt.method || got.URI != tt.wantURI {
					t.Errorf("provider saw %s %s, want %s %s", got.Method, got.URI, tt.method, tt.wantURI)
				}
				if want := hexSum([]byte(tt.body)); got.SHA256 != want {
					t.Errorf("provider saw another body, of %d bytes", got.Length)
				}
				checkForwardedHeaders(t, got, tt.credential, strings.TrimPrefix(provider.url, "http://"))
			})
		}
	})
}

func checkForwardedHeaders(t *testing.T, got seen, credential, host string) {
	t.Helper()
	header := http.Header(got.Header)
	want := providerKey
	if credential == "Authorization" {
		want = "Bearer " + providerKey
	}
	for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key"} {
		switch value := header.Get(name); {
		case name == credential && value != want:
			t.Errorf("%s = %q, want the provider's credential", name, value)
		case name != credential && value != "":
			t.Errorf("%s was sent to a provider that does not use it", name)
		}
	}
	if got.Host != host {
		t.Errorf("Host = %q, want the provider's %q", got.Host, host)
	}
	for _, name := range []string{"Cookie", "X-Hop"} {
		if value := header.Get(name); value != "" {
			t.Errorf("%s = %q reached the provider", name, value)
		}
	}
	if strings.Contains(header.Get("Accept-Encoding"), "br") {
		t.Error("the client's Accept-Encoding reached the provider: the meter could not read the answer")
	}
	for name, value := range map[string]string{"X-Custom": "kept", "Anthropic-Version": "2026-10-21"} {
		if header.Get(name) != value {
			t.Errorf("%s = %q, want %q", name, header.Get(name), value)
		}
	}
}

// TestUploadIsStreamed sends a file that is larger than the gateway may grow
// by, and checks that the provider gets its first bytes before the client has
// sent its last.
func TestUploadIsStreamed(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	onEachStore(t, func(t *testing.T, storage string) {
		var sent atomic.Int64
		sentAtFirstByte := make(chan int64, 1)
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/files", func(w http.ResponseWriter, r *http.Request) {
			if _, err := r.Body.Read(make([]byte, 1)); err == nil {
				sentAtFirstByte <- sent.Load()
			}
			describe(w, r)
		})
		g := startGateway(t, config{storage: storage, upstream: serve(t, mux)})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "uploader", nil).Key

		before := peakMemory(t, g.cmd.Process.Pid)
		body, contentType := multipartFile(size, &sent)
		res, answer := g.send(t, key, http.MethodPost, "/openai/v1/files", body, map[string]string{"Content-Type": contentType})
		if res.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s", res.StatusCode, answer)
		}
		var got seen
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatalf("decode the provider's description: %v", err)
		}
		if got.Length+1 != sent.Load() {
			t.Errorf("provider got %d bytes of %d", got.Length+1, sent.Load())
		}
		if first := <-sentAtFirstByte; first > size/2 {
			t.Errorf("the provider's first byte came after %d bytes were sent: the upload was buffered", first)
		}
		if grown := peakMemory(t, g.cmd.Process.Pid) - before; grown > size/2 {
			t.Errorf("gateway grew by %d MiB for an upload of %d MiB", grown>>20, size>>20)
		}
	})
}

// multipartFile is a form with a file of random bytes, made as it is read.
func multipartFile(size int64, sent *atomic.Int64) (body io.Reader, contentType string) {
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	_ = form.WriteField("purpose", "batch") // a bytes.Buffer takes all
	_, _ = form.CreateFormFile("file", "large.bin")
	foot := "\r\n--" + form.Boundary() + "--\r\n"
	all := io.MultiReader(&head, io.LimitReader(rand.Reader, size), strings.NewReader(foot))
	return &countingReader{all, sent}, form.FormDataContentType()
}

type countingReader struct {
	io.Reader
	n *atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// peakMemory is the largest resident size that a process has had, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("read process status: %v", err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("read peak memory: %v", err)
	}
	return kib << 10
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
