package e2e

import (
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// TestSessionsAreOfAllNodes logs in at one gateway, and uses and ends the
// session at another one.
func TestSessionsAreOfAllNodes(t *testing.T) {
	t.Parallel()
	storage := "postgres " + pgtest.DSN(t)
	p := startPortal(t, storage, providerConfig{})
	p.invite(t, "sub-olga", "owner")
	other := startGateway(t, config{
		storage: storage, upstream: "http://127.0.0.1:1", global: trustedProxy, extra: p.provider.block(""),
	})
	b, csrfToken := p.logIn(t, "sub-olga")
	value := p.cookie(t, b, sessionCookie)
	b.visit(t, other.url+"/v1/account").want(t, http.StatusOK, `"role":"owner"`)
	b.send(t, http.MethodPost, other.url+"/v1/auth/logout", "", map[string]string{"X-CSRF-Token": csrfToken}).want(t, http.StatusOK, "")
	p.askWith(t, value).want(t, http.StatusUnauthorized, "your session has ended")
}

// TestSessionsAge makes sessions older in the store than they are, since nobody
// wants to wait: they change their value, and end.
func TestSessionsAge(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	p := startPortal(t, "postgres "+dsn, providerConfig{})
	p.invite(t, "sub-olga", "owner")
	db, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(db.Close)
	change := func(t *testing.T, csrfToken, set string) {
		t.Helper()
		sql := "UPDATE sessions SET " + set + " WHERE csrf_token = $1"
		if tag, err := db.Exec(t.Context(), sql, csrfToken); err != nil || tag.RowsAffected() == 0 {
			t.Fatalf("%s: %v, %v", sql, tag, err)
		}
	}
	const ended = "your session has ended"

	t.Run("rotation", func(t *testing.T) {
		t.Parallel()
		b, csrfToken := p.logIn(t, "sub-olga")
		first := p.cookie(t, b, sessionCookie)
		change(t, csrfToken, `rotated_at = rotated_at - interval '16 minutes'`)
		b.visit(t, p.url+"/v1/account").want(t, http.StatusOK, `"role":"owner"`)
		second := p.cookie(t, b, sessionCookie)
		if second == first {
			t.Fatal("the cookie is the same after 16 minutes")
		}
		p.askWith(t, first).want(t, http.StatusOK, "") // a request that was under way
		change(t, csrfToken, `previous_until = previous_until - interval '1 minute'`)
		p.askWith(t, first).want(t, http.StatusUnauthorized, ended)
		p.askWith(t, second).want(t, http.StatusOK, `"role":"owner"`)
		b.send(t, http.MethodPost, p.url+"/v1/keys", `{"name":"a"}`, map[string]string{"X-CSRF-Token": csrfToken}).
			want(t, http.StatusCreated, "sk-proxy-")
	})
	for name, set := range map[string]string{
		"idle":    `last_seen_at = last_seen_at - interval '61 minutes'`,
		"too old": `expires_at = expires_at - interval '12 hours'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, csrfToken := p.logIn(t, "sub-olga")
			change(t, csrfToken, set)
			b.visit(t, p.url+"/v1/account").want(t, http.StatusUnauthorized, ended)
		})
	}
}
