package admin

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// slowGateway is a gateway whose callers are slow, by a clock of the test's.
type slowGateway struct {
	*testGateway
	url   string
	later atomic.Int64
}

func newSlowGateway(t *testing.T, g *testGateway) *slowGateway {
	t.Helper()
	s := &slowGateway{testGateway: g}
	api := New(g).(*api)
	api.now = func() time.Time { return time.Now().Add(time.Duration(s.later.Load())) }
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// post sends a body whose end comes after what happens meanwhile.
func (s *slowGateway) post(t *testing.T, path, token, body string, meanwhile func()) answer {
	t.Helper()
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	go func() {
		_, _ = io.WriteString(writer, body[:1])
		time.Sleep(200 * time.Millisecond) // until it is known who sends it
		meanwhile()
		s.later.Add(int64(authority))
		_, _ = io.WriteString(writer, body[1:])
		writer.Close()
	}()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

func TestSlowBodyOfAFormerOwner(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	g.join(t, otherOrg, billing.RoleOwner)
	bob := invite(t, g, otherOrg, "bob@example.com", billing.RoleOwner)
	token := issuer.Token(map[string]any{"sub": "bob", "email": "bob@example.com"})
	c := newClient(t, g)
	c.with("Authorization", "Bearer "+token).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"owner"`)
	operator := c.with(organizationHeader, otherOrg)
	s := newSlowGateway(t, g)

	s.post(t, "/v1/members", token, `{"email":"eve@example.com","role":"owner"}`, func() {
		operator.do(http.MethodPatch, "/v1/members/"+bob.ID, `{"role":"admin"}`).want(t, http.StatusOK)
	}).want(t, http.StatusForbidden, "only owners make")
	s.post(t, "/v1/members", token, `{"email":"bob@example.com","role":"admin"}`, func() {
		operator.do(http.MethodDelete, "/v1/members/"+bob.ID, "").want(t, http.StatusNoContent)
	}).want(t, http.StatusForbidden, "you are not a member")
	operator.do(http.MethodGet, "/v1/members", "").want(t, http.StatusOK).lacks(t, "bob@", "eve@")
}

func TestSlowBodyOfARevokedOperatorToken(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	made := decode[createdOperatorToken](t, c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"stolen"}`).want(t, http.StatusCreated))
	newSlowGateway(t, g).post(t, "/v1/operator-tokens", made.Token, `{"name":"back door"}`, func() {
		c.do(http.MethodPost, "/v1/operator-tokens/"+made.ID+"/revoke", "").want(t, http.StatusOK)
	}).want(t, http.StatusUnauthorized, "revoked")
	c.do(http.MethodGet, "/v1/operator-tokens", "").want(t, http.StatusOK).lacks(t, "back door")
}

func TestExportOfAFormerMemberBreaksOff(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	now := time.Now().Add(-time.Hour)
	batch := make([]billing.Settlement, 20*exportPage)
	for i := range batch {
		at := now.Add(time.Duration(i) * time.Millisecond)
		batch[i] = billing.Settlement{
			RequestID: billing.NewID("req", at), OrganizationID: otherOrg, KeyID: "key_1", KeyName: "key", At: at,
			Provider: "openai", Model: "model-" + strconv.Itoa(i), UsageSource: "none", UserAgent: strings.Repeat("x", 500),
		}
	}
	if _, err := g.store.Post(t.Context(), "node", batch); err != nil {
		t.Fatal(err)
	}
	bob := invite(t, g, otherOrg, "bob@example.com", billing.RoleViewer)
	s := newSlowGateway(t, g)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/audit/export?format=jsonl", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+issuer.Token(map[string]any{"sub": "bob", "email": "bob@example.com"}))
	r.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 1000)); err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res.Status, err)
	}
	newClient(t, g).with(organizationHeader, otherOrg).do(http.MethodDelete, "/v1/members/"+bob.ID, "").want(t, http.StatusNoContent)
	s.later.Add(int64(authority))
	rest, err := io.ReadAll(res.Body)
	if rows := bytes.Count(rest, []byte("\n")); err == nil || rows >= len(batch)-exportPage {
		t.Errorf("%d of %d rows after the removal: %v", rows, len(batch), err)
	}
}
