package admin

import (
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/caddymodule"
	"github.com/google/go-cmp/cmp"
)

const idempotencyKey = "rotate-2026-11-18-a"

// rotate rotates a key and returns its new secret.
func (c client) rotate(id, body string) createdKeyView {
	c.t.Helper()
	return decode[createdKeyView](c.t, c.do(http.MethodPost, "/v1/keys/"+id+"/rotate", body).want(c.t, http.StatusOK))
}

// untilOf is when a secret ends; "invalid" if it is no key's.
func (g *testGateway) untilOf(t *testing.T, secret string) string {
	t.Helper()
	hash := billing.HashSecret(secret)
	found, err := g.store.KeysByHash(t.Context(), []billing.KeyHash{hash})
	if err != nil {
		t.Fatal(err)
	}
	k, ok := found[hash]
	switch {
	case !ok:
		return "invalid"
	case k.SecretExpiresAt.IsZero():
		return "current"
	default:
		return k.SecretExpiresAt.Format(time.RFC3339Nano)
	}
}

func TestRotationChangesTheSecretAlone(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	created := c.createKey(`{"name":"a","allowed_models":["gpt-*"],"rate_limit_rpm":5,"project":"search"}`)
	g.changes()
	began := time.Now()
	rotated := c.rotate(created.ID, "")
	if !billing.IsSecret(rotated.Key) || rotated.Key == created.Key || rotated.ID != created.ID {
		t.Errorf("rotated to %q of key %s", rotated.Key, rotated.ID)
	}
	until, ok := rotated.ProxyKey["previous_secret_expires_at"].(string)
	end, err := time.Parse(time.RFC3339, until)
	if !ok || err != nil || end.Before(began.Add(defaultOverlap-time.Second)) || end.After(time.Now().Add(defaultOverlap)) {
		t.Errorf("by default the old secret ends at %q, want it in a day", until)
	}
	want := created.ProxyKey
	want["prefix"], want["previous_secret_expires_at"] = billing.DisplayPrefix(rotated.Key), until
	if diff := cmp.Diff(want, rotated.ProxyKey); diff != "" {
		t.Errorf("rotated key (-want +got):\n%s", diff)
	}
	read := decode[map[string]any](t, c.do(http.MethodGet, "/v1/keys/"+created.ID, ""))
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("key that is read (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{until, "current"}, []string{g.untilOf(t, created.Key), g.untilOf(t, rotated.Key)}); diff != "" {
		t.Errorf("ends of the secrets (-want +got):\n%s", diff)
	}
	if changed := g.changes(); len(changed) != 1 {
		t.Errorf("changes announced: %x", changed)
	}
}

func TestOverlapOfARotation(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	first := c.createKey(`{"name":"a"}`)
	second := c.rotate(first.ID, `{"overlap_seconds":2592000}`)
	third := c.rotate(first.ID, `{"overlap_seconds":6e1}`)
	ends := []string{g.untilOf(t, first.Key), g.untilOf(t, second.Key), g.untilOf(t, third.Key)}
	if ends[0] <= ends[1] || ends[1] == "invalid" || ends[2] != "current" {
		t.Errorf("secrets end at %q", ends)
	}
	if got := third.ProxyKey["previous_secret_expires_at"]; got != ends[0] {
		t.Errorf("previous secrets end at %v, want %s", got, ends[0])
	}
	fourth := c.rotate(first.ID, `{"overlap_seconds":0}`)
	for _, old := range []string{first.Key, second.Key, third.Key} {
		if until := g.untilOf(t, old); until != "invalid" {
			t.Errorf("after a rotation without overlap an old secret ends at %s", until)
		}
	}
	if got := fourth.ProxyKey["previous_secret_expires_at"]; got != nil {
		t.Errorf("previous secrets end at %v, want none", got)
	}
	c.rotate(first.ID, `{}`)
	c.do(http.MethodPost, "/v1/keys/"+first.ID+"/revoke", "").want(t, http.StatusOK, `"previous_secret_expires_at":null`)
}

func TestRotationsThatAreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	created := c.createKey(`{"name":"a"}`)
	path := "/v1/keys/" + created.ID + "/rotate"
	for _, body := range []string{
		`{"overlap_seconds":-1}`, `{"overlap_seconds":2592001}`, `{"overlap_seconds":0.5}`, `{"overlap_seconds":"60"}`,
		`{"overlap_seconds":1e400}`, `{"overlap_seconds":[]}`,
	} {
		c.do(http.MethodPost, path, body).want(t, http.StatusUnprocessableEntity, `"location":"body.overlap_seconds"`)
	}
	c.do(http.MethodPost, path, `{"overlap":5}`).want(t, http.StatusUnprocessableEntity, `"location":"body.overlap"`)
	for _, key := range []string{
		"", " ", "short", strings.Repeat("x", 15), strings.Repeat("x", 256), "with a space in it", "umlaut-äöü-0123456789", "control\x01-0123456789",
	} {
		c.with(idempotencyHeader, key).do(http.MethodPost, path, "").
			want(t, http.StatusUnprocessableEntity, `"location":"header.Idempotency-Key"`)
	}
	twice := c.with(idempotencyHeader, idempotencyKey)
	twice.header[idempotencyHeader] = []string{idempotencyKey, idempotencyKey + "2"}
	twice.do(http.MethodPost, path, "").want(t, http.StatusUnprocessableEntity, `"location":"header.Idempotency-Key"`)
	if until := g.untilOf(t, created.Key); until != "current" {
		t.Errorf("the secret ends at %s after refusals", until)
	}

	for range billing.MaxPreviousSecrets {
		c.rotate(created.ID, "")
	}
	c.do(http.MethodPost, path, "").want(t, http.StatusConflict, "overlap_seconds 0")
	c.rotate(created.ID, `{"overlap_seconds":0}`)
	c.do(http.MethodPost, "/v1/keys/"+created.ID+"/revoke", "").want(t, http.StatusOK)
	c.do(http.MethodPost, path, "").want(t, http.StatusConflict, "revoked")
	c.with(idempotencyHeader, idempotencyKey).do(http.MethodPost, path, "").want(t, http.StatusConflict, "revoked")
}

func TestRetriedRotationIsMadeOnce(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g).with(idempotencyHeader, idempotencyKey)
	created := c.createKey(`{"name":"a"}`)
	path := "/v1/keys/" + created.ID + "/rotate"
	const body = `{"overlap_seconds":60}`
	first := c.do(http.MethodPost, path, body).want(t, http.StatusOK)

	elsewhere := newClient(t, g).with(idempotencyHeader, idempotencyKey) // another node: it has the store alone
	c.do(http.MethodPatch, "/v1/keys/"+created.ID, `{"name":"renamed"}`).want(t, http.StatusOK)
	for _, again := range []client{c, elsewhere} {
		if a := again.do(http.MethodPost, path, body).want(t, http.StatusOK); a.body != first.body {
			t.Errorf("a retry answers\n%s\nafter\n%s", a.body, first.body)
		}
	}
	inUse := func(c client, body string) {
		t.Helper()
		c.do(http.MethodPost, path, body).want(t, http.StatusConflict, `"error":"idempotency_key_in_use"`, `"location":"header.Idempotency-Key"`)
	}
	inUse(c, `{"overlap_seconds":61}`)
	inUse(c, "")

	// Another caller, who has guessed the idempotency key, learns nothing.
	g.token = "another operator's token"
	other := c.with("Authorization", "Bearer "+g.token)
	inUse(other, body)
	g.token = testToken

	secret := decode[createdKeyView](t, first).Key
	if until := g.untilOf(t, secret); until != "current" {
		t.Errorf("after retries the secret ends at %s", until)
	}
	// Another idempotency key is another rotation, and so is none.
	second := c.with(idempotencyHeader, idempotencyKey+"2").rotate(created.ID, body)
	third := newClient(t, g).rotate(created.ID, body)
	fourth := newClient(t, g).rotate(created.ID, body)
	if len(map[string]bool{secret: true, second.Key: true, third.Key: true, fourth.Key: true}) != 4 {
		t.Error("two rotations have made the same secret")
	}
}

func TestIdempotencyKeyIsThatOfOneKey(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t)).with(idempotencyHeader, idempotencyKey)
	first, second := c.createKey(`{"name":"a"}`).ID, c.createKey(`{"name":"b"}`).ID
	if c.rotate(first, "").Key == c.rotate(second, "").Key {
		t.Error("two keys have the same secret")
	}
}

func TestRetriesAtTheSameTimeAreOneRotation(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	created := newClient(t, g).createKey(`{"name":"a"}`)
	answers := make([]string, 8)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() {
			c := newClient(t, g).with(idempotencyHeader, idempotencyKey)
			answers[i] = c.do(http.MethodPost, "/v1/keys/"+created.ID+"/rotate", "").body
		})
	}
	group.Wait()
	for _, answer := range answers {
		if answer != answers[0] {
			t.Errorf("different answers:\n%s\n%s", answers[0], answer)
		}
	}
	if until := g.untilOf(t, decode[createdKeyView](t, answer{body: answers[0]}).Key); until != "current" {
		t.Errorf("the secret that was answered ends at %s", until)
	}
}

