package chaos

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestGuaranteesNameTestsThatExist: a proof that is gone proves nothing.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	document, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := declaredTests(t, root)
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)(?:/([a-z]+))?`").FindAllStringSubmatch(string(document), -1)
	if len(named) == 0 {
		t.Fatal("no test is named")
	}
	mentioned := make(map[string]bool)
	for _, match := range named {
		test, name := match[1], match[2]
		if !declared[test] {
			t.Errorf("%s does not exist", test)
		}
		if test == "TestChaos" {
			mentioned[name] = true
			if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
				t.Errorf("there is no scenario %s", name)
			}
		}
	}
	for _, s := range scenarios {
		if !mentioned[s.name] {
			t.Errorf("scenario %s proves nothing", s.name)
		}
	}
}

// TestFiguresAreOfARunThatHeld: the figures show every scenario, as kept.
func TestFiguresAreOfARunThatHeld(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile(filepath.Join("..", "..", "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios {
		if !strings.Contains(string(document), "| "+s.name+" | ok |") {
			t.Errorf("the figures do not show that scenario %s held", s.name)
		}
	}
	if strings.Contains(string(document), "SKIPPED") {
		t.Error("something was skipped")
	}
}

// declaredTests are the names of all tests of both modules.
func declaredTests(t *testing.T, root string) map[string]bool {
	t.Helper()
	tests := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declaration.FindAllStringSubmatch(string(source), -1) {
			tests[match[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
