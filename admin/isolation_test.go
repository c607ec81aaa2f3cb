package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// world is a gateway with two organizations, to which somebody of each role in
// the first one comes, and sees whether there is a way to the second.
type world struct {
	t      *testing.T
	g      *testGateway
	own    belongings
	others belongings
	// findings are the holes.
	findings []string
}

// newWorld returns a world whose books are in the store.
func newWorld(t *testing.T, store billing.Store) *world {
	t.Helper()
	g, _ := signOn(t)
	g.store = store
	g.purchaser = billing.DevelopmentPurchaser{Ledger: store}
	w := &world{t: t, g: g}
	w.others = w.furnish(theOther, marker, 777_777_770_000_000)
	return w
}

func (w *world) find(format string, args ...any) {
	w.findings = append(w.findings, fmt.Sprintf(format, args...))
}

// try is one request.
type try struct {
	op     documented
	role   billing.Role
	path   belongings // whose ids are in the path
	query  url.Values
	header map[string]string
	body   map[string]any
	// what is the other organization's in it, "" for nothing.
	what string
}

func (x try) String() string {
	return fmt.Sprintf("%s %s %s as %s with %s", x.op.OperationID, x.op.method, x.op.path, x.role, x.what)
}

// explore tries every operation, as somebody of each role in an organization that
// has one of everything; as the operator, it acts on that organization.
func (w *world) explore(operations []documented, roles ...billing.Role) {
	w.t.Helper()
	schemas := documentedSchemas(w.t)
	api := New(w.g)
	operations = slices.Clone(operations)
	slices.SortStableFunc(operations, func(x, y documented) int { return cmp.Compare(x.turn(), y.turn()) })
	for _, role := range roles {
		w.own = w.furnish("org_own_"+string(role), "of-our-own", 5e9)
		credential := testToken
		if role != billing.RoleOperator {
			credential = w.join(role)
		}
		for _, op := range operations {
			for _, x := range w.tries(op, schemas) {
				x.role = role
				if role == billing.RoleOperator && x.isOperators(w.others) {
					continue // they may
				}
				status, body := w.send(api, x, credential)
				w.judge(x, status, body)
			}
		}
	}
}

// turn is when an operation is tried: what ends something comes late, else there
// is nothing left to try, and what makes something of the other's name at the
// end, since that is the caller's own from then on.
func (op documented) turn() int {
	switch {
	case makesItsOwn[op.OperationID]:
		return 2
	case op.method == http.MethodDelete, strings.HasSuffix(op.path, "/revoke"):
		return 1
	}
	return 0
}

// isOperators tells whether the operator does this to the other organization on
// purpose.
func (x try) isOperators(others belongings) bool {
	return x.header[organizationHeader] != "" || ofTheOperator[x.op.OperationID] && (x.path == others || x.what != "")
}

// goesOnElsewhere tells whether a list or a file is to go on after what is in
// another organization's. Entries have the same ids in each.
func (x try) goesOnElsewhere() bool {
	after := x.query.Get("after")
	return x.query.Has("cursor") || after != "" && !strings.HasPrefix(after, "ent_")
}

// join makes somebody a member of the first organization and returns their
// token.
func (w *world) join(role billing.Role) string {
	email := "caller-" + string(role) + "@example.com"
	accept(w.t, w.g, invite(w.t, w.g, w.own.org, email, role), email)
	return w.g.issuer.Token(map[string]any{"sub": email, "email": email})
}

