package caddymodule

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// commands returns the command with all that is under it, as Caddy has it.
func commands() *cobra.Command {
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	cmd := &cobra.Command{Use: "llm-gateway"}
	root.AddCommand(cmd)
	addCommands(cmd)
	return root
}

func TestCommandsExplainThemselves(t *testing.T) {
	t.Parallel()
	eachCommand(commands().Commands()[0], func(cmd *cobra.Command) {
		// Caddy has the first two of llm-gateway itself.
		if cmd.Example == "" || cmd.Parent().HasParent() && (cmd.Short == "" || cmd.Long == "") {
			t.Errorf("%s lacks a description or an example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 81 {
				t.Errorf("%s: a line is wider than a terminal: %s", cmd.CommandPath(), line)
			}
		}
		if !cmd.HasSubCommands() && !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s is not in its own example", cmd.CommandPath())
		}
	})
}

// What examples and documents tell people to type must be understood.
func TestExamplesAreCommands(t *testing.T) {
	t.Parallel()
	root := commands()
	check := func(where, text string) {
		for _, m := range regexp.MustCompile("caddy llm-gateway ([a-z][a-z -]*[a-z])([^\n|`]*)").FindAllStringSubmatch(text, -1) {
			cmd, rest, err := root.Find(append([]string{"llm-gateway"}, strings.Fields(m[1])...))
			if err != nil {
				t.Errorf("%s: %s: %v", where, m[0], err)
				continue
			}
			if cmd.HasSubCommands() && len(rest) > 0 {
				t.Errorf("%s: %s: no such command", where, m[0])
			}
			for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(m[0], -1) {
				if cmd.Flag(flag[1]) == nil && flag[1] != "help" {
					t.Errorf("%s: %s: no flag --%s", where, m[0], flag[1])
				}
			}
		}
	}
	eachCommand(root, func(cmd *cobra.Command) { check(cmd.CommandPath(), cmd.Example) })
	for _, file := range []string{"../README.md", "../docs/cli.md", "../docs/getting-started.md", "../docs/verify.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		check(file, string(text))
	}
}

func TestReferenceListsAllCommands(t *testing.T) {
	t.Parallel()
	reference, err := os.ReadFile("../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, existing []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z ]+)` \\|").FindAllSubmatch(reference, -1) {
		listed = append(listed, string(m[1]))
	}
	eachCommand(commands(), func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() {
			existing = append(existing, strings.TrimPrefix(cmd.CommandPath(), "caddy llm-gateway "))
		}
	})
	slices.Sort(listed)
	slices.Sort(existing)
	if diff := cmp.Diff(existing, listed); diff != "" {
		t.Errorf("commands (-) and docs/cli.md (+) differ:\n%s", diff)
	}
}

// runCommand runs a command as Caddy does, and tells what it would print and
// whether Caddy would end with another code than 1.
func runCommand(t *testing.T, args ...string) (out string, exitError bool, err error) {
	t.Helper()
	root := commands()
	var text bytes.Buffer
	root.SetOut(&text)
	root.SetErr(&text)
	root.SetArgs(append([]string{"llm-gateway"}, args...))
	err = root.ExecuteContext(t.Context())
	return text.String(), err != nil && fmt.Sprintf("%T", err) == "*caddycmd.exitError", err
}

// Caddy knows the code of an exitError, and ends with 1 for any other.
func TestExitCodes(t *testing.T) {
	t.Setenv("GATEWAY_ADMIN_TOKEN", "")
	for _, tt := range []struct {
		args      []string
		exitError bool
		says      string
	}{
		{[]string{"nothing"}, true, `unknown command "nothing"`},
		{[]string{"ledger", "nothing"}, true, `unknown command "nothing"`},
		{[]string{"keys", "lst"}, true, `did you mean "list"`},
		{[]string{"keys", "list", "--nonsense"}, true, "unknown flag"},
		{[]string{"demo", "--nonsense"}, true, "unknown flag"},
		{[]string{"credits", "adjust", "-5", "--reason", "x"}, true, "after --"},
		{[]string{"keys", "list"}, true, "$GATEWAY_ADMIN_TOKEN"},
		{[]string{"keys", "list", "--token", "t", "--url", "127.0.0.1:1"}, false, "is it running?"},
		{[]string{"migrate", "stray"}, true, "stray"},
		{[]string{"migrate", "--sqlite", "a", "--postgres", "b"}, true, "name one of"},
		{[]string{"migrate", "--config", "/missing"}, false, "no such file"},
	} {
		out, exitError, err := runCommand(t, tt.args...)
		if err == nil || exitError != tt.exitError || strings.Count(out, tt.says) != 1 || strings.Count(out, "Error:") != 1 {
			t.Errorf("%q: error %T %[2]v: %s", tt.args, err, out)
		}
	}
	for _, group := range [][]string{{}, {"keys"}, {"ledger"}} {
		if out, _, err := runCommand(t, group...); err != nil || !strings.Contains(out, "Available Commands") {
			t.Errorf("%q: %v: %s", group, err, out)
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "gateway.db")
	caddyfile := writeFile(t, "{\n\tllm_gateway {\n\t\tstorage sqlite "+path+"\n\t}\n}\n")
	forget := func() {
		t.Helper()
		db, err := sql.Open("sqlite", path)
		if err == nil {
			_, err = db.ExecContext(t.Context(), "UPDATE goose_db_version SET version_id = version_id + 1000 WHERE id = (SELECT max(id) FROM goose_db_version)")
		}
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want, flag, value string, more ...string) error {
		t.Helper()
		out, _, err := runCommand(t, append([]string{"migrate", flag, value}, more...)...)
		if !strings.Contains(out, want) {
			t.Errorf("%v: %s, want %s", err, out, want)
		}
		return err
	}
	if err := check("out of date: it is version 0", "--sqlite", path, "--check"); err == nil {
		t.Error("--check of nothing ends well")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("--check makes a database: %v", err)
	}
	known, err := sqlite.Schema(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	now := fmt.Sprintf("now version %d.", known.Known)
	if err := check("The schema was version 0, and is "+now, "--config", caddyfile); err != nil {
		t.Error(err)
	}
	if err := check("up to date", "--sqlite", path, "--check"); err != nil {
		t.Error(err)
	}
	forget()
	if err := check("use a newer binary", "--sqlite", path); err == nil {
		t.Error("a newer schema is taken")
	}

	dsn := pgtest.DSN(t)
	if err := check("out of date: it is version 0", "--postgres", dsn, "--check"); err == nil {
		t.Error("--check of nothing ends well")
	}
	if err := check("The schema was version 0, and is "+now, "--postgres", dsn); err != nil {
		t.Error(err)
	}
	if err := check("up to date", "--postgres", dsn); err != nil {
		t.Error(err)
	}
	if s, err := postgres.Schema(t.Context(), dsn); err != nil || s.Version != s.Known {
		t.Errorf("%v: %+v", err, s)
	}
}
