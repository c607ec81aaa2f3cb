package caddymodule

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestFailuresLeaveNothingBehind lets providers fail in all ways, again and
// again, with clients that stay and clients that leave.
func TestFailuresLeaveNothingBehind(t *testing.T) {
	var open atomic.Int64
	n := &node{sandbox: sandbox.New()}
	upstream := httptest.NewUnstartedServer(n.sandbox)
	upstream.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked: // to be reset
			open.Add(-1)
		}
	}
	upstream.Start()
	defer upstream.Close()
	n.load(t, t.TempDir(), upstream.URL, "retries 1\nfirst_byte_timeout 60ms\nidle_timeout 60ms")
	defer caddy.Stop()
	n.app.Drain = caddy.Duration(50 * time.Millisecond)
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	kinds := [][]string{
		script("Fail", "reset"), script("Fail", "reset", "Fail-After", "1"),
		script("Fail", "stall"), script("Fail", "stall", "Fail-After", "1"),
		script("Fail", "truncate"), script("Fail", "empty"), script("Fail", "html"),
		script("Status", "500"), script("Status", "429"), nil,
	}
	const clients = 8
	round := func() (goroutines int, connections int64) {
		n.freeze() // breakers that are closed
		var group sync.WaitGroup
		for range clients {
			group.Go(func() {
				for i, kind := range kinds {
					body := []string{hello, stream}[i%2]
					headers := append(script("Retry-After", "0"), kind...)
					if i%3 == 0 {
						n.leave(t, 20*time.Millisecond, chat, key, body, headers...)
					}
					res := n.do(t, "POST", chat, key, body, headers...)
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		group.Wait()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		for range 100 { // until what is drained has ended
			goroutines, connections = runtime.NumGoroutine(), open.Load()
			if n.app.engine.requests.Load() == 0 && connections <= 2*clients {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		return goroutines, connections
	}
	first, _ := round()
	round()
	round()
	goroutines, connections := round()
	if goroutines > first+2*clients || connections > 2*clients { // they come and go; what leaks does not
		t.Errorf("%d goroutines after %d, %d connections to the provider", goroutines, first, connections)
	}
}
