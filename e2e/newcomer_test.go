package e2e

import (
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestNewcomer follows the documents, command by command, from a gateway that
// has just been started to the export of the audit trail.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	for name, walk := range map[string]struct {
		document, from, to string
		organization       string
		// ledger is what the commands leave in the ledger, newest first.
		ledger []string
	}{
		"command line":    {"../docs/cli.md", "\n## From nothing to the audit trail\n", "\n## ", acme, []string{"usage_debit", "purchase", "adjustment"}},
		"getting started": {"../docs/getting-started.md", "\n## 4. ", "\nNext: ", "default", []string{"usage_debit", "purchase"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEachStore(t, func(t *testing.T, storage string) {
				w := newWorld(t, storage, "")
				terminal := w.openTerminal(t)
				for _, command := range readCommands(t, walk.document, walk.from, walk.to) {
					terminal.run(t, command)
				}
				g := w.as(walk.organization)
				entries, err := all[transaction](t.Context(), g, "/v1/billing/transactions")
				if err != nil {
					t.Fatal(err)
				}
				var ledger []string
				for _, e := range entries {
					ledger = append(ledger, e.Type)
				}
				if diff := gocmp.Diff(walk.ledger, ledger); diff != "" {
					t.Errorf("the ledger (-want +got):\n%s", diff)
				}
				terminal.checkExport(t, entries[0].RequestID)
				g.checkBooksBalance(t)
			})
		})
	}
}

// readCommands are the shell commands of a part of a document.
func readCommands(t *testing.T, document, from, to string) []string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(text), from)
	if !found {
		t.Fatalf("%s has no %q", document, from)
	}
	part, _, _ = strings.Cut(part, to)
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(part, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				commands = append(commands, line)
			}
		}
	}
	if len(commands) < 5 {
		t.Fatalf("%s has the commands %q", document, commands)
	}
	return commands
}

// terminal is where a newcomer types commands, and reads what they say.
type terminal struct {
	gateway *gateway
	dir     string
	address string
	// exports are the variables so far, as commands.
	exports []string
	said    strings.Builder
}

func (g *gateway) openTerminal(t *testing.T) *terminal {
	t.Helper()
	return &terminal{gateway: g, dir: t.TempDir(), address: strings.TrimPrefix(serve(t, g.watched(t)), "http://")}
}

// run types a command as the document has it, with the newcomer's own address,
// token and ids in the place of examples.
func (s *terminal) run(t *testing.T, command string) {
	t.Helper()
	if strings.HasPrefix(command, "export GATEWAY_ADMIN_TOKEN=") {
		return // it is in the environment
	}
	command = strings.NewReplacer("localhost:8080", s.address, "bin/caddy ", "caddy ").Replace(command)
	for short, form := range map[string]string{"sk-proxy-...": `sk-proxy-[0-9a-f]{64}`, "req_...": `req_[0-9a-z]{26}`} {
		if !strings.Contains(command, short) {
			continue
		}
		found := regexp.MustCompile(form).FindAllString(s.said.String(), -1)
		if len(found) == 0 {
			t.Fatalf("nothing has said what %s is:\n%s", short, s.said.String())
		}
		command = strings.ReplaceAll(command, short, found[len(found)-1])
	}
	if strings.HasPrefix(command, "export ") {
		s.exports = append(s.exports, command)
		return
	}
	script := append([]string{
		`caddy() { "$GATEWAY_BIN" "$@"; }`,
		`curl() { command curl --silent --show-error --fail-with-body "$@"; }`,
	}, s.exports...)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", strings.Join(append(script, command), "\n"))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "GATEWAY_BIN="+gatewayBinary(), "GATEWAY_ADMIN_TOKEN="+adminToken,
		"GATEWAY_URL=http://"+s.address)
	out, err := cmd.CombinedOutput()
	s.said.WriteString("$ " + command + "\n" + string(out))
	if err != nil {
		t.Fatalf("%v:\n%s", err, s.said.String())
	}
	// Nobody types the next command within the 250 ms that posting takes.
	if err := s.gateway.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// checkExport checks that the newcomer has seen the request's debit, and has a
// file with the request.
func (s *terminal) checkExport(t *testing.T, requestID string) {
	t.Helper()
	for _, want := range []string{requestID, "usage_debit"} {
		if !strings.Contains(s.said.String(), want) {
			t.Errorf("the terminal does not show %s:\n%s", want, s.said.String())
		}
	}
	file, err := os.Open(filepath.Join(s.dir, "audit.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatalf("read the export: %v", err)
	}
	if len(rows) != 2 || !slices.Contains(rows[0], "request_id") || !slices.Contains(rows[1], requestID) {
		t.Errorf("exported %q, want a header and %s", rows, requestID)
	}
}
