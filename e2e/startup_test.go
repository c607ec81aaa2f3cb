package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFailedStart checks that a gateway that cannot work says why, in one
// line, and exits with an error.
func TestFailedStart(t *testing.T) {
	t.Parallel()
	blocked := filepath.Join(t.TempDir(), "a-file-where-a-directory-should-be")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	const password = "PASSWORD-CANARY"

	tests := map[string]struct {
		config config
		// says is a part of the line that names the cause.
		says string
	}{
		"an unwritable store":     {config{storage: "sqlite " + blocked + "/gateway.db"}, blocked},
		"a database that is away": {config{storage: "postgres postgres://gateway:" + password + "@127.0.0.1:1/gateway"}, "127.0.0.1:1"},
		"a port that is taken":    {config{address: taken.Addr().String()}, "address already in use"},
		"an unknown option":       {config{extra: "no_such_option on"}, "no_such_option"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.config.upstream = "http://127.0.0.1:1"
			g := launchGateway(t, tt.config)
			select {
			case <-g.exited:
			case <-time.After(60 * time.Second):
				t.Fatal("still running after 60 s")
			}
			if code := g.cmd.ProcessState.ExitCode(); code <= 0 {
				t.Errorf("exit code %d, want an error's", code)
			}
			log, err := os.ReadFile(filepath.Join(g.dir, "gateway.log"))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("read log: %v", err)
			}
			out := g.stderr.String() + string(log)
			var complaints []string
			for line := range strings.Lines(out) {
				if strings.Contains(line, `"level":"error"`) {
					complaints = append(complaints, line)
				}
			}
			if len(complaints) != 1 || !strings.Contains(complaints[0], tt.says) {
				t.Errorf("complaints %q, want one line with %q", complaints, tt.says)
			}
			if strings.Contains(out, "goroutine ") || strings.Contains(out, password) {
				t.Errorf("output shows a stack or a password:\n%s", out)
			}
		})
	}
}
