package billingtest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testAccess(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"operator tokens are found by their secrets":  findsOperatorTokens,
		"operator tokens are listed, page by page":    listsOperatorTokens,
		"a revoked operator token stays revoked":      revokesOperatorTokens,
		"the last use of a token never goes back":     usesOperatorTokens,
		"sessions are found by their cookies":         findsSessions,
		"what does not change of a session":           keepsSessions,
		"one of two concurrent rotations takes place": rotatesSessionsOnce,
		"a login can be taken once":                   takesLogins,
		"what has ended is dropped":                   dropsAccess,
	})
}

func newOperatorToken(id string, at time.Time) billing.OperatorToken {
	secret := billing.NewOperatorSecret()
	return billing.OperatorToken{
		ID: id, Name: "Name of " + id, Hash: billing.HashSecret(secret), Prefix: billing.DisplayOperatorPrefix(secret),
		CreatedBy: "admin_token", CreatedAt: at, ExpiresAt: at.AddDate(1, 0, 0),
	}
}

func findsOperatorTokens(t *testing.T, s billing.Store) {
	want := newOperatorToken("token_1", noon)
	check(t, s.CreateOperatorToken(t.Context(), want))
	forever := newOperatorToken("token_2", noon)
	forever.ExpiresAt = time.Time{}
	check(t, s.CreateOperatorToken(t.Context(), forever))
	for _, token := range []billing.OperatorToken{want, forever} {
		got, err := s.OperatorTokenByHash(t.Context(), token.Hash)
		check(t, err)
		equal(t, "token", got, token)
	}
	_, err := s.OperatorTokenByHash(t.Context(), billing.HashSecret("x"))
	equal(t, "error for another secret", err, billing.ErrNotFound)
	again := newOperatorToken("token_3", noon)
	again.Hash = want.Hash
	if s.CreateOperatorToken(t.Context(), again) == nil {
		t.Error("two tokens have the same secret")
	}
}

func listsOperatorTokens(t *testing.T, s billing.Store) {
	for i, id := range []string{"token_b", "token_a", "token_c"} {
		check(t, s.CreateOperatorToken(t.Context(), newOperatorToken(id, noon.Add(time.Duration(i/2)*time.Hour))))
	}
	var ids []string
	for page := (billing.Page{Limit: 2}); ; page.After = ids[len(ids)-1] {
		tokens, err := s.ListOperatorTokens(t.Context(), page)
		check(t, err)
		for _, token := range tokens {
			ids = append(ids, token.ID)
		}
		if len(tokens) < page.Limit {
			break
		}
	}
	equal(t, "ids", ids, []string{"token_c", "token_b", "token_a"})
}

func revokesOperatorTokens(t *testing.T, s billing.Store) {
	token := newOperatorToken("token_1", noon)
	check(t, s.CreateOperatorToken(t.Context(), token))
	token.RevokedAt = noon.Add(time.Hour)
	for _, at := range []time.Time{token.RevokedAt, noon.Add(2 * time.Hour)} {
		got, err := s.RevokeOperatorToken(t.Context(), token.ID, at)
		check(t, err)
		equal(t, "answer", got, token)
	}
	got, err := s.OperatorTokenByHash(t.Context(), token.Hash)
	check(t, err)
	equal(t, "stored", got, token)
	_, err = s.RevokeOperatorToken(t.Context(), "token_2", noon)
	equal(t, "error for an unknown one", err, billing.ErrNotFound)
}

func usesOperatorTokens(t *testing.T, s billing.Store) {
	token := newOperatorToken("token_1", noon)
	check(t, s.CreateOperatorToken(t.Context(), token))
	for _, at := range []time.Time{noon.Add(time.Hour), noon} {
		check(t, s.UseOperatorToken(t.Context(), token.ID, at))
	}
	got, err := s.OperatorTokenByHash(t.Context(), token.Hash)
	check(t, err)
	equal(t, "last use", got.LastUsedAt, noon.Add(time.Hour))
}

func newSession(id string) billing.Session {
	return billing.Session{
		ID: id, Hash: billing.HashSecret("cookie of " + id), CSRFToken: billing.NewNonce(),
		Identity:  billing.Identity{Issuer: "https://id.example", Subject: "subject", Email: "ada@example.com", Name: "Ada"},
		CreatedAt: noon, RotatedAt: noon, LastSeenAt: noon, ExpiresAt: noon.Add(12 * time.Hour),
	}
}

