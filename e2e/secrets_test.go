package e2e

import (
	"bytes"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	promptCanary     = "PROMPT-CANARY-3f9a"
	completionCanary = "COMPLETION-CANARY-77c1"
)

// TestNothingLeaks plants secrets and content in every route, errors included,
// with debug logging on, and then searches everything that the gateway wrote:
// logs, journal, store, metrics, response headers, its adapted configuration.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		provider := newTape(t)
		addChattyRecordings(provider)
		g := startGateway(t, config{storage: storage, upstream: provider.url, extra: recordUnpriced})
		g.buyCredits(t, "starter")
		key := g.createKey(t, "careful", nil).Key
		turned := g.createKey(t, "rotated", nil)
		rotated := g.rotateKey(t, turned.ID, 60).Key
		wrong := "sk-proxy-" + strings.Repeat("5ec7e7", 11)[:64]

		var headers bytes.Buffer
		for _, r := range leakyRequests(key, wrong) {
			res, body := g.sendRaw(t, r)
			if err := res.Header.Write(&headers); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(body), providerKey) {
				t.Errorf("%s shows the provider's credential to the client", r.path)
			}
		}
		if err := g.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, metrics := g.send(t, "", http.MethodGet, "/metrics", nil, nil)
		if !bytes.Contains(metrics, []byte("llm_gateway")) {
			t.Error("/metrics has none of the gateway's metrics")
		}
		sinks := map[string][]byte{"response headers": headers.Bytes(), "/metrics": metrics, "adapted configuration": g.adapt(t)}
		if dsn, ok := strings.CutPrefix(storage, "postgres "); ok {
			sinks["database"] = dump(t, dsn)
		}
		g.stop(t)
		sinks["stderr"] = g.stderr.Bytes()
		g.readFiles(t, sinks)
		searchLeaks(t, sinks, map[string]string{
			"prompt":         promptCanary,
			"completion":     completionCanary,
			"proxy key":      key[len(key)-32:],
			"replaced key":   turned.Key[len(turned.Key)-32:],
			"rotated key":    rotated[len(rotated)-32:],
			"wrong key":      wrong[len(wrong)-32:],
			"provider key":   providerKey,
			"operator token": adminToken,
		})
	})
}

// addChattyRecordings adds answers with content, good and bad.
func addChattyRecordings(p *tape) {
	whole := func(status int, body string) recording {
		return recording{status: status, header: map[string]string{"Content-Type": "application/json"}, body: []byte(body)}
	}
	p.add("chat", whole(200, `{"model":"gpt-4o","choices":[{"message":{"role":"assistant","content":"`+completionCanary+`"}}],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}`))
	p.add("message", whole(200, `{"type":"message","model":"claude-haiku-4-5","content":[{"type":"text","text":"`+completionCanary+`"}],"usage":{"input_tokens":9,"output_tokens":5}}`))
	p.add("candidate", whole(200, `{"candidates":[{"content":{"parts":[{"text":"`+completionCanary+`"}]}}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":5,"totalTokenCount":14}}`))
	p.add("error", whole(400, `{"error":{"message":"`+completionCanary+` and `+promptCanary+` and `+providerKey[:4]+`"}}`))
	p.add("not JSON", whole(200, `<html>`+completionCanary))
	p.add("stream", recording{status: 200, header: map[string]string{"Content-Type": "text/event-stream"}, body: []byte(
		`data: {"model":"gpt-4o","choices":[{"delta":{"content":"` + completionCanary + `"}}]}` + "\n\n" +
			"data: {" + completionCanary + "\n\n")})
	p.add("reset", recording{status: 200, header: map[string]string{"Content-Type": "text/event-stream"}, reset: true, body: []byte(
		`data: {"model":"gpt-4o","choices":[{"delta":{"content":"` + completionCanary + `"}}]}` + "\n\n")})
}

// rawRequest is a request whose credential is where the test wants it.
type rawRequest struct {
	method, path, body string
	header             map[string]string
}

