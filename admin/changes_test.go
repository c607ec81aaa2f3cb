package admin

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// changeView is a change in tests.
type changeView struct {
	ID          string         `json:"id"`
	ActorKind   string         `json:"actor_kind"`
	ActorName   *string        `json:"actor_name"`
	ClientIP    *string        `json:"client_ip"`
	UserAgent   *string        `json:"user_agent"`
	Action      string         `json:"action"`
	SubjectKind string         `json:"subject_kind"`
	SubjectID   string         `json:"subject_id"`
	Before      map[string]any `json:"before"`
	After       map[string]any `json:"after"`
}

func (c client) changes(query string) list[changeView] {
	c.t.Helper()
	return decode[list[changeView]](c.t, c.do(http.MethodGet, "/v1/changes?"+query, "").want(c.t, http.StatusOK))
}

func actions(changes []changeView) []string {
	return mapped(changes, func(c changeView) string { return c.Action + " " + c.SubjectID })
}

func TestChangesSayWhoChangedWhat(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t)).with("User-Agent", "terraform/1.9")
	c.context = caddyContext(t, "192.0.2.7")
	key := c.createKey(`{"name":"ci","usage_limit_dollars":"9300000.000000001"}`).ID
	c.do(http.MethodPatch, "/v1/keys/"+key, `{"usage_limit_dollars":5,"name":"ci"}`).want(t, http.StatusOK)
	c.do(http.MethodDelete, "/v1/keys/"+key, "").want(t, http.StatusNoContent)
	c.do(http.MethodDelete, "/v1/keys/"+key, "").want(t, http.StatusNoContent)
	c.do(http.MethodPut, "/v1/budget", `{"max_dollars":1}`).want(t, http.StatusOK)
	c.do(http.MethodPut, "/v1/projects/search", `{"max_dollars":1}`).want(t, http.StatusOK)
	c.do(http.MethodPut, "/v1/projects/search", `{"max_dollars":-1}`).want(t, http.StatusUnprocessableEntity)
	c.do(http.MethodDelete, "/v1/projects/search", "").want(t, http.StatusNoContent)
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)

	all := c.changes("").Data
	want := []string{
		"entry.append ent_0000000000000001", "project.delete search", "project.create search", "organization.update default",
		"key.revoke " + key, "key.update " + key, "key.create " + key, "organization.create default",
	}
	if diff := cmp.Diff(want, actions(all)); diff != "" {
		t.Fatalf("changes (-want +got):\n%s", diff)
	}
	name, address, agent := "admin_token", "192.0.2.7", "terraform/1.9"
	update := all[5]
	update.ID = ""
	if diff := cmp.Diff(changeView{
		ActorKind: "operator", ActorName: &name, ClientIP: &address, UserAgent: &agent,
		Action: "key.update", SubjectKind: "key", SubjectID: key,
		Before: map[string]any{"usage_limit_nanos": 9300000000000001.0}, After: map[string]any{"usage_limit_nanos": 5e9},
	}, update); diff != "" {
		t.Errorf("change (-want +got):\n%s", diff)
	}
	c.do(http.MethodGet, "/v1/changes?action=key.update", "").want(t, http.StatusOK, `"before":{"usage_limit_nanos":9300000000000001}`)
	if first := all[len(all)-1]; first.ActorKind != "system" || first.ActorName != nil || first.Before != nil || first.After == nil {
		t.Errorf("first change: %+v", first)
	}
}