// tries are the requests of an operation that are worth a try. What is not known
// is a finding.
func (w *world) tries(op documented, schemas map[string]documentedSchema) []try {
	if op.Roles == nil {
		if !ofEveryone[op.OperationID] {
			w.find("operation %s needs no role, and is not known to be of everyone", op.OperationID)
		}
		return nil
	}
	if ofTheOperator[op.OperationID] && len(op.Roles) > 1 {
		w.find("operation %s is of members too", op.OperationID)
	}
	ours := w.body(op, schemas, w.own)
	all := []try{{op: op, path: w.own, body: ours}}
	if strings.Contains(op.path, "{") {
		all = append(all, try{op: op, path: w.others, body: ours, what: "its id in the path"})
	}
	for _, p := range op.Parameters {
		switch p.In {
		case "path":
			if _, known := pathIDs[upTo(op.path, p.Name)]; !known {
				w.find("parameter %s of the path %s is not known", p.Name, op.path)
			}
		case "query":
			values, known := valuesOf(p.Name)
			if !known {
				w.find("parameter %s of the query of %s is not known", p.Name, op.OperationID)
				continue
			}
			of := values(w.others)
			if p.Name == "cursor" {
				of = append(of, w.others.cursorsOf(op.target(w.own))...)
			}
			for _, v := range of {
				all = append(all, try{op: op, path: w.own, body: ours, query: url.Values{p.Name: {v}}, what: p.Name + "=" + v})
			}
		case "header":
			value, known := headerIDs[p.Name]
			if !known {
				w.find("header %s of %s is not known", p.Name, op.OperationID)
				continue
			}
			all = append(all, try{op: op, path: w.own, body: ours, header: map[string]string{p.Name: value(w.others)}, what: "header " + p.Name})
		}
	}
	for _, name := range fieldsOf(op, schemas) {
		value, known := bodyIDs[name]
		if !known {
			w.find("field %s of the body of %s is not known", name, op.OperationID)
			continue
		}
		body := maps.Clone(ours)
		body[name] = value(w.others)
		all = append(all, try{op: op, path: w.own, body: body, what: "field " + name})
	}
	return all
}

// target is the operation's path with somebody's ids.
func (op documented) target(of belongings) string {
	for prefix, id := range pathIDs {
		if rest, ok := strings.CutPrefix(op.path, prefix); ok {
			before, _, _ := strings.Cut(prefix, "{")
			return before + url.PathEscape(id(of)) + rest
		}
	}
	return op.path
}

// upTo is a path up to the end of one of its parameters.
func upTo(path, parameter string) string {
	before, _, _ := strings.Cut(path, "{"+parameter+"}")
	return before + "{" + parameter + "}"
}

// body has the fields that are required.
func (w *world) body(op documented, schemas map[string]documentedSchema, of belongings) map[string]any {
	if op.RequestBody == nil {
		return nil
	}
	body := make(map[string]any)
	for _, name := range bodySchema(op, schemas).Required {
		if value, known := bodyIDs[name]; known {
			body[name] = value(of)
		}
	}
	return body
}

func fieldsOf(op documented, schemas map[string]documentedSchema) []string {
	if op.RequestBody == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(bodySchema(op, schemas).Properties))
}

func bodySchema(op documented, schemas map[string]documentedSchema) documentedSchema {
	s := op.RequestBody.Content["application/json"].Schema
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return schemas[name]
	}
	return s
}

func documentedSchemas(t *testing.T) map[string]documentedSchema {
	t.Helper()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct{ Schemas map[string]documentedSchema }
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	return d.Components.Schemas
}

func (w *world) send(api http.Handler, x try, credential string) (status int, body string) {
	w.t.Helper()
	target := x.op.target(x.path)
	if x.query != nil {
		target += "?" + x.query.Encode()
	}
	var text []byte
	if x.body != nil {
		var err error
		if text, err = json.Marshal(x.body); err != nil {
			w.t.Fatal(err)
		}
	}
	r := httptest.NewRequestWithContext(w.t.Context(), x.op.method, target, strings.NewReader(string(text)))
	r.Header.Set("Authorization", "Bearer "+credential)
	r.Header.Set("Content-Type", "application/json")
	if x.role == billing.RoleOperator {
		r.Header.Set(organizationHeader, w.own.org)
	}
	for name, value := range x.header {
		r.Header.Set(name, value)
	}
	answer := httptest.NewRecorder()
	api.ServeHTTP(answer, r)
	return answer.Code, answer.Body.String()
}

