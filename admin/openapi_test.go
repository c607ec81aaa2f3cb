package admin

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOpenAPIDocumentIsValid(t *testing.T) {
	t.Parallel()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	specification.mu.Lock()
	defer specification.mu.Unlock()
	if ok, errs := specification.validator.ValidateDocument(); !ok {
		t.Errorf("not a valid document: %v", errs)
	}
	if !strings.Contains(string(specification.text), `"openapi":"3.1.`) {
		t.Error("not an OpenAPI 3.1 document")
	}
}

func TestOpenAPIDocumentIsOpenToAll(t *testing.T) {
	t.Parallel()
	c := newClient(t, &testGateway{})
	c.header = http.Header{}
	c.do(http.MethodGet, openAPIPath, "").want(t, http.StatusOK, `"/v1/keys/{id}/revoke"`, `"operatorToken"`)
}

func TestOpenAPIDocumentNamesNoUnusedSchema(t *testing.T) {
	t.Parallel()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Components.Schemas) == 0 {
		t.Fatal("no schemas")
	}
	for name := range d.Components.Schemas {
		if !strings.Contains(string(specification.text), `"#/components/schemas/`+name+`"`) {
			t.Errorf("nothing refers to schema %s", name)
		}
	}
}

// checkFieldNames refuses all other names.
func TestFieldsHaveLowerCaseNames(t *testing.T) {
	t.Parallel()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct {
			Schemas map[string]struct{ Properties map[string]json.RawMessage }
		}
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	fields := 0
	for schema, s := range d.Components.Schemas {
		for name := range s.Properties {
			fields++
			if strings.ContainsFunc(name, notInFieldName) {
				t.Errorf("field %s of %s", name, schema)
			}
		}
	}
	if fields == 0 {
		t.Error("no fields")
	}
}

func TestReferenceAndOpenAPIDocumentHaveTheSameRoutes(t *testing.T) {
	t.Parallel()
	reference, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var described []string
	for _, m := range regexp.MustCompile("(?m)^#+ `([A-Z]+ /v1/[^`]*)`").FindAllSubmatch(reference, -1) {
		described = append(described, string(m[1]))
	}
	slices.Sort(described)
	if diff := cmp.Diff(documentedRoutes(t), described); diff != "" {
		t.Errorf("routes in the OpenAPI document (-) and in docs/api.md (+) differ:\n%s", diff)
	}
}

// documentedRoutes are the routes of the OpenAPI document, sorted.
func documentedRoutes(t *testing.T) []string {
	t.Helper()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	var routes []string
	for path, methods := range d.Paths {
		for method := range methods {
			routes = append(routes, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	return routes
}
