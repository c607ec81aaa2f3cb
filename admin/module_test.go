package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/logging" // the access log's file
)

// serveAlone runs Caddy with the management API and without the proxy routes in
// its site, and returns its address. There is one at a time.
func serveAlone(t *testing.T, accessLog string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := filepath.ToSlash(t.TempDir())
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output discard
	}
	llm_gateway {
		storage sqlite %[1]s/gateway.db
		journal %[1]s/journal
		admin_token %[2]s
	}
}
http://%[3]s {
	log {
		output file %[4]s
	}
	llm_gateway_admin
}
`, dir, testToken, address, filepath.ToSlash(accessLog))), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	return "http://" + address
}

func TestAccessLogOfTheManagementAPIHidesIdempotencyKeys(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	url := serveAlone(t, log)
	for _, name := range []string{"", idempotencyKey} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/keys/key_1/rotate", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+testToken)
		r.Header.Set("Content-Type", "application/json")
		if name != "" {
			r.Header.Set(idempotencyHeader, name)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) != 2 || bytes.Contains(b, []byte(idempotencyKey)) || bytes.Contains(b, []byte(testToken)) {
		t.Fatalf("access log:\n%s", b)
	}
	var line struct {
		Status  int
		Request struct{ Headers http.Header }
	}
	if err := json.Unmarshal(lines[1], &line); err != nil {
		t.Fatal(err)
	}
	if line.Status != http.StatusNotFound || line.Request.Headers.Get(idempotencyHeader) != "REDACTED" {
		t.Errorf("the line is %s", lines[1])
	}
}
