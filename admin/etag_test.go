package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTagsAreReadAsListsOfStrongAndWeakOnes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sent, want []string
	}{
		"not sent":         {nil, nil},
		"empty":            {[]string{""}, []string{}},
		"one":              {[]string{`"a"`}, []string{`"a"`}},
		"a list":           {[]string{` "a" , W/"b",,"c,d"`}, []string{`"a"`, `W/"b"`, `"c,d"`}},
		"several headers":  {[]string{`"a"`, `"b"`}, []string{`"a"`, `"b"`}},
		"any":              {[]string{" * "}, []string{"*"}},
		"any in a list":    {[]string{`"a", *`}, []string{`"a"`}},
		"without quotes":   {[]string{"a"}, []string{}},
		"half a tag":       {[]string{`"a`}, []string{}},
		"another weakness": {[]string{`w/"a"`}, []string{}},
		"two as one":       {[]string{`"a""b"`}, []string{}},
	} {
		if diff := cmp.Diff(test.want, tagsIn(test.sent)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// editable is something that can be edited, and each way to do so.
type editable struct {
	path  string
	edits []edit
}

type edit struct{ method, path, body string }

func editables(c client) []editable {
	id := c.createKey(`{"name":"a","allowed_models":["b"],"usage_limit_dollars":5,"expires_at":"2999-01-01T00:00:00.123456789+02:00"}`).ID
	c.do(http.MethodPut, "/v1/projects/search", `{"max_dollars":1}`).want(c.t, http.StatusOK)
	key, project := "/v1/keys/"+id, "/v1/projects/search"
	return []editable{
		{"/v1/budget", []edit{{http.MethodPut, "/v1/budget", `{"max_dollars":7}`}}},
		{project, []edit{
			{http.MethodPut, project, `{"soft_dollars":0.5}`},
			{http.MethodDelete, project, ""},
		}},
		{key, []edit{
			{http.MethodPatch, key, `{"name":"b"}`},
			{http.MethodPost, key + "/rotate", ""},
			{http.MethodPost, key + "/revoke", ""},
			{http.MethodDelete, key, ""},
		}},
	}
}

// tag reads the entity tag of what is at a path.
func (c client) tag(path string) string {
	c.t.Helper()
	tag := c.do(http.MethodGet, path, "").want(c.t, http.StatusOK).header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) || !strings.HasSuffix(tag, `"`) {
		c.t.Fatalf("%s: ETag is %q", path, tag)
	}
	return tag
}

func TestEditsOfAnotherVersionAreRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, e := range editables(c) {
		stale := `"stale"`
		for _, edit := range e.edits {
			current := c.tag(e.path)
			for _, other := range []string{stale, "W/" + current, strings.Trim(current, `"`), "", `"` + current, stale + `, W/` + current} {
				c.with(ifMatchHeader, other).do(edit.method, edit.path, edit.body).
					want(t, http.StatusPreconditionFailed, "somebody has changed it since you read it", "read it again")
			}
			if again := c.tag(e.path); again != current {
				t.Errorf("%s %s: was refused, and changed it", edit.method, edit.path)
			}
			a := c.with(ifMatchHeader, stale+", "+current).do(edit.method, edit.path, edit.body)
			if a.status >= 300 {
				t.Fatalf("%s %s: %d %s", edit.method, edit.path, a.status, a.body)
			}
			if edit.method == http.MethodDelete {
				break
			}
			if got := a.header.Get("ETag"); got != c.tag(e.path) || got == current {
				t.Errorf("%s %s: answers ETag %s, before it was %s, now it is %s", edit.method, edit.path, got, current, c.tag(e.path))
			}
			stale = current
		}
	}
}

func TestAnyVersionIsOneThatExists(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	anyOne := c.with(ifMatchHeader, "*")
	anyOne.do(http.MethodPut, "/v1/projects/x", `{"max_dollars":1}`).want(t, http.StatusPreconditionFailed)
	c.do(http.MethodGet, "/v1/projects/x", "").want(t, http.StatusNotFound)
	for _, path := range []string{"/v1/keys/x", "/v1/projects/x"} {
		anyOne.do(http.MethodDelete, path, "").want(t, http.StatusNotFound)
	}
	for _, e := range editables(c) {
		edit := e.edits[0]
		anyOne.do(edit.method, edit.path, edit.body).want(t, http.StatusOK)
	}
}