func TestSealedReplyIsOpenedByItsCallerAlone(t *testing.T) {
	t.Parallel()
	k := billing.Key{ID: "key_1", OrganizationID: "org_1"}
	const text, credential, clientSecret = "the reply with a secret", "https://issuer\x00ann", "of the client"
	secretOf := func(adminToken, clientSecret string) func(idempotencyKey, credential string) string {
		a := api{gateway: &testGateway{token: adminToken, oidc: &caddymodule.OIDC{ClientSecret: clientSecret}}}
		return a.sealSecret
	}
	here := secretOf(testToken, clientSecret)
	seal := func(secret string, k billing.Key) replySeal {
		s, err := newReplySeal(secret, k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	answer := func(billing.Key) ([]byte, error) { return []byte(text), nil }
	own := here(idempotencyKey, credential)
	sealed, err := seal(own, k).sealing(answer)(k)
	if err != nil || strings.Contains(string(sealed), "reply") {
		t.Fatalf("sealed is %q, %v", sealed, err)
	}
	node := secretOf(testToken, clientSecret)(idempotencyKey, credential)
	if got, err := seal(node, k).open(sealed); err != nil || string(got) != text {
		t.Errorf("another node opens %q, %v", got, err)
	}
	for name, other := range map[string]replySeal{
		"another idempotency key":     seal(here(idempotencyKey+"x", credential), k),
		"another credential":          seal(here(idempotencyKey, credential+"x"), k),
		"another key":                 seal(own, billing.Key{ID: "key_2", OrganizationID: "org_1"}),
		"another organization":        seal(own, billing.Key{ID: "key_1", OrganizationID: "org_2"}),
		"characters that change side": seal(here(idempotencyKey+credential[:1], credential[1:]), k),
		// What the database and a log have is not enough.
		"another configuration": seal(secretOf("", "")(idempotencyKey, credential), k),
		"another admin_token":   seal(secretOf("", clientSecret)(idempotencyKey, credential), k),
		"another client_secret": seal(secretOf(testToken, "")(idempotencyKey, credential), k),
	} {
		if got, err := other.open(sealed); err == nil {
			t.Errorf("%s opens %q", name, got)
		}
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := seal(own, k).open(sealed); err == nil {
		t.Error("a changed reply is opened")
	}
	if _, err := seal(own, k).open(nil); err == nil {
		t.Error("nothing is opened")
	}
}

// A leak of the database gives no usable key: no column of any table has one,
// in the clear or in another notation.
func TestStoreHasNoSecret(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g).with(idempotencyHeader, idempotencyKey)
	created := c.createKey(`{"name":"a"}`)
	rotated := c.rotate(created.ID, `{"overlap_seconds":60}`)
	secrets := []string{created.Key, rotated.Key, idempotencyKey, testToken}
	searched := 0
	for _, table := range g.tables(t) {
		for _, cell := range g.cells(t, table) {
			searched++
			for _, secret := range secrets {
				for _, form := range []string{secret, strings.TrimPrefix(secret, billing.KeyPrefix), fmt.Sprintf("%x", secret)} {
					if strings.Contains(strings.ToLower(cell), strings.ToLower(form)) {
						t.Errorf("table %s has a secret", table)
					}
				}
			}
		}
	}
	if searched < 50 {
		t.Errorf("only %d cells were searched: that is not the store", searched)
	}
}

// tables lists the tables of the gateway's store.
func (g *testGateway) tables(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, row := range g.query(t, `SELECT name FROM sqlite_master WHERE type = 'table'`) {
		names = append(names, row...)
	}
	return names
}

// cells returns all values in a table as they are stored.
func (g *testGateway) cells(t *testing.T, table string) []string {
	t.Helper()
	return slices.Concat(g.query(t, `SELECT * FROM "`+table+`"`)...)
}

// query reads the store's file past the store.
func (g *testGateway) query(t *testing.T, query string) [][]string {
	t.Helper()
	db, err := sql.Open("sqlite", g.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for rows.Next() {
		values := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		row := make([]string, len(columns))
		for i := range values {
			row[i] = string(values[i])
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