func findsSessions(t *testing.T, s billing.Store) {
	want := newSession("session_1")
	check(t, s.CreateSession(t.Context(), want))
	check(t, s.CreateSession(t.Context(), newSession("session_2")))
	first := want.Hash
	got, err := s.SessionByHash(t.Context(), first)
	check(t, err)
	equal(t, "session", got, want)

	want.PreviousHash, want.PreviousUntil = first, noon.Add(time.Minute)
	want.Hash = billing.HashSecret("second")
	_, err = s.UpdateSession(t.Context(), want.ID, func(v *billing.Session) error { *v = want; return nil })
	check(t, err)
	for _, hash := range []billing.KeyHash{first, want.Hash} {
		got, err = s.SessionByHash(t.Context(), hash)
		check(t, err)
		equal(t, "rotated session", got, want)
	}
	got, err = s.Session(t.Context(), want.ID)
	check(t, err)
	equal(t, "session by its id", got, want)
	check(t, s.DeleteSession(t.Context(), want.ID))
	check(t, s.DeleteSession(t.Context(), want.ID))
	for _, hash := range []billing.KeyHash{first, want.Hash, {}} {
		_, err = s.SessionByHash(t.Context(), hash)
		equal(t, "error after", err, billing.ErrNotFound)
	}
	_, err = s.Session(t.Context(), want.ID)
	equal(t, "error after, by its id", err, billing.ErrNotFound)
}

func keepsSessions(t *testing.T, s billing.Store) {
	want := newSession("session_1")
	check(t, s.CreateSession(t.Context(), want))
	want.LastSeenAt = noon.Add(time.Minute)
	got, err := s.UpdateSession(t.Context(), want.ID, func(v *billing.Session) error {
		v.ID, v.Identity, v.CreatedAt, v.ExpiresAt = "x", billing.Identity{}, noon.AddDate(1, 0, 0), noon.AddDate(1, 0, 0)
		v.LastSeenAt = want.LastSeenAt
		return nil
	})
	check(t, err)
	equal(t, "answer", got, want)
	failed := errors.New("no")
	_, err = s.UpdateSession(t.Context(), want.ID, func(v *billing.Session) error { v.LastSeenAt = noon; return failed })
	equal(t, "error", err, failed)
	got, err = s.SessionByHash(t.Context(), want.Hash)
	check(t, err)
	equal(t, "stored", got, want)
	_, err = s.UpdateSession(t.Context(), "x", func(*billing.Session) error { return nil })
	equal(t, "error for an unknown one", err, billing.ErrNotFound)
}

func rotatesSessionsOnce(t *testing.T, s billing.Store) {
	session := newSession("session_1")
	check(t, s.CreateSession(t.Context(), session))
	lost := errors.New("rotated by another")
	results := make([]error, 8)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			_, results[i] = s.UpdateSession(t.Context(), session.ID, func(v *billing.Session) error {
				if v.Hash != session.Hash {
					return lost
				}
				v.PreviousHash, v.PreviousUntil, v.Hash = v.Hash, noon, billing.HashSecret(billing.NewNonce())
				return nil
			})
		})
	}
	all.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, lost) {
			t.Error(err)
		}
	}
	equal(t, "rotations", won, 1)
}

func newLogin(state string, end time.Time) billing.Login {
	return billing.Login{
		State: billing.HashSecret(state), Browser: billing.HashSecret("browser"),
		Nonce: billing.NewNonce(), Verifier: billing.NewNonce(), ReturnTo: "/usage?from=2026-11-01", ExpiresAt: end,
	}
}

func takesLogins(t *testing.T, s billing.Store) {
	want := newLogin("state", noon)
	check(t, s.CreateLogin(t.Context(), want))
	_, err := s.TakeLogin(t.Context(), billing.HashSecret("another"))
	equal(t, "error for another state", err, billing.ErrNotFound)
	got, err := s.TakeLogin(t.Context(), want.State)
	check(t, err)
	equal(t, "login", got, want)
	_, err = s.TakeLogin(t.Context(), want.State)
	equal(t, "error when it was taken", err, billing.ErrNotFound)
}

func dropsAccess(t *testing.T, s billing.Store) {
	over, idle, live := newSession("over"), newSession("idle"), newSession("live")
	over.ExpiresAt = noon
	idle.LastSeenAt = noon.Add(-2 * time.Hour)
	for _, v := range []billing.Session{over, idle, live} {
		check(t, s.CreateSession(t.Context(), v))
	}
	old, fresh := newLogin("old", noon), newLogin("fresh", noon.Add(time.Minute))
	check(t, s.CreateLogin(t.Context(), old))
	check(t, s.CreateLogin(t.Context(), fresh))
	check(t, s.DropAccess(t.Context(), noon, noon.Add(-time.Hour)))
	for v, want := range map[*billing.Session]error{&over: billing.ErrNotFound, &idle: billing.ErrNotFound, &live: nil} {
		_, err := s.SessionByHash(t.Context(), v.Hash)
		equal(t, "error for session "+v.ID, err, want)
	}
	_, err := s.TakeLogin(t.Context(), old.State)
	equal(t, "error for the old login", err, billing.ErrNotFound)
	_, err = s.TakeLogin(t.Context(), fresh.State)
	check(t, err)
}
