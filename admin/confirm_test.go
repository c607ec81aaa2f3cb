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
	joinBy(t, g, bob, bearer(token))
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

// fillHistory posts more requests than fit into what lies between a gateway and
// a client that does not read.
func fillHistory(t *testing.T, g *testGateway) []billing.Settlement {
	t.Helper()
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
	return batch
}

// export begins to read an export, and reads the rest after what happens
// meanwhile. It returns how many rows that was.
func (s *slowGateway) export(t *testing.T, credential [2]string, meanwhile func()) (rows int, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/audit/export?format=jsonl", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(credential[0], credential[1])
	r.Header.Set(organizationHeader, otherOrg)
	r.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 100)); err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res.Status, err)
	}
	meanwhile()
	s.later.Add(int64(authority))
	rest, err := io.ReadAll(res.Body)
	return bytes.Count(rest, []byte("\n")), err
}

func TestExportBreaksOffWhenItsReaderMayReadNoMore(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	rows := len(fillHistory(t, g))
	operator := newClient(t, g).with(organizationHeader, otherOrg)
	member := func(name string, role billing.Role) (m billing.Member, credential [2]string) {
		email := name + "@example.com"
		m, credential = invite(t, g, otherOrg, email, role), bearer(issuer.Token(map[string]any{
			"sub": name, "email": email, "exp": time.Now().Add(time.Hour).Unix(),
		}))
		joinBy(t, g, m, credential)
		return m, credential
	}
	bob, bobs := member("bob", billing.RoleViewer)
	eve, eves := member("eve", billing.RoleAdmin)
	_, zoes := member("zoe", billing.RoleViewer)
	temporary := decode[createdOperatorToken](t, operator.do(http.MethodPost, "/v1/operator-tokens",
		`{"name":"temporary","expires_at":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`).want(t, http.StatusCreated))
	ended, lasting := loggedIn(t, g), loggedIn(t, g)
	later := func(s *slowGateway, d time.Duration) { s.later.Add(int64(d)) }

	for name, test := range map[string]struct {
		credential [2]string
		meanwhile  func(s *slowGateway)
		whole      bool
	}{
		"removed": {bobs, func(*slowGateway) {
			operator.do(http.MethodDelete, "/v1/members/"+bob.ID, "").want(t, http.StatusNoContent)
		}, false},
		"may see less": {eves, func(*slowGateway) {
			operator.do(http.MethodPatch, "/v1/members/"+eve.ID, `{"role":"developer"}`).want(t, http.StatusOK)
		}, false},
		"bearer token, in time": {zoes, func(s *slowGateway) { later(s, 30*time.Minute) }, true},
		"bearer token, expired": {zoes, func(s *slowGateway) { later(s, 2*time.Hour) }, false},
		"operator, in time":     {bearer(temporary.Token), func(s *slowGateway) { later(s, 30*time.Minute) }, true},
		"operator, expired":     {bearer(temporary.Token), func(s *slowGateway) { later(s, 2*time.Hour) }, false},
		"logged out": {ended.credential(), func(*slowGateway) {
			ended.do(http.MethodPost, logoutPath, "").want(t, http.StatusOK)
		}, false},
		"session of another cookie by now": {lasting.credential(), func(s *slowGateway) {
			for range 2 {
				later(s, sessionRotation)
				lasting.at(time.Duration(s.later.Load()))
				lasting.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlowGateway(t, g)
			read, err := s.export(t, test.credential, func() { test.meanwhile(s) })
			if whole := err == nil && read == rows; whole != test.whole || err == nil != test.whole || !whole && read >= rows-exportPage {
				t.Errorf("%d of %d rows: %v", read, rows, err)
			}
		})
	}
}

// A session is in use for as long as an export of it goes on.
func TestExportKeepsItsSession(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	fillHistory(t, g)
	b, s := loggedIn(t, g), newSlowGateway(t, g)
	if _, err := s.export(t, b.credential(), func() { s.later.Add(int64(50 * time.Minute)) }); err != nil {
		t.Fatal(err)
	}
	b.at(100 * time.Minute)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	s.later.Store(0)
	b = loggedIn(t, g)
	if _, err := s.export(t, b.credential(), func() { s.later.Add(int64(billing.SessionLifetime)) }); err == nil {
		t.Error("goes on after the end of the session")
	}
}

// joinBy accepts an invitation.
func joinBy(t *testing.T, g *testGateway, m billing.Member, credential [2]string) {
	t.Helper()
	newClient(t, g).with(credential[0], credential[1]).
		do(http.MethodPost, invitationsPath+"/"+m.ID+"/accept", "").want(t, http.StatusOK)
}

func bearer(token string) [2]string { return [2]string{"Authorization", "Bearer " + token} }

func (b *browser) credential() [2]string {
	return [2]string{"Cookie", sessionCookie + "=" + b.cookies[sessionCookie].Value}
}
