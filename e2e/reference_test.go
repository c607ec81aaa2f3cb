package e2e

import (
	"crypto/rand"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// section is what docs/api.md says about a route: the commands that show it.
type section struct {
	route, commands string
}

// TestReference runs the commands of docs/api.md, each route's with a key, a
// project and so on of its own. What they receive must be as the OpenAPI
// document says.
func TestReference(t *testing.T) {
	t.Parallel()
	sections := readReference(t)
	onEachStore(t, func(t *testing.T, storage string) {
		provider := startIdentityProvider(t, providerConfig{})
		w := newWorld(t, storage, provider.block(""))
		w.buyCredits(t, "large")
		token := provider.issue(t, gatewayClient, "sub-olga", gatewayAudience).IDToken
		env := []string{
			"GATEWAY=" + serve(t, w.watched(t)), "GATEWAY_ADMIN_TOKEN=" + adminToken, "AUTH=Authorization: Bearer " + adminToken,
			"ID_TOKEN=" + token,
		}
		for _, s := range sections {
			t.Run(s.route, func(t *testing.T) {
				w.runCommands(t, s.commands, env)
			})
		}
	})
}

func readReference(t *testing.T) []section {
	t.Helper()
	reference, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	route := regexp.MustCompile("^`([A-Z]+ /v1/[^`]*)`\n")
	block := regexp.MustCompile("(?s)```sh\n(.*?)```")
	var sections []section
	for _, text := range strings.Split(string(reference), "\n### ") {
		m := route.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		if b := block.FindStringSubmatch(text); b != nil {
			sections = append(sections, section{route: m[1], commands: b[1]})
		}
	}
	if len(sections) < 20 {
		t.Fatalf("found %d routes with commands", len(sections))
	}
	return sections
}

// watched passes requests of other programs on to the gateway, and holds the
// answers of the management API against the OpenAPI document.
func (g *gateway) watched(t *testing.T) http.Handler {
	t.Helper()
	target, err := url.Parse(g.url)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Transport: management,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			http.Error(rw, err.Error(), http.StatusBadGateway)
		},
	}
}

// runCommands runs commands of the documents in a shell, where what they are
// about exists.
func (w *world) runCommands(t *testing.T, commands string, env []string) {
	t.Helper()
	commands = strings.NewReplacer(w.shortened(t)...).Replace(commands)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc",
		`curl() { command curl --silent --show-error --fail-with-body "$@"; }`+"\n"+commands)
	cmd.Dir = t.TempDir()
	cmd.Env = slices.Concat(os.Environ(), env, w.examples(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s\n%s", err, commands, out)
	}
}

// examples makes what the variables of the commands stand for.
func (w *world) examples(t *testing.T) []string {
	t.Helper()
	w.must(t, http.MethodPut, "/v1/projects/search", map[string]any{"max_dollars": "20.00"}, nil)
	requestID := w.hi(t)
	if _, err := w.audit(t.Context(), requestID); err != nil {
		t.Fatal(err)
	}
	var member struct {
		ID string `json:"id"`
	}
	invitation := map[string]string{"email": strings.ToLower(rand.Text()) + "@example.com", "role": "viewer"}
	w.must(t, http.MethodPost, "/v1/members", invitation, &member)
	return []string{
		"INVITATION_ID=" + w.inviteElsewhere(t, "sub-olga"),
		"KEY_ID=" + w.createKey(t, "example", nil).ID,
		"REQUEST_ID=" + requestID,
		"MEMBER_ID=" + member.ID,
	}
}

// inviteElsewhere invites a person to an organization of their own.
func (w *world) inviteElsewhere(t *testing.T, account string) (invitationID string) {
	t.Helper()
	id := strings.ToLower(rand.Text())
	w.must(t, http.MethodPost, "/v1/organizations", map[string]string{"id": id, "name": "Example"}, nil)
	return w.as(id).invite(t, account, "owner")
}

// shortened are pairs of an id as the commands show it and one that is there.
func (w *world) shortened(t *testing.T) []string {
	t.Helper()
	var nodes list[struct {
		ID string `json:"id"`
	}]
	w.must(t, http.MethodGet, "/v1/nodes", nil, &nodes)
	if len(nodes.Data) == 0 {
		t.Fatal("no nodes")
	}
	var token struct {
		ID string `json:"id"`
	}
	w.must(t, http.MethodPost, "/v1/operator-tokens", map[string]string{"name": "example"}, &token)
	return []string{"node_5f0c...", nodes.Data[0].ID, "token_...", token.ID}
}

// hi sends a request that succeeds and returns its id.
func (w *world) hi(t *testing.T) (requestID string) {
	t.Helper()
	res, body := w.send(t, w.key.Key, http.MethodPost, "/openai/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o-mini","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}`),
		map[string]string{"Content-Type": "application/json"})
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", res.StatusCode, body)
	}
	return res.Header.Get("X-Request-Id")
}
