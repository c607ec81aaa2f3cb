package caddymodule

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestOldRequestsAreDroppedAsConfigured(t *testing.T) {
	t.Parallel()
	store, path := openBooks(t)
	old, recent := time.Now().AddDate(0, 0, -50), time.Now().AddDate(0, 0, -20)
	_, err := store.Post(t.Context(), "node", []billing.Settlement{
		{RequestID: billing.NewID(billing.RequestIDPrefix, old), OrganizationID: "acme", At: old, Cost: 1},
		{RequestID: billing.NewID(billing.RequestIDPrefix, recent), OrganizationID: "acme", At: recent, Cost: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	logged, logs := observer.New(zap.DebugLevel)
	e := &engine{store: store, verifier: newVerifier(), log: zap.New(logged)}
	keeps := func(retention time.Duration, want int, message string) {
		t.Helper()
		e.retention.Store(int64(retention))
		e.prepareRequests(t.Context(), store)
		e.dropRequests(t.Context())
		rows, err := store.Requests(t.Context(), "acme", billing.Filter{}, billing.Page{})
		if err != nil || len(rows) != want {
			t.Errorf("retention %s leaves %d rows, want %d (%v)", retention, len(rows), want, err)
		}
		var said []string
		for _, entry := range logs.TakeAll() {
			said = append(said, entry.Message)
		}
		if got := strings.Join(said, ", "); got != message {
			t.Errorf("retention %s: log says %q, want %q", retention, got, message)
		}
	}
	keeps(0, 2, "")
	keeps(60*24*time.Hour, 2, "")
	tamper(t, path, "UPDATE accounts SET balance = balance + 1")
	keeps(40*24*time.Hour, 2, "old requests are not dropped: the books do not prove them")
	tamper(t, path, "UPDATE accounts SET balance = balance - 1")
	keeps(40*24*time.Hour, 1, "dropped old requests")
	keeps(billing.MinRetention, 1, "")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	e.dropRequests(t.Context())
	if all := logs.All(); len(all) != 1 || all[0].Message != "cannot drop old requests; will try again" {
		t.Errorf("log says %+v", all)
	}
}
