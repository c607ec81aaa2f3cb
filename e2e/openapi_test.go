package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
)

// openAPIPath is where gateways serve the document that describes them.
const openAPIPath = "/v1/openapi.json"

// management is the document of this run. Every answer that client receives
// from the management API is held against it.
var management = &specification{tried: map[string]bool{}}

// client is what this suite sends its own requests with.
var client = &http.Client{Transport: management}

// specification is a transport that refuses answers of the management API that
// are not as its OpenAPI document says, and remembers which operations worked.
type specification struct {
	mu        sync.Mutex
	text      []byte // the document
	validator validator.Validator
	// operations has the document's operations as its patterns.
	operations *http.ServeMux
	// tried has the operations: true if one has succeeded.
	tried map[string]bool
	// faults are the answers that were refused. A test that polls may have
	// dropped the error.
	faults []string
}

func TestMain(m *testing.M) {
	runsAll := !slices.ContainsFunc(os.Args, func(arg string) bool {
		return strings.HasPrefix(arg, "-test.run") || strings.HasPrefix(arg, "-test.skip") || strings.HasPrefix(arg, "-test.list")
	})
	code := m.Run()
	if err := management.verdict(runsAll); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// verdict is what was wrong with the answers of this run, or, if it was of the
// whole suite, with the suite.
func (s *specification) verdict(runsAll bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, fault := range s.faults {
		errs = append(errs, errors.New(fault))
	}
	for _, operation := range slices.Sorted(maps.Keys(s.tried)) {
		if runsAll && !s.tried[operation] {
			errs = append(errs, fmt.Errorf("no test has seen %s succeed", operation))
		}
	}
	return errors.Join(errs...)
}

func (s *specification) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.operationOf(req) != "" {
		var err error
		if req, err = rereadable(req); err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := s.check(req, res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// rereadable returns the request with a body that can be read again.
func rereadable(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.GetBody != nil {
		return req, nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body.Close()
	req = req.Clone(req.Context())
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, err = req.GetBody()
	return req, err
}

// check returns an error unless an answer of the management API is as
// documented. It leaves other answers alone.
func (s *specification) check(req *http.Request, res *http.Response) error {
	if req.URL.Path == openAPIPath && res.StatusCode == http.StatusOK {
		if err := s.load(res); err != nil {
			return err
		}
	}
	operation := s.operationOf(req)
	if operation == "" {
		return nil
	}
	body, err := readJSON(res)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.validate(req, res, body); err != nil {
		err = fmt.Errorf("%s: %w:\n%.500s", operation, err, body)
		s.faults = append(s.faults, err.Error())
		return err
	}
	if res.StatusCode < http.StatusBadRequest {
		s.tried[operation] = true
	}
	return nil
}

// load takes the document that the first gateway serves. All have the same.
func (s *specification) load(res *http.Response) error {
	text, err := readJSON(res)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text != nil {
		if !bytes.Equal(s.text, text) {
			return errors.New("gateways serve documents that differ")
		}
		return nil
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return fmt.Errorf("parse document: %w", err)
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return fmt.Errorf("understand document: %w", err)
	}
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		return fmt.Errorf("make a validator: %w", errors.Join(errs...))
	}
	s.operations = http.NewServeMux()
	for route, item := range model.Model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			operation := strings.ToUpper(method) + " " + route
			s.operations.Handle(operation, http.NotFoundHandler())
			s.tried[operation] = false
		}
	}
	s.text, s.validator = text, v
	return nil
}

// operationOf is the operation that a request is for, or empty.
func (s *specification) operationOf(req *http.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.operations == nil || req.Method == http.MethodHead || path.Clean(req.URL.Path) != req.URL.Path {
		return ""
	}
	_, operation := s.operations.Handler(req)
	return operation
}

// validate holds an answer against the document, and the request too if it was
// accepted.
func (s *specification) validate(req *http.Request, res *http.Response, body []byte) error {
	if isJSON(res) && !json.Valid(body) {
		return errors.New("the answer is not JSON") // the validator lets an empty one pass
	}
	received := *res
	received.Body = io.NopCloser(bytes.NewReader(body)) // of text only the type is documented
	if ok, errs := s.validator.ValidateHttpResponse(req, &received); !ok {
		return fmt.Errorf("the answer, %s, is not as documented: %v", res.Status, errs)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return nil
	}
	sent := req.Clone(req.Context())
	if req.GetBody != nil {
		var err error
		if sent.Body, err = req.GetBody(); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
	}
	if ok, errs := s.validator.ValidateHttpRequest(sent); !ok {
		return fmt.Errorf("the request was accepted, but is not as documented: %v", errs)
	}
	return nil
}

// readJSON reads a body whole, if it is JSON that is not compressed, and leaves
// it to be read again.
func readJSON(res *http.Response) ([]byte, error) {
	if !isJSON(res) {
		return nil, nil
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

func isJSON(res *http.Response) bool {
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && kind == "application/json" && res.Header.Get("Content-Encoding") == ""
}

// TestSpecificationRefusesOtherAnswers plants answers that the document does
// not describe.
func TestSpecificationRefusesOtherAnswers(t *testing.T) {
	t.Parallel()
	const document = `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{
		"/v1/things/{id}":{
			"get":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],"responses":{
				"200":{"description":"","content":{"application/json":{"schema":{"type":"object","required":["id"],"additionalProperties":false,
					"properties":{"id":{"type":"string"}}}}}}}},
			"delete":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],"responses":{"204":{"description":""}}}}}}`
	answers := map[string]struct {
		status int
		body   string
		ok     bool
	}{
		"good":             {http.StatusOK, `{"id":"x"}`, true},
		"another-type":     {http.StatusOK, `{"id":7}`, false},
		"lacks-a-field":    {http.StatusOK, `{}`, false},
		"one-field-more":   {http.StatusOK, `{"id":"x","secret":"y"}`, false},
		"another-status":   {http.StatusTeapot, `{"id":"x"}`, false},
		"an-empty-body":    {http.StatusOK, ``, false},
		"half-of-the-body": {http.StatusOK, `{"id":`, false},
	}
	server := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if r.URL.Path == openAPIPath {
			io.WriteString(rw, document)
			return
		}
		a := answers[path.Base(r.URL.Path)]
		rw.WriteHeader(a.status)
		io.WriteString(rw, a.body)
	}))
	s := &specification{tried: map[string]bool{}}
	get := func(path string) error {
		res, err := (&http.Client{Transport: s}).Get(server + path)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := get(openAPIPath); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for name, a := range answers {
		err := get("/v1/things/" + name)
		if (err == nil) != a.ok {
			t.Errorf("%s: %v", name, err)
		}
		if !a.ok {
			refused++
		}
	}
	if len(s.faults) != refused {
		t.Errorf("remembers %d faults, want %d", len(s.faults), refused)
	}
	s.faults = nil
	if err := s.verdict(true); err == nil || err.Error() != "no test has seen DELETE /v1/things/{id} succeed" {
		t.Errorf("the verdict on the operation that was not tried is: %v", err)
	}
}