// judge looks for what must not be in an answer.
func (w *world) judge(x try, status int, body string) {
	if x.role == billing.RoleOperator && ofTheOperator[x.op.OperationID] {
		return // who may see all
	}
	switch {
	case !slices.Contains(x.op.Roles, x.role) && status != http.StatusForbidden && status != http.StatusNotFound:
		w.find("%s: status %d, but the role may not", x, status)
	case status >= http.StatusInternalServerError:
		w.find("%s: status %d: %s", x, status, body)
	case x.path == w.others && !makesItsOwn[x.op.OperationID] || x.header[organizationHeader] != "":
		if !slices.Contains([]int{http.StatusForbidden, http.StatusNotFound, http.StatusUnprocessableEntity}, status) {
			w.find("%s: status %d: %s", x, status, body)
		}
	case x.goesOnElsewhere() && slices.Contains(x.op.Roles, x.role) && status != http.StatusUnprocessableEntity:
		w.find("%s: status %d, but a list goes on in itself alone: %s", x, status, body)
	case x.what == "" && x.op.method == http.MethodGet && slices.Contains(x.op.Roles, x.role) && !ofTheOperator[x.op.OperationID] &&
		x.role != billing.RoleDeveloper && status != http.StatusOK:
		w.find("%s: status %d, so nothing is tested: %s", x, status, body)
	}
	for _, secret := range []string{marker, markedAmount, strings.ReplaceAll(markedAmount, ".", "")} {
		if strings.Contains(body, secret) {
			w.find("%s: the answer has %s: %s", x, secret, body)
		}
	}
}

// inventory is all that the other organization has.
func (w *world) inventory() string {
	c := newClient(w.t, w.g).with(organizationHeader, w.others.org)
	var all strings.Builder
	for _, path := range []string{
		"/v1/account", "/v1/keys", "/v1/members", "/v1/projects", "/v1/budget", "/v1/usage", "/v1/audit", "/v1/billing/transactions",
	} {
		all.WriteString(c.do(http.MethodGet, path, "").want(w.t, http.StatusOK).body)
	}
	return all.String()
}

// isolates finds no way from one organization to another.
func isolates(t *testing.T, store billing.Store) {
	w := newWorld(t, store)
	before := w.inventory()
	for _, secret := range []string{marker, markedAmount} {
		if !strings.Contains(before, secret) {
			t.Fatalf("the other organization has no %s that could be found", secret)
		}
	}
	w.explore(documentedOperations(t), everybody...)
	for _, hole := range w.findings {
		t.Error(hole)
	}
	if diff := gocmp.Diff(before, w.inventory()); diff != "" {
		t.Errorf("the other organization has changed:\n%s", diff)
	}
}

func TestOrganizationsAreIsolated(t *testing.T) {
	t.Parallel()
	isolates(t, newGateway(t).store)
}

// leaky is a store with a hole: there it takes the other organization for the
// caller's.
type leaky struct {
	billing.Store

	hole string
}

func (l leaky) whose(hole, org string) string {
	if l.hole == hole {
		return theOther
	}
	return org
}

func (l leaky) Key(ctx context.Context, org, id string) (billing.Key, error) {
	k, err := l.Store.Key(ctx, org, id)
	if errors.Is(err, billing.ErrNotFound) {
		return l.Store.Key(ctx, l.whose("key", org), id)
	}
	return k, err
}

func (l leaky) UpdateKey(ctx context.Context, org, id string, change func(*billing.Key) error) (billing.Key, error) {
	k, err := l.Store.UpdateKey(ctx, org, id, change)
	if errors.Is(err, billing.ErrNotFound) {
		return l.Store.UpdateKey(ctx, l.whose("change of a key", org), id, change)
	}
	return k, err
}

func (l leaky) Request(ctx context.Context, org, id string) (billing.Settlement, error) {
	r, err := l.Store.Request(ctx, org, id)
	if errors.Is(err, billing.ErrNotFound) {
		return l.Store.Request(ctx, l.whose("request", org), id)
	}
	return r, err
}

func (l leaky) Requests(ctx context.Context, org string, f billing.Filter, page billing.Page) ([]billing.Settlement, error) {
	if len(f.KeyIDs) > 0 {
		org = l.whose("requests of a key", org)
	}
	if f.Detail.RequestID != "" {
		org = l.whose("row that a file goes on after", org)
	}
	return l.Store.Requests(ctx, org, f, page)
}

