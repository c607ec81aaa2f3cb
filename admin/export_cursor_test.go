package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// A file goes on after its own rows alone: those of the organization, and of the
// same filters.
func TestExportGoesOnInItselfAlone(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	foreign := request("foreign", "key_a", day(1, 12), 5)
	foreign.OrganizationID = otherOrg
	streamed := request("streamed", "key_a", day(1, 12), 5)
	streamed.Provider = "anthropic"
	g.post(t, request("own", "key_a", day(1, 12), 5), streamed, foreign)
	c.createKey(`{"name":"a"}`)
	changes := c.changes("").Data
	elsewhere := c.with(organizationHeader, otherOrg)
	elsewhere.createKey(`{"name":"b"}`)
	const audit, changed, ledger = "/v1/audit/export", "/v1/changes/export", "/v1/billing/transactions/export"
	for _, test := range []struct {
		target, query, after string
		status               int
	}{
		{audit, "", "own", http.StatusOK},
		{audit, "", "foreign", http.StatusUnprocessableEntity},
		{audit, "", "nothing", http.StatusUnprocessableEntity},
		{audit, "", changes[0].ID, http.StatusUnprocessableEntity},
		{audit, "&provider=anthropic", "streamed", http.StatusOK},
		{audit, "&provider=openai", "streamed", http.StatusUnprocessableEntity},
		{audit, "&from=2026-11-02", "own", http.StatusUnprocessableEntity},
		{audit, "&order=asc", "own", http.StatusOK},
		{audit, "&request_id=own", "own", http.StatusOK},
		{audit, "&request_id=own", "streamed", http.StatusUnprocessableEntity},
		{changed, "", changes[0].ID, http.StatusOK},
		{changed, "&action=key.create", changes[0].ID, http.StatusOK},
		{changed, "&action=key.revoke", changes[0].ID, http.StatusUnprocessableEntity},
		{changed, "", elsewhere.changes("").Data[0].ID, http.StatusUnprocessableEntity},
		{changed, "&scope=gateway", changes[0].ID, http.StatusUnprocessableEntity},
		{changed, "", "own", http.StatusUnprocessableEntity},
		{ledger, "", "ent_0000000000000002", http.StatusOK},
		{ledger, "&type=usage_debit", "ent_0000000000000002", http.StatusOK},
		{ledger, "&type=purchase", "ent_0000000000000002", http.StatusUnprocessableEntity},
		{ledger, "", "ent_0000000000000003", http.StatusUnprocessableEntity},
		{ledger, "", "ent_9223372036854775807", http.StatusUnprocessableEntity},
		{ledger, "", "own", http.StatusUnprocessableEntity},
	} {
		a := c.do(http.MethodGet, test.target+"?format=json&after="+test.after+test.query, "")
		if a.status != test.status || a.status != http.StatusOK && !strings.Contains(a.body, `"location":"query.after"`) {
			t.Errorf("%s after %s%s: status %d, want %d: %s", test.target, test.after, test.query, a.status, test.status, a.body)
		}
	}
}

// panickingStore panics in the first page of an export.
type panickingStore struct{ billing.Store }

func (panickingStore) Requests(context.Context, string, billing.Filter, billing.Page) ([]billing.Settlement, error) {
	panic("the store has a bug")
}

func TestSlotsOutliveAStoreThatPanics(t *testing.T) {
	t.Parallel()
	c := newClient(t, &testGateway{store: panickingStore{newGateway(t).store}, token: testToken})
	for range maxExports {
		c.do(http.MethodGet, "/v1/audit/export", "").want(t, http.StatusInternalServerError)
	}
	c.do(http.MethodGet, "/v1/changes/export?format=json", "").want(t, http.StatusOK)
	c.do(http.MethodGet, "/v1/audit/export?after=x", "").want(t, http.StatusInternalServerError)
	c.do(http.MethodGet, "/v1/changes/export?after=x", "").want(t, http.StatusUnprocessableEntity)
	c.do(http.MethodGet, "/v1/changes/export?format=json", "").want(t, http.StatusOK)
}

func TestTooManyExportsSayWhenToTryAgain(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	a := &api{gateway: g}
	for range maxExports {
		if !a.exports.begin("org") {
			t.Fatal("too few exports")
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/v1/audit/export", nil)
	w := httptest.NewRecorder()
	_, err := export(context.WithValue(r.Context(), callerKey{}, callerIn("org")), a, &ExportOptions{}, exported[int, int]{})
	a.fail(w, r, err)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "5" {
		t.Errorf("status %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
}

func callerIn(org string) caller {
	var c caller
	c.account.Organization.ID = org
	return c
}

func TestEveryOperationSaysWhenToTryAgain(t *testing.T) {
	t.Parallel()
	for _, op := range documentedOperations(t) {
		if open := op.path == openAPIPath || op.path == webhookPath; open == (op.Responses["429"].Headers["Retry-After"] != nil) {
			t.Errorf("%s documents for 429: %+v", op.OperationID, op.Responses["429"])
		}
	}
}
