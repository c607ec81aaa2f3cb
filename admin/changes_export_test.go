package admin

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExportOfChangesHasTheRowsOfTheList(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	hostile := newClient(t, g).with("User-Agent", `=HYPERLINK("http://x","y")`)
	id := hostile.createKey(`{"name":"=1+1"}`).ID
	hostile.do(http.MethodPatch, "/v1/keys/"+id, `{"rate_limit_rpm":5}`).want(t, http.StatusOK)
	all, target := hostile.changes("").Data, serve(t, g)+"/v1/changes/export"

	f := download(t, target, "")
	if f.err != nil || f.status != http.StatusOK || f.rows != "3" {
		t.Fatalf("%d %v, %s rows: %s", f.status, f.err, f.rows, f.body)
	}
	names, rows := records(t, f.body)
	for column, want := range map[string][]string{
		"id":           mapped(all, func(c changeView) string { return c.ID }),
		"action":       {"key.update", "key.create", "organization.create"},
		"actor_name":   {"admin_token", "admin_token", ""},
		"subject_id":   {id, id, "default"},
		"user_agent":   {`'=HYPERLINK("http://x","y")`, `'=HYPERLINK("http://x","y")`, ""},
		"client_ip":    {"", "", ""},
		"before":       {`{"rate_limit_rpm":null}`, "", ""},
		"actor_kind":   {"operator", "operator", "system"},
		"actor_id":     {"", "", ""},
		"subject_kind": {"key", "key", "organization"},
	} {
		if diff := cmp.Diff(want, columnOf(t, names, rows, column)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", column, diff)
		}
	}
	if got := columnOf(t, names, rows, "after")[0]; got != `{"rate_limit_rpm":5}` {
		t.Errorf("after is %s", got)
	}

	var lines []changeView
	for line := range bytes.Lines(download(t, target+"?format=jsonl&after="+all[0].ID, "").body) {
		var c changeView
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, c)
	}
	if diff := cmp.Diff(all[1:], lines); diff != "" {
		t.Errorf("lines after the first row (-want +got):\n%s", diff)
	}
	var array []changeView
	if err := json.Unmarshal(download(t, target+"?format=json&subject_kind=key&action=key.create", "").body, &array); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all[1:2], array); diff != "" {
		t.Errorf("array (-want +got):\n%s", diff)
	}
	if f := download(t, target+"?scope=gateway", ""); f.rows != "0" {
		t.Errorf("the gateway's own: %s rows: %s", f.rows, f.body)
	}
}

func TestColumnsOfExportedChangesAreTheFieldsOfTheList(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	listed := decode[list[map[string]any]](t, c.do(http.MethodGet, "/v1/changes", "").want(t, http.StatusOK))
	var want, got []string
	for name := range listed.Data[0] {
		want = append(want, name)
	}
	for _, column := range changeColumns {
		got = append(got, column.name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-) and columns (+):\n%s", diff)
	}
}

func TestFaultyExportsOfChangesAreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	foreign := c.with(organizationHeader, otherOrg).changes("").Data[0].ID
	for query, location := range map[string]string{
		"after=x": "query.after", "after=" + foreign: "query.after", "format=xlsx": "query.format", "actor=%00": "query.actor", "limit=1": "query.limit",
	} {
		c.do(http.MethodGet, "/v1/changes/export?"+query, "").want(t, http.StatusUnprocessableEntity, `"location":"`+location+`"`)
	}
}
