package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestCredential(t *testing.T) {
	t.Parallel()
	const gemini = "/v1beta/models/gemini-2.5-flash:generateContent"
	tests := map[string]struct {
		call call
		want string
	}{
		"OpenAI":              {call{path: chatPath, body: chatBody}, "Authorization"},
		"Anthropic":           {call{path: "/v1/messages", body: messagesBody}, "X-Api-Key"},
		"Anthropic, new SDKs": {call{path: "/v1/messages", body: messagesBody, headers: []string{"X-Api-Key: ", "Authorization: Bearer t"}}, "Authorization"},
		"Gemini":              {call{path: gemini, body: geminiBody}, "X-Goog-Api-Key"},
		"Gemini in the query": {call{path: gemini + "?key=t", body: geminiBody, headers: []string{"X-Goog-Api-Key: "}}, "key"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, test.call)
			if s := l.sole(t); got.status != http.StatusOK || s.Credential != test.want {
				t.Errorf("status %d, credential in %q", got.status, s.Credential)
			}
		})
	}
}

func TestLeakedProxyKey(t *testing.T) {
	t.Parallel()
	const key = "sk-proxy-0123456789abcdef"
	tests := map[string]call{
		"as credential":   {path: chatPath, body: chatBody, headers: []string{"Authorization: Bearer " + key}},
		"beside it":       {path: "/v1/messages", body: messagesBody, headers: []string{"X-Goog-Api-Key: " + key}},
		"in a cookie":     {path: "/v1/messages", body: messagesBody, headers: []string{"Cookie: k=" + key}},
		"in the query":    {path: "/v1/models/gemini-2.5-pro:generateContent?key=" + key, body: geminiBody},
		"even when echod": {method: "GET", path: "/echo/x", headers: []string{"X-Api-Key: " + key}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			got := l.do(t, c)
			if got.status != http.StatusUnauthorized || !strings.Contains(string(got.body), "proxy key leaked to the provider") {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			if want := (Totals{Requests: 1, Failed: 1, LeakedProxyKeys: 1}); l.settle(t) != want {
				t.Errorf("totals %+v", l.Totals())
			}
		})
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "/v1", "/v1beta"} {
		got := newLab(t).do(t, call{
			method: http.MethodPut, path: prefix + "/echo/a%2Fb?c=d&c=e", body: "hello", headers: []string{"X-Custom: yes"},
		})
		var echo Echo
		if err := json.Unmarshal(got.body, &echo); err != nil {
			t.Fatalf("%v: %s", err, got.body)
		}
		sum := sha256.Sum256([]byte("hello"))
		if echo.Headers.Get("X-Custom") != "yes" || echo.Host == "" {
			t.Errorf("echo %+v", echo)
		}
		want := Echo{
			Method: "PUT", Path: prefix + "/echo/a%2Fb", Query: "c=d&c=e", Proto: "HTTP/1.1",
			BodyBytes: 5, BodySHA256: hex.EncodeToString(sum[:]),
		}
		echo.Headers, echo.Host = nil, ""
		if diff := cmp.Diff(want, echo); diff != "" {
			t.Errorf("echo (-want +got):\n%s", diff)
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	content := strings.Repeat("0123456789abcdef", 1<<16)
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	_ = form.WriteField("purpose", "batch")
	part, _ := form.CreateFormFile("file", "in.jsonl")
	_, _ = io.WriteString(part, content)
	_ = form.Close()

	upload := l.do(t, call{path: "/v1/files", body: body.String(), headers: []string{"Content-Type: " + form.FormDataContentType()}})
	file := parse(t, upload.body)
	sum := sha256.Sum256([]byte(content))
	if file["bytes"] != float64(len(content)) || file["sha256"] != hex.EncodeToString(sum[:]) ||
		file["filename"] != "in.jsonl" || file["purpose"] != "batch" {
		t.Fatalf("uploaded %s", upload.body)
	}
	id := fmt.Sprint(file["id"])
	get := func(method, path string) reply { return l.do(t, call{method: method, path: path}) }
	if got := get("GET", "/files/"+id); !bytes.Equal(got.body, upload.body) {
		t.Errorf("got %s", got.body)
	}
	if got := get("GET", "/v1/files/"+id+"/content"); string(got.body) != content {
		t.Errorf("content of %d bytes differs", len(got.body))
	}
	if got := get("GET", "/v1/files"); at(any(parse(t, got.body)), "data", 0, "id") != id {
		t.Errorf("listed %s", got.body)
	}
	if got := get("DELETE", "/v1/files/"+id); parse(t, got.body)["deleted"] != true {
		t.Errorf("deleted %s", got.body)
	}
	if got := get("GET", "/v1/files/"+id); got.status != http.StatusNotFound {
		t.Errorf("status %d after deletion", got.status)
	}
	if got := l.do(t, call{path: "/v1/files", body: "{}"}); got.status != http.StatusBadRequest {
		t.Errorf("status %d for an upload that is none", got.status)
	}
}

// TestFilesAreBounded checks that the oldest files go first.
func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	var f files
	for i := range maxFiles + 5 {
		f.add(&File{ID: fmt.Sprint(i), content: []byte("x")})
	}
	if all := f.list(); len(all) != maxFiles || all[0].ID != "5" || f.held != maxFiles {
		t.Errorf("%d files from %s, %d bytes", len(all), all[0].ID, f.held)
	}
	f.add(&File{ID: "large", content: make([]byte, keptFiles)})
	if all := f.list(); len(all) != 1 || all[0].ID != "large" {
		t.Errorf("%d files", len(all))
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for range 3 {
		l.do(t, call{path: chatPath, body: chatBody})
	}
	var totals Totals
	if err := json.Unmarshal(l.do(t, call{method: "GET", path: "/sandbox/totals"}).body, &totals); err != nil {
		t.Fatal(err)
	}
	want := Totals{Requests: 3, Complete: 3, Usage: metering.Usage{Input: 15, Output: 33}}
	if totals.Open = 0; totals != want {
		t.Errorf("totals %+v", totals)
	}
	var served []Served
	if err := json.Unmarshal(l.do(t, call{method: "GET", path: "/sandbox/served?after=1"}).body, &served); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.Served()[1:], served); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	if got := l.do(t, call{method: "GET", path: "/sandbox/served?after=x"}); got.status != http.StatusBadRequest {
		t.Errorf("status %d", got.status)
	}
	if got := l.do(t, call{path: "/sandbox/reset"}); got.status != http.StatusNoContent {
		t.Errorf("status %d", got.status)
	}
	if got := l.do(t, call{method: "GET", path: "/sandbox/reset"}); got.status != http.StatusNotFound {
		t.Errorf("status %d", got.status)
	}
	if totals := l.settle(t); totals != (Totals{}) || len(l.Served()) != 0 {
		t.Errorf("after the reset %+v", totals)
	}
}

// TestConcurrent checks that the counts are exact under load, in all
// protocols at once.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	all := families()
	const clients, rounds = 8, 10
	httpClient := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	t.Cleanup(httpClient.CloseIdleConnections)
	var group sync.WaitGroup
	for n := range clients {
		group.Go(func() {
			for i := range rounds * len(all) {
				c := all[(n+i)%len(all)].call
				c.headers = []string{fmt.Sprintf("X-Sandbox-Prompt: %d", 1000+i), "X-Sandbox-Completion: 7", fmt.Sprintf("X-Sandbox-Id: %d/%d", n, i)}
				res, err := httpClient.Do(l.request(t, c))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("status %d, %v", res.StatusCode, err)
				}
			}
		})
	}
	group.Wait()
	requests := int64(clients * rounds * len(all))
	perClient := int64(rounds * len(all))
	input := clients * (1000*perClient + perClient*(perClient-1)/2)
	want := Totals{Requests: requests, Complete: requests, Usage: metering.Usage{Input: input, Output: 7 * requests}}
	if got := l.settle(t); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
	ids, scripts := map[string]bool{}, map[string]bool{}
	for _, s := range l.Served() {
		ids[s.ID], scripts[s.ScriptID] = true, true
	}
	if len(ids) != int(requests) || len(scripts) != int(requests) {
		t.Errorf("%d ids and %d script ids for %d requests", len(ids), len(scripts), requests)
	}
}
