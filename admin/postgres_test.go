//go:build unix

package admin

import (
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

func TestOneOfTwoAdminsWinsOnPostgres(t *testing.T) {
	t.Parallel()
	store, err := postgres.Open(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	org := billing.Organization{ID: billing.DefaultOrganization, Name: "Default", CreatedAt: time.Now()}
	if err := store.EnsureOrganization(t.Context(), org); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t)
	g.store = store
	editsAtOnce(t, g)
}