func (l leaky) ListChanges(ctx context.Context, org string, f billing.ChangeFilter, page billing.Page) ([]billing.ChangeRecord, error) {
	if f.ID != "" {
		org = l.whose("change that a file goes on after", org)
	}
	if page.After != "" && l.hole == "change that a file goes on after" {
		page.After = ""
	}
	return l.Store.ListChanges(ctx, org, f, page)
}

func (l leaky) ListMembers(ctx context.Context, org string, f billing.MemberFilter, page billing.Page) ([]billing.Member, error) {
	return l.Store.ListMembers(ctx, l.whose("list of members", org), f, page)
}

func (l leaky) Project(ctx context.Context, org, name string) (billing.Project, error) {
	p, err := l.Store.Project(ctx, org, name)
	if errors.Is(err, billing.ErrNotFound) {
		return l.Store.Project(ctx, l.whose("project", org), name)
	}
	return p, err
}

func (l leaky) Account(ctx context.Context, org string) (billing.Account, error) {
	return l.Store.Account(ctx, l.whose("account", org))
}

func TestHolesInTheIsolationAreFound(t *testing.T) {
	t.Parallel()
	for hole, operation := range map[string]string{
		"":                                 "",
		"key":                              "get-key ",
		"change of a key":                  "revoke-key ",
		"request":                          "get-audit ",
		"requests of a key":                "list-audit ",
		"list of members":                  "list-members ",
		"row that a file goes on after":    "export-audit ",
		"change that a file goes on after": "export-changes ",
		"project":                          "get-project ",
		"account":                          "get-account ",
	} {
		t.Run(hole, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, leaky{newGateway(t).store, hole})
			w.explore(documentedOperations(t), billing.RoleAdmin)
			found := strings.Join(w.findings, "\n")
			if (hole == "") != (found == "") || !strings.Contains(found, operation) {
				t.Errorf("found:\n%s", found)
			}
		})
	}
}

func TestWhatTheIsolationTestDoesNotKnowFailsIt(t *testing.T) {
	t.Parallel()
	var one documented
	for _, op := range documentedOperations(t) {
		if op.OperationID == "create-key" {
			one = op
		}
	}
	for name, test := range map[string]struct {
		change func(*documented)
		want   string
	}{
		"parameter": {func(op *documented) {
			op.Parameters = append(slices.Clone(op.Parameters), documentedParameter{Name: "team_id", In: "query"})
		}, "parameter team_id of the query"},
		"header": {func(op *documented) {
			op.Parameters = append(slices.Clone(op.Parameters), documentedParameter{Name: "X-Team", In: "header"})
		}, "header X-Team"},
		"path": {func(op *documented) {
			op.path, op.Parameters = "/v1/teams/{id}", []documentedParameter{{Name: "id", In: "path"}}
		}, "parameter id of the path /v1/teams/{id}"},
		"second part of a path": {func(op *documented) {
			op.path, op.Parameters = "/v1/keys/{id}/notes/{note}", []documentedParameter{{Name: "id", In: "path"}, {Name: "note", In: "path"}}
		}, "parameter note of the path"},
		"operation of everyone":      {func(op *documented) { op.OperationID, op.Roles = "list-teams", nil }, "list-teams needs no role"},
		"operator's, of members too": {func(op *documented) { op.OperationID = "list-nodes" }, "list-nodes is of members too"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, newGateway(t).store)
			w.own = w.furnish("org_own", "of-our-own", 5e9)
			op := one
			test.change(&op)
			w.tries(op, documentedSchemas(t))
			if found := strings.Join(w.findings, "\n"); !strings.Contains(found, test.want) {
				t.Errorf("found %q, want %q", found, test.want)
			}
		})
	}
	w := newWorld(t, newGateway(t).store)
	schemas := maps.Clone(documentedSchemas(t))
	for name, s := range schemas {
		s.Properties = maps.Clone(s.Properties)
		if s.Properties == nil {
			s.Properties = make(map[string]documentedSchema)
		}
		s.Properties["team_id"] = documentedSchema{}
		schemas[name] = s
	}
	w.tries(one, schemas)
	if found := strings.Join(w.findings, "\n"); !strings.Contains(found, "field team_id of the body of create-key") {
		t.Errorf("found %q", found)
	}
}
