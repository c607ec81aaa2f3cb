package admin

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

var update = flag.Bool("update", false, "write the table of roles in docs/access.md anew")

// documented is an operation of the OpenAPI document.
type documented struct {
	method, path string

	OperationID string                       `json:"operationId"`
	Roles       []billing.Role               `json:"x-roles"`
	Security    []map[string]json.RawMessage `json:"security"`
	Parameters  []documentedParameter        `json:"parameters"`
	Responses   map[string]struct {
		Headers map[string]any `json:"headers"`
	} `json:"responses"`
	RequestBody *struct {
		Content map[string]struct {
			Schema documentedSchema `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
}

type documentedParameter struct {
	Name     string           `json:"name"`
	In       string           `json:"in"`
	Required bool             `json:"required"`
	Schema   documentedSchema `json:"schema"`
}

type documentedSchema struct {
	Ref        string                      `json:"$ref"`
	Properties map[string]documentedSchema `json:"properties"`
	Items      *documentedSchema           `json:"items"`
	Enum       []any                       `json:"enum"`
	Required   []string                    `json:"required"`
}

// documentedOperations are all, by path and method.
func documentedOperations(t *testing.T) []documented {
	t.Helper()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Paths map[string]map[string]documented
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	var all []documented
	for path, methods := range d.Paths {
		for method, op := range methods {
			op.method, op.path = strings.ToUpper(method), path
			all = append(all, op)
		}
	}
	slices.SortFunc(all, func(x, y documented) int { return strings.Compare(x.path+" "+x.method, y.path+" "+y.method) })
	return all
}

func TestAccessNamesOperations(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, op := range documentedOperations(t) {
		known[op.OperationID] = true
		if op.Roles == nil {
			continue
		}
		if diff := cmp.Diff(rolesOf(op.OperationID), op.Roles); diff != "" {
			t.Errorf("%s (-table +document):\n%s", op.OperationID, diff)
		}
	}
	for name := range access {
		if !known[name] {
			t.Errorf("access has %s, which is no operation", name)
		}
	}
	for name := range isOwnOnly {
		if !known[name] || !slices.Contains(access[name], billing.RoleDeveloper) {
			t.Errorf("isOwnOnly has %s, which is no operation of developers", name)
		}
	}
}

func TestTableOfRolesIsDocumented(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| Route | owner | admin | developer | finance | viewer |\n|---|---|---|---|---|---|\n")
	for _, op := range documentedOperations(t) {
		if op.Roles == nil {
			continue
		}
		fmt.Fprintf(&table, "| `%s %s` |", op.method, op.path)
		for _, role := range members {
			cell := ""
			switch {
			case !slices.Contains(op.Roles, role):
			case role == billing.RoleDeveloper && isOwnOnly[op.OperationID]:
				cell = "own keys"
			default:
				cell = "yes"
			}
			fmt.Fprintf(&table, " %s |", cell)
		}
		table.WriteString("\n")
	}
	const file = "../docs/access.md"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(text), "| Route |")
	if !found {
		t.Fatalf("%s has no table of roles", file)
	}
	got := "| Route |" + after
	if end := strings.Index(got, "\n\n"); end >= 0 {
		got, after = got[:end+1], got[end+1:]
	} else {
		after = ""
	}
	if *update {
		if err := os.WriteFile(file, []byte(before+table.String()+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table.String(), got); diff != "" {
		t.Errorf("the table in %s is another (-want +got): go test ./admin -run TableOfRoles -update\n%s", file, diff)
	}
}

// asRole is a client with a bearer token of a new member's.
func asRole(t *testing.T, g *testGateway, role billing.Role) client {
	t.Helper()
	email := string(role) + "@example.com"
	accept(t, g, invite(t, g, otherOrg, email, role), string(role))
	issuer := g.issuer
	token := issuer.Token(map[string]any{"sub": string(role), "email": email, "email_verified": true})
	return newClient(t, g).with("Authorization", "Bearer "+token)
}

// What a role does not allow is refused before anything else is looked at.
func TestEveryOperationRefusesOtherRoles(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	for _, role := range members {
		c := asRole(t, g, role)
		for _, op := range documentedOperations(t) {
			if op.Roles == nil || slices.Contains(op.Roles, role) {
				continue
			}
			target, body := blind(op)
			c.do(op.method, target, body).want(t, http.StatusForbidden, "your role, "+string(role))
		}
	}
}

// blind is a request of an operation that knows nothing of what there is.
func blind(op documented) (target, body string) {
	target = op.path
	for _, p := range op.Parameters {
		if p.In == "path" {
			target = strings.ReplaceAll(target, "{"+p.Name+"}", "x")
		}
	}
	if op.RequestBody != nil {
		body = "{}"
	}
	return target, body
}
