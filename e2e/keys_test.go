package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// bound is within which changes on one gateway are seen on another.
const bound = time.Second

const (
	helloPath = "/openai/v1/chat/completions"
	helloBody = `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}]}`
)

// hello sends a small chat request and returns the gateway's error, "" for an
// answer.
func (g *gateway) hello(t *testing.T, key string) string {
	t.Helper()
	res, _ := g.send(t, key, http.MethodPost, helloPath, strings.NewReader(helloBody),
		map[string]string{"Content-Type": "application/json"})
	if res.StatusCode == http.StatusOK {
		return ""
	}
	return res.Header.Get("X-Gateway-Error")
}

// awaitHello waits until requests with the key are answered like this, and
// returns how long after a moment that was first so.
func (g *gateway) awaitHello(t *testing.T, key, want string, since time.Time) time.Duration {
	t.Helper()
	var got string
	for time.Since(since) < 10*bound {
		sent := time.Now()
		if got = g.hello(t, key); got == want {
			return sent.Sub(since)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("10 s after the change requests are answered %q, want %q", got, want)
	return 0
}

// startPair starts two gateways on one database, and a provider that answers
// everything.
func startPair(t *testing.T) (a, b *gateway, db *pgx.Conn) {
	t.Helper()
	upstream := serve(t, http.HandlerFunc(answerHello))
	dsn := pgtest.DSN(t)
	a = startGateway(t, config{storage: "postgres " + dsn, upstream: upstream})
	b = startGateway(t, config{storage: "postgres " + dsn, upstream: upstream})
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	a.buyCredits(t, "starter")
	return a, b, db
}

func answerHello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"model":"gpt-4o","choices":[{"message":{"role":"assistant","content":"hi"}}],` +
		`"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}`))
}

func execute(t *testing.T, db *pgx.Conn, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// cutListeners cuts the connections that gateways hear of changes on.
func cutListeners(t *testing.T, db *pgx.Conn) {
	t.Helper()
	const listeners = `
FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`
	execute(t, db, `SELECT pg_terminate_backend(pid) `+listeners)
	for n := 1; n > 0; { // they end a moment later
		if err := db.QueryRow(t.Context(), `SELECT count(*) `+listeners).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChangesReachOtherGatewaysWithinASecond changes keys on one gateway and
// measures how long another one goes on as before, when it is told of the
// change and when it is not.
//
//nolint:tparallel // one change at a time: others would make the gateway read keys again, too
func TestChangesReachOtherGatewaysWithinASecond(t *testing.T) {
	t.Parallel()
	a, b, db := startPair(t)
	for _, test := range []struct {
		name   string
		change func(t *testing.T, k createdKey)
		want   string
		byHand bool // and not by the first gateway
	}{
		{"a revocation", func(t *testing.T, k createdKey) {
			a.must(t, http.MethodPost, "/v1/keys/"+k.ID+"/revoke", nil, nil)
		}, "key_revoked", false},
		{"an edit", func(t *testing.T, k createdKey) {
			a.must(t, http.MethodPatch, "/v1/keys/"+k.ID, map[string]any{"allowed_models": []string{"claude-*"}}, nil)
		}, "model_not_allowed", false},
		{"a lower limit", func(t *testing.T, k createdKey) {
			a.must(t, http.MethodPatch, "/v1/keys/"+k.ID, map[string]any{"usage_limit_dollars": 0}, nil)
		}, "spend_exceeded", false},
		{"a rotation without overlap", func(t *testing.T, k createdKey) {
			a.must(t, http.MethodPost, "/v1/keys/"+k.ID+"/rotate", map[string]any{"overlap_seconds": 0}, nil)
		}, "invalid proxy key", false},
		{"the organization's budget", func(t *testing.T, _ createdKey) {
			a.must(t, http.MethodPut, "/v1/budget", map[string]any{"max_dollars": 0}, nil)
			t.Cleanup(func() {
				body := map[string]any{"max_dollars": nil}
				if err := a.call(context.WithoutCancel(t.Context()), http.MethodPut, "/v1/budget", body, nil); err != nil {
					t.Error(err)
				}
			})
		}, "budget_exceeded", false},
		{"an edit while the listeners lose their connections", func(t *testing.T, k createdKey) {
			cutListeners(t, db)
			a.must(t, http.MethodPatch, "/v1/keys/"+k.ID, map[string]any{"allowed_models": []string{"claude-*"}}, nil)
		}, "model_not_allowed", false},
		{"a change that nobody tells of", func(t *testing.T, k createdKey) {
			execute(t, db, `
WITH next AS (UPDATE keys_version SET version = version + 1 RETURNING version)
UPDATE keys SET revoked_at = now(), version = next.version FROM next WHERE id = $1`, k.ID)
		}, "key_revoked", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := a.createKey(t, "a", map[string]any{"usage_limit_dollars": 5})
			// That there is a new key is a change too, which makes the gateway read
			// it again: wait until that is over, so that it has the key in memory.
			time.Sleep(bound * 6 / 10)
			b.awaitHello(t, k.Key, "", time.Now())
			test.change(t, k)
			took := b.awaitHello(t, k.Key, test.want, time.Now())
			t.Logf("seen after %s", took.Round(time.Millisecond))
			if took >= bound {
				t.Errorf("it took %s, want it within %s", took, bound)
			}
			if refused := a.hello(t, k.Key); refused != test.want && !test.byHand {
				t.Errorf("where it was changed: %q, want %q", refused, test.want)
			}
		})
	}
}

type rotatedKey struct {
	createdKey
	ProxyKey struct {
		End time.Time `json:"previous_secret_expires_at"`
	} `json:"proxy_key"`
}

// rotateKey rotates a key, once however often it is called.
func (g *gateway) rotateKey(t *testing.T, id string, overlapSeconds int) rotatedKey {
	t.Helper()
	_, body := g.send(t, adminToken, http.MethodPost, "/v1/keys/"+id+"/rotate",
		strings.NewReader(fmt.Sprintf(`{"overlap_seconds":%d}`, overlapSeconds)),
		map[string]string{"Content-Type": "application/json", "Idempotency-Key": "rotation-for-the-test"})
	var rotated rotatedKey
	if err := json.Unmarshal(body, &rotated); err != nil || rotated.Key == "" {
		t.Fatalf("rotate a key: %v: %s", err, body)
	}
	return rotated
}

// TestRotatedKeyWorksThroughItsOverlap rotates a key on one gateway while
// another one uses it, with a retry at the other gateway.
func TestRotatedKeyWorksThroughItsOverlap(t *testing.T) {
	t.Parallel()
	a, b, _ := startPair(t)
	old := a.createKey(t, "a", nil)
	if refused := b.hello(t, old.Key); refused != "" {
		t.Fatalf("before the rotation: %q", refused)
	}
	first, again := a.rotateKey(t, old.ID, 3), b.rotateKey(t, old.ID, 3)
	if first.Key != again.Key {
		t.Fatalf("rotated to %q, and at another gateway to %q", first.Key, again.Key)
	}
	for _, g := range []*gateway{a, b} {
		for _, secret := range []string{old.Key, first.Key} {
			if refused := g.hello(t, secret); refused != "" {
				t.Errorf("during the overlap: %q", refused)
			}
		}
	}
	time.Sleep(time.Until(first.ProxyKey.End))
	for _, g := range []*gateway{a, b} {
		if refused := g.hello(t, old.Key); refused != "invalid proxy key" {
			t.Errorf("after the overlap the old secret is answered %q", refused)
		}
		if refused := g.hello(t, first.Key); refused != "" {
			t.Errorf("after the overlap the new secret is answered %q", refused)
		}
	}
}
