package caddymodule_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddy-llm-gateway/gateway/admin" // its directive is in the documents
	"github.com/caddy-llm-gateway/gateway/caddymodule"
)

// validate adapts and provisions a Caddyfile as `caddy validate` does, with
// the books in a temporary directory. It is for tests that are not parallel.
func validate(t *testing.T, name, text string) []byte {
	t.Helper()
	t.Setenv("GATEWAY_DATA", t.TempDir())
	t.Setenv("STRIPE_SECRET_KEY", "sk_test_1")
	t.Setenv("STRIPE_WEBHOOK_SECRET", "whsec_1")
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": name})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Errorf("warning: %v", w)
	}
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&c); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestCaddyfileExampleLoadsAndHasEveryOption(t *testing.T) {
	text, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	config := validate(t, "Caddyfile.example", string(text))
	for _, name := range optionNames(reflect.TypeFor[caddymodule.App]()) {
		// What excludes another option is there as a comment.
		commented := regexp.MustCompile(`(?m)^\s*#\t+` + name + ` \S`)
		if !strings.Contains(string(config), `"`+name+`":`) && !commented.Match(text) {
			t.Errorf("Caddyfile.example does not show %s", name)
		}
	}
}

// optionNames are the names in the JSON configuration of a type and of all
// that it contains.
func optionNames(t reflect.Type) []string {
	if t == reflect.TypeFor[json.RawMessage]() {
		return nil // another module's
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		return optionNames(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var names []string
	for field := range t.Fields() {
		if !field.IsExported() {
			continue
		}
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
		names = append(names, optionNames(field.Type)...)
	}
	return names
}

func TestEveryErrorAndMetricIsDocumented(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		source, document string
		name             *regexp.Regexp
	}{
		{"errors.go", "../docs/troubleshooting.md", regexp.MustCompile(`refusal\{.*text: "([^"]+)"`)},
		{"metrics.go", "../docs/observability.md", regexp.MustCompile(`Name: +"([^"]+)"`)},
	} {
		source, err := os.ReadFile(test.source)
		if err != nil {
			t.Fatal(err)
		}
		document, err := os.ReadFile(test.document)
		if err != nil {
			t.Fatal(err)
		}
		names := test.name.FindAllStringSubmatch(string(source), -1)
		if len(names) < 5 {
			t.Fatalf("found only %d names in %s", len(names), test.source)
		}
		for _, match := range names {
			if !strings.Contains(string(document), "| `"+match[1]+"` |") {
				t.Errorf("%s does not have a line for %s", test.document, match[1])
			}
		}
	}
}

// TestDocumentedCaddyfilesLoad loads every Caddyfile in the documents. What is
// not a whole one is a list of the gateway's options.
func TestDocumentedCaddyfilesLoad(t *testing.T) {
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, document := range append(documents, "../README.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```caddyfile\n")[1:] {
			block, _, closed := strings.Cut(block, "```")
			if !closed {
				t.Fatalf("%s: a block does not end", document)
			}
			loaded++
			t.Run(filepath.Base(document), func(t *testing.T) {
				if !strings.HasPrefix(block, "{") {
					block = "{\nllm_gateway {\n" + block + "}\n}\n:8080 {\nllm_gateway\n}\n"
				}
				validate(t, document, string(caddyfile.Format([]byte(block))))
			})
		}
	}
	if loaded < 4 {
		t.Errorf("%d Caddyfiles in the documents, want several", loaded)
	}
}
