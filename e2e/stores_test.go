package e2e

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// onEachStore runs a test against both stores. The storage that it gets is
// the argument of the storage option.
func onEachStore(t *testing.T, test func(t *testing.T, storage string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, "")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, "postgres "+pgtest.DSN(t))
	})
}

// serve serves a handler on loopback until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}