func leakyRequests(key, wrong string) []rawRequest {
	chat := `{"model":"gpt-4o","messages":[{"role":"user","content":"` + promptCanary + `"}]}`
	stream := strings.Replace(chat, "{", `{"stream":true,`, 1)
	contents := `{"contents":[{"parts":[{"text":"` + promptCanary + `"}]}]}`
	const chatPath, generatePath = "/openai/v1/chat/completions", "/gemini/v1beta/models/gemini-2.5-flash:generateContent"
	post := func(path, body, recording, header, value string) rawRequest {
		h := map[string]string{"Content-Type": "application/json", recordingHeader: recording}
		if header != "" {
			h[header] = value
		}
		return rawRequest{http.MethodPost, path, body, h}
	}
	return []rawRequest{
		post(chatPath, chat, "chat", "Authorization", "Bearer "+key),
		post(chatPath, chat, "error", "Authorization", "Bearer "+key),
		post(chatPath, chat, "not JSON", "X-Api-Key", key),
		post(chatPath, stream, "stream", "X-Goog-Api-Key", key),
		post(chatPath, stream, "reset", "Authorization", "Bearer "+key),
		post(chatPath, chat, "no such recording", "Authorization", "Bearer "+key),
		post(chatPath, chat[:len(chat)-3], "chat", "Authorization", "Bearer "+key),
		post(chatPath, strings.Replace(chat, "gpt-4o", promptCanary, 1)[:10], "chat", "Authorization", "Bearer "+key),
		post("/anthropic/v1/messages", strings.Replace(chat, "gpt-4o", `claude-haiku-4-5","max_tokens":9,"x":"`, 1), "message", "X-Api-Key", key),
		post(generatePath, contents, "candidate", "X-Goog-Api-Key", key),
		post(generatePath+"?key="+key, contents, "candidate", "", ""),
		post(generatePath+"?alt=json&key="+key+"&x=1", contents, "error", "", ""),
		post(generatePath+"?key="+wrong, contents, "candidate", "", ""),
		post(chatPath, chat, "chat", "X-Api-Key", wrong),
		post("/v1/keys", `{"name": 7}`, "", "Authorization", "Bearer "+adminToken),
		post("/v1/keys", `{}`, "", "X-Api-Key", key),
		post("/openai/v1/unknown/endpoint", chat, "chat", "Authorization", "Bearer "+key),
	}
}

func (g *gateway) sendRaw(t *testing.T, r rawRequest) (*http.Response, []byte) {
	t.Helper()
	return g.send(t, "", r.method, r.path, strings.NewReader(r.body), r.header)
}

// adapt returns the JSON that Caddy makes of the Caddyfile, with the secrets in
// the environment.
func (g *gateway) adapt(t *testing.T) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), gatewayBinary(), "adapt", "--config", filepath.Join(g.dir, "Caddyfile"))
	cmd.Env = g.cmd.Env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("adapt: %v", err)
	}
	return out
}

// readFiles adds every file that the gateway wrote.
func (g *gateway) readFiles(t *testing.T, sinks map[string][]byte) {
	t.Helper()
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		sinks[strings.TrimPrefix(path, g.dir)] = b
		return err
	})
	if err != nil {
		t.Fatalf("read what the gateway wrote: %v", err)
	}
	if len(sinks["/gateway.log"]) == 0 {
		t.Error("the log is empty: the search would prove nothing")
	}
}

func searchLeaks(t *testing.T, sinks map[string][]byte, secrets map[string]string) {
	t.Helper()
	for sink, content := range sinks {
		for name, secret := range secrets {
			at := bytes.Index(content, []byte(secret))
			if at < 0 {
				continue
			}
			t.Errorf("%s: the %s leaked: ...%q...", sink, name, content[max(0, at-300):min(len(content), at+100)])
		}
	}
}

// dump returns a database as SQL.
func dump(t *testing.T, dsn string) []byte {
	t.Helper()
	tools, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	if err != nil || len(tools) == 0 {
		t.Fatalf("no pg_dump: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), tools[len(tools)-1], "--enable-row-security", "--dbname", dsn).Output()
	if err != nil {
		t.Fatalf("dump database: %v", err)
	}
	if !bytes.Contains(out, []byte("COPY ")) {
		t.Error("the dump has no rows: the search would prove nothing")
	}
	return out
}
