package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/caddymodule"
)

func TestReadyTellsHowTheGatewayIs(t *testing.T) {
	t.Parallel()
	away, full := errors.New("store is away"), errors.New("no space")
	fine := func(changed ...any) map[string]any {
		want := map[string]any{
			"ready": true, "store": "ok", "journal": "ok", "leases": "ok", "unposted": 0.0, "unposted_oldest_seconds": 0.0,
		}
		for i := 0; i < len(changed); i += 2 {
			want[changed[i].(string)] = changed[i+1]
		}
		return want
	}
	for _, test := range []struct {
		name   string
		health caddymodule.Health
		status int
		want   map[string]any
	}{
		{"not open", caddymodule.Health{Refusing: away}, 503, map[string]any{"ready": false, "reason": "store is away"}},
		{"well", caddymodule.Health{Opened: true}, 200, fine()},
		{"away while leases last", caddymodule.Health{Opened: true, Store: away, Unposted: 7, Oldest: 1500 * time.Millisecond}, 200,
			fine("store", "store is away", "unposted", 7.0, "unposted_oldest_seconds", 1.5)},
		{"out of leases", caddymodule.Health{Opened: true, Store: away, Leases: away, Refusing: away}, 503,
			fine("ready", false, "reason", "store is away", "store", "store is away", "leases", "store is away")},
		{"full disk", caddymodule.Health{Opened: true, Journal: full, Refusing: full}, 503,
			fine("ready", false, "reason", "no space", "journal", "no space")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			if err := answerReady(w, test.health); err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, w, test.status, test.want)
		})
	}
}

func TestReadyWithoutAGateway(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	if err := ready(w, httptest.NewRequest(http.MethodGet, "/llm_gateway/health/ready", nil)); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reason": "the llm_gateway app is not running"})
}

func wantAnswer(t *testing.T, w *httptest.ResponseRecorder, status int, want map[string]any) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || w.Code != status || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("status %d, want %d; answer (-want +got):\n%s", w.Code, status, diff)
	}
}
