package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// TestUploadsThatBreakOffAreNotTheProvidersFault has clients that leave in the
// middle of their uploads, and such as send nonsense, more often than it takes
// to open a breaker.
func TestUploadsThatBreakOffAreNotTheProvidersFault(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "{}")
	}, "free_route /files")
	key := n.key(t, nil)
	for i := range 24 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		agent := fmt.Sprint("half ", i)
		fmt.Fprintf(conn, "POST /odd/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nUser-Agent: %s\r\n"+
			"Content-Type: text/plain\r\n", key, agent)
		if i%2 == 0 {
			io.WriteString(conn, "Content-Length: 1000\r\n\r\nhalf")
			conn.Close()
		} else {
			defer conn.Close()
			io.WriteString(conn, "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nno length\r\n")
		}
		row := n.rowOf(t, agent)
		want := attempts(billing.Attempt{Error: "client disconnected"})
		if diff := cmp.Diff(want, row.AttemptLog, outcomesOnly); diff != "" || row.Error != "invalid request body" || row.Cost != 0 {
			t.Errorf("row of error %q, cost %s, attempts (-want +got):\n%s", row.Error, row.Cost, diff)
		}
	}
	if s := n.statusOf(t, "odd"); s.Breaker != "closed" || s.Failures != 0 {
		t.Errorf("status %+v", s)
	}
	if res := n.do(t, "POST", "/odd/files", key, "whole", "Content-Type", "text/plain"); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestRestOfAnUploadIsNoRequest has a provider that refuses uploads before it has
// read them: what it has not read is never taken for the client's next request.
func TestRestOfAnUploadIsNoRequest(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}, "free_route /files")
	key, body := n.key(t, nil), strings.Repeat("\r\n", 8<<20) // nothing in there begins a request
	for _, framing := range []string{
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go fmt.Fprintf(conn, "POST /odd/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n"+
			"Content-Type: text/plain\r\n%s", key, framing)
		answers, _ := io.ReadAll(conn) // ends with the connection, be it by a reset
		if got := strings.Count(string(answers), "HTTP/1.1 "); got != 1 {
			t.Errorf("%.20q: %d answers to one request: %.300q", framing, got, answers)
		}
	}
}

// TestSlowUploadsAreNotSilence sends an upload that takes longer than the
// provider may be silent.
func TestSlowUploadsAreNotSilence(t *testing.T) {
	n := startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, len(b))
	}, "free_route /files", "first_byte_timeout 200ms")
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /odd/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\n", n.key(t, nil))
	for range 5 {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(conn, "x")
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := read(t, res); res.StatusCode != 200 || got != "5" {
		t.Errorf("status %d, the provider got %s bytes", res.StatusCode, got)
	}
}
