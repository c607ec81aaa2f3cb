// Package architecture checks that imports point down: pure packages at the
// bottom, storage beside them, Caddy only on top.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/caddy-llm-gateway/gateway"
	caddy  = "github.com/caddyserver/caddy"
	gjson  = "github.com/tidwall/gjson"
)

// A rule says what the packages of a folder may import. The first rule whose
// folder holds a package decides for it.
type rule struct {
	folder string
	// own are the folders of this module that may be imported.
	own []string
	// foreign are the other modules' packages that may be imported directly;
	// nil allows all.
	foreign []string
	// caddy tells that Caddy may be among the dependencies, however deep.
	caddy bool
	// never are packages that must not be imported directly.
	never []string
}

var rules = []rule{
	{folder: "metering", own: []string{}, foreign: []string{gjson}},
	{folder: "billing", own: []string{"metering", "billing"}},
	// The command line knows the management API by its documents alone.
	{
		folder:  "internal/cli",
		own:     []string{"metering"},
		foreign: []string{"github.com/spf13/cobra", "github.com/dustin/go-humanize"},
	},
	{folder: "internal", own: []string{"metering", "internal"}},
	{
		folder: "caddymodule",
		own:    []string{"metering", "billing", "internal", "caddymodule"},
		caddy:  true,
		never:  []string{"database/sql", "github.com/jackc/pgx/v5", "modernc.org/sqlite"},
	},
	{folder: "admin", own: []string{"metering", "billing", "caddymodule", "admin"}, caddy: true},
	{folder: "cmd", own: []string{"."}, caddy: true},
	{folder: "bench", own: []string{"."}, caddy: true},
	{folder: ".", own: []string{"caddymodule", "admin"}, caddy: true},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range productPackages(t) {
		folder := folderOf(p.ImportPath)
		i := slices.IndexFunc(rules, func(r rule) bool { return within(folder, r.folder) })
		for _, complaint := range rules[i].complaints(p) {
			t.Errorf("%s %s", folder, complaint)
		}
	}
}

func TestRulesSeeViolations(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rule rule
		pkg  goPackage
	}{
		"a layer above":           {rules[1], goPackage{Imports: []string{module + "/caddymodule"}}},
		"an undeclared module":    {rules[0], goPackage{Imports: []string{"github.com/google/uuid"}}},
		"the API from within":     {rules[2], goPackage{Imports: []string{module + "/admin"}}},
		"Caddy at a distance":     {rules[3], goPackage{Deps: []string{caddy + "/v2"}}},
		"SQL in the request path": {rules[4], goPackage{Imports: []string{"database/sql"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if len(tt.rule.complaints(tt.pkg)) == 0 {
				t.Error("not seen")
			}
		})
	}
}

func (r rule) complaints(p goPackage) []string {
	var all []string
	for _, path := range p.Imports {
		switch {
		case slices.Contains(r.never, path):
			all = append(all, "must not import "+path)
		case path == module || strings.HasPrefix(path, module+"/"):
			if !slices.ContainsFunc(r.own, func(own string) bool { return within(folderOf(path), own) }) {
				all = append(all, "must not import "+path)
			}
		case r.foreign != nil && strings.Contains(strings.Split(path, "/")[0], "."):
			if !slices.Contains(r.foreign, path) {
				all = append(all, "must not import "+path)
			}
		}
	}
	for _, path := range p.Deps {
		if !r.caddy && strings.HasPrefix(path, caddy) {
			return append(all, "must not depend on "+path)
		}
	}
	return all
}

// productPackages lists the module's packages, without their tests: those may
// import what they like.
func productPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"/...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("read package list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < len(rules) {
		t.Fatalf("found only %d packages: the list is not the product's", len(all))
	}
	return all
}

func folderOf(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

func within(folder, parent string) bool {
	return parent == "." || folder == parent || strings.HasPrefix(folder, parent+"/")
}
