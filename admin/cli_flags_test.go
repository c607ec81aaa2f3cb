package admin

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/internal/cli"
)

// commandOf are the commands that ask the routes whose parameters select, order
// or divide something.
var commandOf = map[string]string{
	"list-keys":            "keys list",
	"get-key-usage":        "keys usage",
	"get-usage":            "usage",
	"list-audit":           "audit list",
	"export-audit":         "audit export",
	"list-transactions":    "credits transactions list",
	"export-transactions":  "credits transactions export",
	"list-changes":         "changes list",
	"export-changes":       "changes export",
	"list-members":         "members list",
	"list-organizations":   "orgs list",
	"list-invitations":     "invitations list",
	"list-operator-tokens": "tokens list",
}

// withoutCommand are the routes with parameters that no command asks.
var withoutCommand = map[string]string{
	"list-projects":  "projects are managed by the API",
	"verify-ledger":  "ledger verify proves the books without a gateway",
	"login":          "a browser's",
	"login-callback": "a browser's",
}

// flagNamed is the flag of a parameter: its name, but for few.
func flagNamed(parameter string) string {
	switch parameter {
	case "key_id":
		return "key"
	case "q":
		return "search"
	}
	return strings.ReplaceAll(parameter, "_", "-")
}

func TestEveryFilterHasItsFlag(t *testing.T) {
	t.Parallel()
	root := &cobra.Command{Use: "llm-gateway"}
	root.AddCommand(cli.Commands()...)
	checked, excused := 0, 0
	for _, op := range documentedOperations(t) {
		if op.method != http.MethodGet || !slices.ContainsFunc(op.Parameters, isOfQuery) {
			continue
		}
		path, known := commandOf[op.OperationID]
		if !known {
			if withoutCommand[op.OperationID] == "" {
				t.Errorf("no command is known that asks %s, which has parameters", op.OperationID)
			}
			excused++
			continue
		}
		checked++
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: no command %q: %v", op.OperationID, path, err)
			continue
		}
		for _, p := range op.Parameters {
			if isOfQuery(p) && cmd.Flags().Lookup(flagNamed(p.Name)) == nil {
				t.Errorf("%s has no flag --%s for the parameter %s of %s", path, flagNamed(p.Name), p.Name, op.OperationID)
			}
		}
	}
	if checked != len(commandOf) || excused != len(withoutCommand) {
		t.Errorf("of %d and %d routes there are %d and %d", len(commandOf), len(withoutCommand), checked, excused)
	}
}

func isOfQuery(p documentedParameter) bool { return p.In == "query" }

// Values of a flag that is repeated all arrive.
func TestCommandLineSelectsBySeveralValues(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newTerminal(t, g, "default")
	one, two, three := request("r1", "key_a", day(1, 0), 1e9), request("r2", "key_b", day(1, 0), 2e9), request("r3", "key_c", day(1, 0), 4e9)
	two.Model, three.Model = "m2", "m3"
	g.post(t, one, two, three)
	c.shows(words("usage --key key_a --key key_b"), "$3.00")
	c.shows(words("usage --model m2 --model m3 --key key_b --key key_c"), "$6.00")
	if out := c.shows(words("audit list --model m2 --model m3 --order asc"), "r2", "r3"); strings.Contains(out, "r1") {
		t.Errorf("lists what is not selected:\n%s", out)
	}
	c.refused(words("usage --order asc --order desc --sort weather"), "query.sort")
}
