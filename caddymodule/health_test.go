package caddymodule

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// awaitHealth waits until the gateway is as described.
func awaitHealth(t *testing.T, app *App, what string, is func(Health) bool) {
	t.Helper()
	var h Health
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if h = app.Health(t.Context()); is(h) {
			return
		}
	}
	t.Fatalf("not %s: %+v", what, h)
}

func TestHealth(t *testing.T) {
	cluster, err := pgtest.StartCluster()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	h, key := openHandler(t, Storage{Driver: driverPostgres, DSN: cluster.DSN()}, canned{"application/json", []byte(`{}`)})
	app := h.app
	well := func(h Health) bool {
		return h.Refusing == nil && h.Opened && h.Store == nil && h.Journal == nil && h.Leases == nil
	}
	awaitHealth(t, app, "well", well)

	if err := cluster.Halt(pgtest.Immediate); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, app, "ready without the store", func(h Health) bool {
		return h.Store != nil && h.Refusing == nil && h.Leases == nil
	})
	estimate := billing.Settlement{RequestID: billing.NewID(billing.RequestIDPrefix, time.Now()), At: time.Now()}
	all := billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(billing.DefaultOrganization)}, Amount: metering.USD}
	if _, err := app.engine.authorizer.Hold(t.Context(), all, &estimate); !errors.Is(err, billing.ErrUnavailable) {
		t.Fatalf("hold without the store: %v", err)
	}
	awaitHealth(t, app, "out of leases", func(h Health) bool {
		return h.Store != nil && h.Leases != nil && strings.Contains(h.Refusing.Error(), "leases have run out")
	})
	app.engine.leaseTTL.Store(int64(time.Second))
	awaitHealth(t, app, "fenced", func(h Health) bool {
		return h.Leases != nil && strings.Contains(h.Refusing.Error(), "heartbeat of this node is overdue")
	})
	app.engine.leaseTTL.Store(int64(time.Minute))
	if err := cluster.Resume(); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, app, "well again", well)

	other := app.engine.status()
	other.Incarnation = "another"
	if err := app.Store().Join(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, app, "replaced", func(h Health) bool {
		return errors.Is(h.Leases, billing.ErrReplaced) && errors.Is(h.Refusing, billing.ErrReplaced)
	})
	refuses(t, h, key)
}

func TestHealthWithAJournalThatTakesNothing(t *testing.T) {
	h, key := openHandler(t, Storage{Driver: driverSQLite, DSN: filepath.Join(t.TempDir(), "gateway.db")}, canned{"application/json", []byte(`{}`)})
	if err := h.app.engine.journal.Close(); err != nil {
		t.Fatal(err)
	}
	health := h.app.Health(t.Context())
	if !errors.Is(health.Refusing, journal.ErrClosed) || !errors.Is(health.Journal, journal.ErrClosed) || health.Store != nil || health.Leases != nil {
		t.Errorf("health %+v", health)
	}
	refuses(t, h, key)
}

// refuses proves that a gateway that is not ready serves nothing.
func refuses(t *testing.T, h *Handler, key string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, chat, strings.NewReader(hello)).WithContext(t.Context())
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("X-Gateway-Error") != "ledger unavailable" {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

func TestHealthBeforeTheBooksAreOpen(t *testing.T) {
	config := engineConfig{storage: Storage{Driver: driverSQLite, DSN: filepath.Join(t.TempDir(), "gateway.db")}, journalDir: t.TempDir()}
	engine, err := loadEngine(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engines.Delete(config) })
	health := (&App{engine: engine}).Health(t.Context())
	if health.Refusing == nil || health.Opened {
		t.Errorf("health %+v", health)
	}
}
