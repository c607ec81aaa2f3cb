package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// wrappedBody hides from net/http what a body is, as Caddy does.
type wrappedBody struct{ io.ReadCloser }

// TestRestOfABodyIsNoRequest sends bodies that are too large, or of a kind that
// is not read, to every operation, on a connection each: what the operation has
// not read of them is never taken for another request.
func TestRestOfABodyIsNoRequest(t *testing.T) {
	t.Parallel()
	api := New(newGateway(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = wrappedBody{r.Body}
		api.ServeHTTP(w, r)
	}))
	defer server.Close()
	body := "{" + strings.Repeat("\r\n", maxBody) // whatever begins in there is no request, which is answered too

	operations := operationsWithBody(t)
	if len(operations) < 10 {
		t.Fatalf("the document has bodies in %q alone", operations)
	}
	for _, operation := range operations {
		for _, mediaType := range []string{"application/json", "text/plain"} {
			for _, framing := range []string{
				fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
				fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
			} {
				answers := sendRaw(t, server.Listener.Addr(), fmt.Sprintf("%s HTTP/1.1\r\nHost: gateway\r\n"+
					"Authorization: Bearer %s\r\nContent-Type: %s\r\n%s", operation, testToken, mediaType, framing))
				if n := strings.Count(answers, "HTTP/1.1 "); n != 1 {
					t.Errorf("%s with %s, %.20q: %d answers to one request: %.300q", operation, mediaType, framing, n, answers)
				}
			}
		}
	}
}

// operationsWithBody are the methods and paths of those that have one, with
// anything for an id.
func operationsWithBody(t *testing.T) (operations []string) {
	t.Helper()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody json.RawMessage `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(specification.text, &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, operation := range methods {
			if operation.RequestBody != nil {
				operations = append(operations, strings.ToUpper(method)+" "+strings.NewReplacer("{", "", "}", "").Replace(path))
			}
		}
	}
	return operations
}

// sendRaw sends text on a connection of its own, and returns all that is
// answered until the server closes it.
func sendRaw(t *testing.T, server net.Addr, text string) string {
	t.Helper()
	conn, err := net.Dial(server.Network(), server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, text) // fails where the server does not read it all
	}()
	answers, err := io.ReadAll(conn)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // as conn returns it
		t.Errorf("the connection stays open")
	}
	conn.Close()
	<-sent
	return string(answers)
}