func TestTagsAreThoseOfTheVersion(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	created := c.do(http.MethodPost, "/v1/keys", `{"name":"a","allowed_models":[],"allowed_ips":["192.0.2.1"],"expires_at":"2999-01-01T00:00:00Z"}`).
		want(t, http.StatusCreated)
	path := "/v1/keys/" + decode[createdKeyView](t, created).ID
	first := c.tag(path)
	if got := created.header.Get("ETag"); got != first {
		t.Errorf("ETag of the new key is %s, then %s", got, first)
	}
	if same := c.do(http.MethodPatch, path, `{"name":"a"}`).header.Get("ETag"); same != first {
		t.Errorf("ETag is %s after a change that changes nothing, before it was %s", same, first)
	}
	c.do(http.MethodPatch, path, `{"name":"b"}`).want(t, http.StatusOK)
	if c.tag(path) == first {
		t.Error("ETag is the same with another name")
	}
	c.do(http.MethodPatch, path, `{"name":"a"}`).want(t, http.StatusOK)
	if again := c.tag(path); again != first {
		t.Errorf("ETag is %s for what had %s", again, first)
	}
	if twin := c.tag("/v1/keys/" + c.createKey(`{"name":"a"}`).ID); twin == first {
		t.Error("two keys have one ETag")
	}
}

func TestKnownVersionsAreNotSentAgain(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, e := range editables(c) {
		tag := c.tag(e.path)
		for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
			a := c.with(ifNoneMatchHeader, known).do(http.MethodGet, e.path, "").want(t, http.StatusNotModified)
			if got := a.header.Get("ETag"); got != tag {
				t.Errorf("%s: ETag of a 304 is %q, want %q", e.path, got, tag)
			}
		}
		for _, other := range []string{`"x"`, "", strings.Trim(tag, `"`)} {
			c.with(ifNoneMatchHeader, other).do(http.MethodGet, e.path, "").want(t, http.StatusOK)
		}
	}
}

// A client that did not get the answer asks again with all that it has sent.
func TestARetriedRotationIsAnsweredForItsOldVersion(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	path := "/v1/keys/" + c.createKey(`{"name":"a"}`).ID
	once := c.with(ifMatchHeader, c.tag(path)).with(idempotencyHeader, "0123456789abcdef")
	first := once.do(http.MethodPost, path+"/rotate", "").want(t, http.StatusOK)
	again := once.do(http.MethodPost, path+"/rotate", "").want(t, http.StatusOK)
	if first.body != again.body || again.header.Get("ETag") != c.tag(path) {
		t.Errorf("first %s, again %s", first.body, again.body)
	}
}

// editsAtOnce lets several admins edit the version of a key that they have all
// read.
func editsAtOnce(t *testing.T, g *testGateway) {
	t.Helper()
	c := newClient(t, g)
	const rounds, admins = 5, 8
	path := "/v1/keys/" + c.createKey(`{"name":"a"}`).ID
	for range rounds {
		mine := c.with(ifMatchHeader, c.tag(path))
		answers := make([]answer, admins)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = mine.do(http.MethodPatch, path, `{"rate_limit_rpm":`+string(rune('1'+i))+`}`) })
		}
		wg.Wait()
		won := 0
		for _, a := range answers {
			switch a.status {
			case http.StatusOK:
				won++
				if a.header.Get("ETag") != c.tag(path) {
					t.Error("the key is not as the winner's answer says")
				}
			case http.StatusPreconditionFailed:
			default:
				t.Errorf("status %d: %s", a.status, a.body)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d edits of one version were made", won, admins)
		}
		c.do(http.MethodPatch, path, `{"rate_limit_rpm":null}`).want(t, http.StatusOK)
	}
	made := decode[list[json.RawMessage]](t, c.do(http.MethodGet, "/v1/changes?action=key.update", "").want(t, http.StatusOK)).Data
	if len(made) != 2*rounds {
		t.Errorf("%d changes are recorded, want %d", len(made), 2*rounds)
	}
}

func TestOneOfTwoAdminsWins(t *testing.T) {
	t.Parallel()
	editsAtOnce(t, newGateway(t))
}

// What is edited has If-Match, and what is read before has ETag.
func TestWhatCanBeEditedHasVersions(t *testing.T) {
	t.Parallel()
	if err := specification.load(); err != nil {
		t.Fatal(err)
	}
	var d struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name string }
			Responses  map[string]struct{ Headers map[string]any }
		}
	}
	if err := json.Unmarshal(specification.text, &d); err != nil {
		t.Fatal(err)
	}
	for path, methods := range d.Paths {
		for method, op := range methods {
			has := func(header string) bool {
				return slices.ContainsFunc(op.Parameters, func(p struct{ Name string }) bool { return p.Name == header })
			}
			edits := method != "get" && method != "post"
			if edits && !has(ifMatchHeader) {
				t.Errorf("%s %s does not take If-Match", method, path)
			}
			if _, tagged := op.Responses["200"].Headers["ETag"]; (method == "patch" || method == "put") && !tagged {
				t.Errorf("%s %s answers no ETag", method, path)
			} else if method == "get" && tagged != has(ifNoneMatchHeader) {
				t.Errorf("%s %s: ETag is %t, If-None-Match is %t", method, path, tagged, !tagged)
			}
		}
	}
}
