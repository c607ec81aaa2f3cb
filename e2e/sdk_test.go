package e2e

import (
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

// world is one store's gateway in front of one sandbox, with a key for the
// SDKs.
type world struct {
	*gateway
	sandbox *sandbox.Provider
	key     createdKey
}

// TestSDKs drives the gateway with the official SDKs. After each call it
// checks what was booked for it; at the end, that the books balance with each
// other and with what the provider served.
func TestSDKs(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		w := newWorld(t, storage, "")
		w.buyCredits(t, "starter")
		t.Run("go", func(t *testing.T) {
			t.Run("openai", w.testOpenAI)
			t.Run("anthropic", w.testAnthropic)
			t.Run("gemini", w.testGemini)
		})
		w.runJavaScript(t, nil, "openai", "anthropic", "gemini")
		w.checkBooksMatchProvider(t)
	})
}

func newWorld(t *testing.T, storage, options string) *world {
	t.Helper()
	provider := sandbox.New()
	g := startGateway(t, config{storage: storage, upstream: serve(t, provider), extra: options})
	return &world{gateway: g, sandbox: provider, key: g.createKey(t, "sdk", nil)}
}

// checkBooksMatchProvider proves that what was charged is what the provider
// served, priced by hand.
func (w *world) checkBooksMatchProvider(t *testing.T) {
	t.Helper()
	debits := w.checkBooksBalance(t)
	served := new(big.Int)
	for _, s := range w.sandbox.Served() {
		used := tokens{
			input: s.Usage.Input, cacheRead: s.Usage.CacheRead,
			cacheWrite: s.Usage.CacheWrite, cacheWriteLong: s.Usage.CacheWriteLong,
			output: s.Usage.Output,
		}
		if !s.Complete || used == (tokens{}) {
			continue
		}
		cost, err := nanos(s.ReportedModel, used, ownRate)
		if err != nil {
			t.Fatal(err)
		}
		served.Add(served, big.NewInt(cost))
	}
	if debits.Cmp(served) != 0 {
		t.Errorf("debits are %s, the provider served %s", debits, served)
	}
	if leaked := w.sandbox.Totals().LeakedProxyKeys; leaked != 0 {
		t.Errorf("%d requests carried a proxy key to the provider", leaked)
	}
}

// answers is a transport that remembers what the gateway said about the last
// response.
type answers struct {
	mu     sync.Mutex
	id     string
	status int
	error  string
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		// All ids: a provider's own must not be beside the gateway's.
		a.id = strings.Join(res.Header.Values("X-Request-Id"), ", ")
		a.status, a.error = res.StatusCode, res.Header.Get("X-Gateway-Error")
	}
	return res, err
}

// take returns the id of the last response, once.
func (a *answers) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.id
	a.id = ""
	return id
}

// refusal returns the last response's status and the gateway's error.
func (a *answers) refusal() (status int, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, a.error
}