func TestChangesAreFilteredAndPaged(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	a, b := c.createKey(`{"name":"a"}`).ID, c.createKey(`{"name":"b"}`).ID
	c.do(http.MethodPatch, "/v1/keys/"+a, `{"name":"c"}`).want(t, http.StatusOK)
	for query, want := range map[string][]string{
		"subject_id=" + a:                           {"key.update " + a, "key.create " + a},
		"subject_id=" + b + "&subject_kind=key":     {"key.create " + b},
		"subject_id=" + b + "&subject_kind=project": {},
		"action=key.update":                         {"key.update " + a},
		"actor=admin_token&action=key.create":       {"key.create " + b, "key.create " + a},
		"actor=nobody":                              {},
		"to=2001-01-01":                             {},
		"from=2999-01-01":                           {},
		"scope=gateway":                             {},
		"scope=organization&subject_kind=organization&from=2001-01-01&to=2999-01-01": {"organization.create default"},
	} {
		if diff := cmp.Diff(want, actions(c.changes(query).Data)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	var got []string
	for cursor := ""; ; {
		page := c.changes("limit=2" + cursor)
		got = append(got, actions(page.Data)...)
		if page.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *page.NextCursor
		c.createKey(`{"name":"new"}`) // what is new does not move a page
	}
	want := []string{"key.update " + a, "key.create " + b, "key.create " + a, "organization.create default"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}

func TestFaultySelectionsOfChangesAreRefused(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	foreign := c.with(organizationHeader, otherOrg).changes("").Data[0].ID
	for query, location := range map[string]string{
		"subject_kind=keys": "query.subject_kind", "scope=all": "query.scope", "actor=%00": "query.actor", "action=%ff": "query.action",
		"subject_id=a%0ab": "query.subject_id", "from=yesterday": "query.from", "from=2026-11-02&to=2026-11-01": "query.from",
		"limit=0": "query.limit", "cursor=eA": "query.cursor", "cursor=": "query.cursor", "cursor=%25": "query.cursor", "who=me": "query.who",
		"cursor=" + base64.RawURLEncoding.EncodeToString([]byte(foreign)): "query.cursor",
		"actor=" + strings.Repeat("x", 201):                               "query.actor",
	} {
		c.do(http.MethodGet, "/v1/changes?"+query, "").want(t, http.StatusUnprocessableEntity, `"location":"`+location+`"`)
	}
}

func TestChangesAreAnOrganizationsOwn(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	c.createKey(`{"name":"a"}`)
	if got := actions(c.with(organizationHeader, otherOrg).changes("").Data); len(got) != 1 || got[0] != "organization.create acme" {
		t.Errorf("changes of another organization: %v", got)
	}
}

func TestOnlyOperatorsSeeChangesOfTheGateway(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	a := New(g).(*api)
	for _, role := range members {
		ctx := context.WithValue(t.Context(), callerKey{}, caller{role: role})
		_, err := a.listChanges(ctx, &changesInput{ChangeSelection: ChangeSelection{Scope: gatewayScope}})
		if !errors.Is(err, errNotOperator) {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestOperatorTokensAreTheGatewaysOwn(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	made := c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"ci"}`).want(t, http.StatusCreated)
	token := decode[struct{ ID, Token string }](t, made)
	c.do(http.MethodPost, "/v1/operator-tokens/"+token.ID+"/revoke", "").want(t, http.StatusOK)
	want := []string{"token.revoke " + token.ID, "token.create " + token.ID}
	if diff := cmp.Diff(want, actions(c.changes("scope=gateway").Data)); diff != "" {
		t.Errorf("changes of the gateway (-want +got):\n%s", diff)
	}
	c.do(http.MethodGet, "/v1/changes?scope=gateway", "").want(t, http.StatusOK).lacks(t, token.Token)
	c.do(http.MethodGet, "/v1/changes", "").want(t, http.StatusOK).lacks(t, token.ID)
}

func TestNoSecretIsInARecord(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	const idempotencyKey = "canary-idempotency-key"
	secrets := []string{testToken, idempotencyKey}
	created := decode[createdKeyView](t, c.do(http.MethodPost, "/v1/keys", `{"name":"a"}`).want(t, http.StatusCreated))
	secrets = append(secrets, created.Key)
	for _, overlap := range []string{"60", "0"} {
		a := c.with(idempotencyHeader, idempotencyKey+overlap).do(http.MethodPost, "/v1/keys/"+created.ID+"/rotate", `{"overlap_seconds":`+overlap+`}`)
		secrets = append(secrets, decode[createdKeyView](t, a.want(t, http.StatusOK)).Key)
	}
	c.do(http.MethodPost, "/v1/keys/"+created.ID+"/revoke", "").want(t, http.StatusOK)
	c.with(idempotencyHeader, idempotencyKey).do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)

	records := dump(t, g.path) + c.do(http.MethodGet, "/v1/changes", "").want(t, http.StatusOK, "key.rotate", "key.revoke", "entry.append").body
	for _, secret := range secrets {
		hash := billing.HashSecret(secret)
		for _, canary := range []string{
			secret, strings.TrimPrefix(secret, billing.KeyPrefix), string(hash[:]), hex.EncodeToString(hash[:]),
			base64.StdEncoding.EncodeToString(hash[:]), base64.RawURLEncoding.EncodeToString(hash[:]),
		} {
			if strings.Contains(records, canary) {
				t.Errorf("%q is in a record", canary)
			}
		}
	}
}

// dump returns all that is in the table of changes.
func dump(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var all string
	err = db.QueryRowContext(t.Context(), `
SELECT group_concat(concat_ws('|', id, actor_kind, actor_id, actor_name, client_ip, user_agent, action, subject_id, before, after), char(10))
FROM changes`).Scan(&all)
	if err != nil || !strings.Contains(all, "admin_token") {
		t.Fatalf("no records: %v %s", err, all)
	}
	return all
}

// caddyContext is that of a request from an address.
func caddyContext(t *testing.T, clientIP string) context.Context {
	t.Helper()
	return context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: clientIP})
}
