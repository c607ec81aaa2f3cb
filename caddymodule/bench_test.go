package caddymodule

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// canned answers every request with the same response.
type canned struct {
	contentType string
	body        []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {c.contentType}},
		Body:   io.NopCloser(bytes.NewReader(c.body)), ContentLength: int64(len(c.body)),
	}, nil
}

// nowhere is a client that takes everything.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Flush()                      {}

// BenchmarkServeHTTP is the gateway's own part of a request: everything but
// the connections to client and provider. Posting to SQLite is included.
func BenchmarkServeHTTP(b *testing.B) {
	usage := `"usage":{"prompt_tokens":250,"completion_tokens":150,"total_tokens":400}`
	chunk := `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{"content":"lorem "},"finish_reason":null}],"usage":null}` + "\n\n"
	for _, bm := range []struct {
		name, request string
		canned        canned
	}{
		{"chat", `{"model":"gpt-4o","messages":[{"role":"user","content":"` + strings.Repeat("lorem ", 160) + `"}]}`,
			canned{"application/json", []byte(`{"id":"c","object":"chat.completion","model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"` +
				strings.Repeat("ipsum ", 120) + `"},"finish_reason":"stop"}],` + usage + `}`)}},
		{"stream of 50 events", `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("lorem ", 160) + `"}]}`,
			canned{"text/event-stream", []byte(strings.Repeat(chunk, 50) + `data: {"id":"c","model":"gpt-4o-2024-08-06","choices":[],` + usage + "}\n\ndata: [DONE]\n\n")}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			storage := Storage{Driver: driverSQLite, DSN: filepath.Join(b.TempDir(), "gateway.db")}
			h, key := openHandler(b, storage, bm.canned)
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, chat, strings.NewReader(bm.request))
				r.Header.Set("Authorization", "Bearer "+key)
				r.Header.Set("Content-Type", "application/json")
				r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "127.0.0.1"}))
				caddyhttp.NewTestReplacer(r)
				if err := h.ServeHTTP(&nowhere{header: make(http.Header)}, r, nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := h.app.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// openHandler is a handler with real books and a provider that is canned.
func openHandler(tb testing.TB, storage Storage, transport http.RoundTripper) (*Handler, string) {
	tb.Helper()
	base, err := parseBaseURL("http://provider/v1")
	if err != nil {
		tb.Fatal(err)
	}
	app := &App{
		Providers: map[string]*Provider{"openai": {
			Protocol: metering.OpenAI, name: "openai", base: base, Patience: defaultPatience(),
			secrets:   []upstream.Credential{{Label: defaultCredential, Secret: "secret", Weight: 1}},
			transport: transport, metrics: newRequestMetrics("openai"),
		}},
		log: zap.NewNop(), requestLog: zap.NewNop(),
	}
	app.setDefaults()
	if err := app.provisionPrices(); err != nil {
		tb.Fatal(err)
	}
	config := engineConfig{
		storage:     storage,
		journalDir:  filepath.Join(tb.TempDir(), "journal"),
		journalSync: journal.SyncInterval,
	}
	if app.engine, err = loadEngine(config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { engines.Delete(config) })
	app.Providers["openai"].connect(app.engine.upstreams)
	if err := app.engine.open(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	secret := billing.NewSecret()
	err = app.Store().CreateKey(tb.Context(), billing.Key{
		ID: "key_bench", OrganizationID: billing.DefaultOrganization, Name: "bench", Hash: billing.HashSecret(secret),
		Prefix: billing.DisplayPrefix(secret), UsageLimitReset: billing.Never, CreatedAt: time.Now(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	_, err = app.Store().Append(tb.Context(), billing.Entry{
		OrganizationID: billing.DefaultOrganization, Type: billing.Purchase, Amount: 1_000_000 * metering.USD,
		CreatedAt: time.Now(), IdempotencyKey: "bench",
	})
	if err != nil {
		tb.Fatal(err)
	}
	return &Handler{app: app}, secret
}
