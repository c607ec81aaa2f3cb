package cli

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const testToken = "secret-of-the-operator"

// result is how a command has ended.
type result struct {
	out, notes string
	err        error
}

// run runs a command as the process would.
func run(t *testing.T, args ...string) result {
	t.Helper()
	root := &cobra.Command{Use: "llm-gateway", SilenceErrors: true, SilenceUsage: true}
	Group(root, Commands()...)
	var out, notes bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return result{out.String(), notes.String(), err}
}

// serve is a gateway that answers as told. Its address and token are flags.
func serve(t *testing.T, answer http.HandlerFunc) (flags []string) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return []string{"--url", s.URL, "--token", testToken}
}

func writeJSON(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

const (
	aKey = `{"id":"key_1","name":"ci\u001b[31m","prefix":"sk-proxy-a1b2...","status":"active","allowed_models":["gpt-4o*"],` +
		`"usage_limit_dollars":25.000000001,"usage_limit_reset":"monthly","created_at":"2026-11-01T08:00:00.5Z","spend_nanos":90000}`
	anEntry = `{"id":"ent_1","type":"adjustment","amount_nanos":-12500000000,"balance_after_nanos":87500000000,` +
		`"created_at":"2026-11-01T08:00:00Z","request_id":null,"payment_id":null,"reason":"typo","actor":"operator"}`
	aRequest = `{"request_id":"req_1","created_at":"2026-11-01T08:00:00Z","provider":"openai","model":"gpt-4o-2024-08-06","key_id":"key_1",` +
		`"key_name":"ci","status":200,"prompt_tokens":1204,"completion_tokens":11,"cost_nanos":2408000,"market_cost_nanos":3010000,"latency_ms":1250,"changes":[]}`
	anInvitation  = `{"id":"mem_1","organization":{"id":"acme","name":"Acme"},"role":"owner","invited_by":"operator:ops","created_at":"2026-11-01T00:00:00Z"}`
	aMember       = `{"id":"mem_1","email":"ada@acme.example","role":"admin","name":null,"joined_at":null}`
	aToken        = `{"id":"opt_1","name":"Ada","status":"active"}`
	anOrg         = `{"id":"acme","name":"Acme Inc.","balance_nanos":1000000000}`
	aBudget       = `{"max_dollars":100,"soft_dollars":null,"period":"monthly","spent_nanos":1430000}`
	someUsage     = `{"from":"2026-11-01T00:00:00Z","to":null,"totals":{"requests":3,"cost_nanos":1000,"market_cost_nanos":1250,"savings_nanos":250,"savings_percent":20},"groups":[]}`
	dailyUsage    = `{"from":null,"to":null,"totals":{"requests":3,"savings_percent":20},"groups":[{"key":{"key":{"id":"key_1","name":"ci"},"date":"2026-11-01"},"requests":2,"savings_percent":20},{"key":{},"other":true,"requests":1,"savings_percent":0}]}`
	aChange       = `{"id":"chg_1","at":"2026-11-01T08:00:00Z","actor_kind":"operator","actor_id":"t","actor_name":"Ada","client_ip":"192.0.2.1","action":"key.update","subject_kind":"key","subject_id":"key_1","before":{},"after":null}`
	anEmptyList   = `{"data":[],"next_cursor":null}`
	organizations = `{"data":[` + anOrg + `],"next_cursor":null}`
)

var itemized = strings.TrimSuffix(aRequest, "}") + `,"calculation":{"lines":[{"model":null,"text":"1,204 input tokens x $2.50/M","amount":"0.00301"}],` +
	`"market_amount":"0.00301","discount_percent":"20%","discount_amount":"-0.000602","amount":"0.002408"}}`

// A command, what it asks, what is answered, and what must then be shown.
var commandTests = map[string]struct {
	args   []string
	asks   string // method, target and, if there is one, body
	status int
	answer string
	shows  []string
}{
	"keys list": {
		args: []string{"keys", "list", "--status", "active", "--search", "c"}, asks: "GET /v1/keys?limit=50&q=c&status=active", answer: `{"data":[` + aKey + `],"next_cursor":"abc"}`,
		shows: []string{
			"ID     NAME     STATUS  PREFIX               SPENT          LIMIT  RESET    LAST USED",
			"key_1  ci\ufffd[31m  active  sk-proxy-a1b2...  $0.00009  $25.000000001  monthly  -", "--cursor abc",
		},
	},
	"keys create": {
		args:   []string{"keys", "create", "--name", "ci", "--allowed-models", "gpt-4o*,openai/*", "--usage-limit-dollars", "25.10", "--rate-limit-rpm", "60", "--expires-at", "2027-06-30"},
		asks:   `POST /v1/keys {"allowed_models":["gpt-4o*","openai/*"],"expires_at":"2027-06-30T00:00:00Z","name":"ci","rate_limit_rpm":60,"usage_limit_dollars":"25.10"}`,
		status: 201, answer: `{"key":"sk-proxy-abc","id":"key_1","proxy_key":` + aKey + `}`,
		shows: []string{"not shown again:\n\n  sk-proxy-abc\n", "Limit                 $25.000000001", "Addresses             all"},
	},
	"keys show": {args: []string{"keys", "show", "a/b"}, asks: "GET /v1/keys/a%2Fb", answer: aKey, shows: []string{"Models                gpt-4o*"}},
	"keys edit": {
		args: []string{"keys", "edit", "key_1", "--usage-limit-dollars", "none", "--allowed-models", "", "--max-concurrent", "none", "--expires-at", "none"},
		asks: `PATCH /v1/keys/key_1 {"allowed_models":[],"expires_at":null,"max_concurrent":null,"usage_limit_dollars":null}`, answer: aKey,
		shows: []string{"key_1"},
	},
	"keys revoke": {args: []string{"keys", "revoke", "key_1"}, asks: "POST /v1/keys/key_1/revoke", answer: aKey, shows: []string{"key_1"}},
	"keys rotate": {
		args: []string{"keys", "rotate", "key_1", "--overlap", "90m"}, asks: `POST /v1/keys/key_1/rotate {"overlap_seconds":5400}`,
		answer: `{"key":"sk-proxy-new","id":"key_1","proxy_key":` + aKey + `}`, shows: []string{"  sk-proxy-new\n"},
	},
	"keys usage": {
		args: []string{"keys", "usage", "key_1", "--from", "2026-11-01"}, asks: "GET /v1/keys/key_1/usage?from=2026-11-01", answer: someUsage,
		shows: []string{"From 2026-11-01T00:00:00Z to now", "$0.000001  $0.00000125  $0.00000025       20\n"},
	},
	"orgs list":   {args: []string{"orgs", "list", "--all"}, asks: "GET /v1/organizations?limit=500", answer: organizations, shows: []string{"acme  Acme Inc.    $1.00"}},
	"orgs create": {args: []string{"orgs", "create", "--id", "acme", "--name", "Acme", "--owner-email", "a@b.example"}, asks: `POST /v1/organizations {"id":"acme","name":"Acme","owner_email":"a@b.example"}`, status: 201, answer: anOrg, shows: []string{"acme"}},
	"orgs show":   {args: []string{"orgs", "show", "acme"}, asks: "GET /v1/organizations/acme", answer: anOrg, shows: []string{"Balance  $1.00"}},
	"orgs edit":   {args: []string{"orgs", "edit", "acme", "--name", "A"}, asks: `PATCH /v1/organizations/acme {"name":"A"}`, answer: anOrg, shows: []string{"acme"}},
	"orgs budget get": {
		args: []string{"orgs", "budget", "get"}, asks: "GET /v1/budget", answer: aBudget,
		shows: []string{"Limit                $100.00", "Soft limit           -", "Spent                $0.00143"},
	},
	"orgs budget set": {
		args: []string{"orgs", "budget", "set", "--max-dollars", "100", "--week-start", "none"}, asks: `PUT /v1/budget {"max_dollars":"100","week_start":null}`,
		answer: aBudget, shows: []string{"monthly"},
	},
	"members list":   {args: []string{"members", "list"}, asks: "GET /v1/members?limit=50", answer: `{"data":[` + aMember + `],"next_cursor":null}`, shows: []string{"mem_1  ada@acme.example  -     admin  invited"}},
	"members invite": {args: []string{"members", "invite", "ada@acme.example", "--role", "admin"}, asks: `POST /v1/members {"email":"ada@acme.example","role":"admin"}`, status: 201, answer: aMember, shows: []string{"mem_1"}},
	"members show":   {args: []string{"members", "show", "mem_1"}, asks: "GET /v1/members/mem_1", answer: aMember, shows: []string{"admin"}},
	"members edit":   {args: []string{"members", "edit", "mem_1", "--role", "viewer"}, asks: `PATCH /v1/members/mem_1 {"role":"viewer"}`, answer: aMember, shows: []string{"mem_1"}},
	"invitations list": {args: []string{"invitations", "list"}, asks: "GET /v1/invitations?limit=50", answer: `{"data":[` + anInvitation + `],"next_cursor":null}`,
		shows: []string{"mem_1  acme          Acme  owner  operator:ops"}},
	"invitations accept":  {args: []string{"invitations", "accept", "mem_1"}, asks: "POST /v1/invitations/mem_1/accept", answer: aMember, shows: []string{"ada@acme.example"}},
	"invitations decline": {args: []string{"invitations", "decline", "mem_1"}, asks: "POST /v1/invitations/mem_1/decline", status: 204, shows: []string{"Declined mem_1"}},

	"members remove": {args: []string{"members", "remove", "mem_1"}, asks: "DELETE /v1/members/mem_1", status: 204, shows: []string{"Removed mem_1"}},
	"credits balance": {
		args: []string{"credits", "balance", "--org", "acme"}, asks: "GET /v1/account",
		answer: `{"organization":` + anOrg + `,"role":"operator","balance_nanos":-5,"held_nanos":0}`, shows: []string{"acme (Acme Inc.)", "-$0.000000005"},
	},
	"credits packages": {
		args: []string{"credits", "packages"}, asks: "GET /v1/billing/packages",
		answer: `{"data":[{"id":"starter","price_nanos":10000000000,"credits_nanos":10000000000}],"next_cursor":null}`, shows: []string{"starter  $10.00   $10.00"},
	},
	"credits buy": {
		args: []string{"credits", "buy", "starter"}, asks: `POST /v1/billing/purchase {"package_id":"starter"}`,
		answer: `{"checkout_url":"https://checkout.example/1"}`, shows: []string{"  https://checkout.example/1\n"},
	},
	"credits adjust": {
		args: []string{"credits", "adjust", "--reason", "typo", "--", "-12.50"}, asks: `POST /v1/organizations/default/adjustments {"amount_dollars":"-12.50","reason":"typo"}`,
		status: 201, answer: anEntry, shows: []string{"Amount   -$12.50", "Balance  $87.50"},
	},
	"credits transactions list": {
		args: []string{"credits", "transactions", "list", "--limit", "1"}, asks: "GET /v1/billing/transactions?limit=1",
		answer: `{"data":[` + anEntry + `],"next_cursor":null}`, shows: []string{"-$12.50   $87.50  typo"},
	},
	"credits transactions export": {
		args: []string{"credits", "transactions", "export", "--from", "2026-11-01"}, asks: "GET /v1/billing/transactions/export?format=csv&from=2026-11-01",
		answer: "id\nent_1\n", shows: []string{"id\nent_1\n"},
	},
	"usage": {
		args: []string{"usage", "--group-by", "date,key", "--interval", "day", "--timezone", "Europe/Zurich", "--key", "key_1"},
		asks: "GET /v1/usage?group_by=date%2Ckey&interval=day&key_id=key_1&timezone=Europe%2FZurich", answer: dailyUsage,
		shows: []string{"DATE        KEY         REQUESTS", "2026-11-01  ci (key_1)         2", "Others                         1", "Total                          3"},
	},
	"audit list": {
		args: []string{"audit", "list", "--status", "200", "--filter", "streaming=true", "--key", "key_1"},
		asks: "GET /v1/audit?key_id=key_1&limit=50&status=200&streaming=true", answer: `{"data":[` + aRequest + `],"next_cursor":null}`,
		shows: []string{"req_1    2026-11-01T08:00:00Z  ci   openai    gpt-4o-2024-08-06     200    1204          11  $0.002408  -"},
	},
	"audit show": {args: []string{"audit", "show", "req_1"}, asks: "GET /v1/audit/req_1", answer: itemized, shows: []string{
		"1.25s", "$0.00301",
		"1,204 input tokens x $2.50/M    0.00301", "discount 20%", "-0.000602", "price                          0.002408",
	}},
	"audit export":  {args: []string{"audit", "export", "--format", "jsonl", "--after", "req_0"}, asks: "GET /v1/audit/export?after=req_0&format=jsonl", answer: "{}\n", shows: []string{"{}\n"}},
	"tokens list":   {args: []string{"tokens", "list"}, asks: "GET /v1/operator-tokens?limit=50", answer: `{"data":[` + aToken + `],"next_cursor":null}`, shows: []string{"opt_1  Ada   active"}},
	"tokens create": {args: []string{"tokens", "create", "--name", "Ada"}, asks: `POST /v1/operator-tokens {"name":"Ada"}`, status: 201, answer: `{"token":"the-token","operator_token":` + aToken + `}`, shows: []string{"  the-token\n"}},
	"tokens revoke": {args: []string{"tokens", "revoke", "opt_1"}, asks: "POST /v1/operator-tokens/opt_1/revoke", answer: aToken, shows: []string{"opt_1"}},
	"changes list": {args: []string{"changes", "list"}, asks: "GET /v1/changes?limit=50", answer: `{"data":[` + aChange + `],"next_cursor":null}`,
		shows: []string{"chg_1  2026-11-01T08:00:00Z  operator Ada  192.0.2.1  key.update  key key_1"}},
	"changes export": {args: []string{"changes", "export"}, asks: "GET /v1/changes/export?format=csv", answer: "id\n", shows: []string{"id\n"}},
}

func TestCommands(t *testing.T) {
	t.Parallel()
	for name, tt := range commandTests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked string
			flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(body))
				if got := r.Header.Get("Authorization"); got != "Bearer "+testToken {
					t.Errorf("asked with %q", got)
				}
				if len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
					t.Error("the body is not told to be JSON")
				}
				writeJSON(w, max(tt.status, 200), tt.answer)
			})
			got := run(t, append(flags, tt.args...)...)
			if got.err != nil {
				t.Fatal(got.err)
			}
			if diff := cmp.Diff(tt.asks, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			for _, part := range tt.shows {
				if !strings.Contains(got.out+got.notes, part) {
					t.Errorf("does not show %q:\n%s%s", part, got.out, got.notes)
				}
			}
		})
	}
}

func TestEveryCommandIsTested(t *testing.T) {
	t.Parallel()
	root := &cobra.Command{Use: "llm-gateway"}
	root.AddCommand(Commands()...)
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			visit(c)
		}
		name := strings.TrimPrefix(cmd.CommandPath(), "llm-gateway ")
		if _, tested := commandTests[name]; !tested && !cmd.HasSubCommands() {
			t.Errorf("no test of %s", name)
		}
	}
	visit(root)
}

func TestJSONIsTheAPIsOwn(t *testing.T) {
	t.Parallel()
	const odd = `{"data":[{"id":"a","new_field":1.10}],  "next_cursor":null}`
	flags := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, odd) })
	if got := run(t, append([]string{"keys", "list", "--json"}, flags...)...); got.err != nil || got.out != odd+"\n" {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

func TestAllPagesAreOneList(t *testing.T) {
	t.Parallel()
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			writeJSON(w, 200, `{"data":[{"id":"a"}],"next_cursor":"2"}`)
		case "2":
			writeJSON(w, 200, `{"data":[{"id":"b"}],"next_cursor":null}`)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	got := run(t, append([]string{"keys", "list", "--all", "--json"}, flags...)...)
	if want := `{"data":[{"id":"a"},{"id":"b"}],"next_cursor":null}` + "\n"; got.err != nil || got.out != want {
		t.Errorf("%v: %s, want %s", got.err, got.out, want)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"keys", "nothing"}, {"keys", "list", "stray"}, {"keys", "show"}, {"keys", "show", ""}, {"keys", "show", ".."},
		{"keys", "create"}, {"keys", "edit", "key_1"}, {"keys", "list", "--limit", "0"}, {"keys", "list", "--limit", "501"},
		{"keys", "create", "--name", "a", "--rate-limit-rpm", "many"}, {"keys", "create", "--name", "a", "--expires-at", "tomorrow"},
		{"keys", "rotate", "key_1", "--overlap", "-1s"}, {"keys", "rotate", "key_1", "--overlap", "1ms"},
		{"members", "invite", "ada@acme.example"}, {"orgs", "create"}, {"orgs", "budget", "set"}, {"orgs", "budget", "nothing"},
		{"credits", "adjust", "5"}, {"credits", "adjust", "five", "--reason", "x"}, {"tokens", "create"},
		{"audit", "list", "--filter", "streaming"}, {"audit", "export", "--format", "xml"}, {"audit", "export", "--resume"},
		{"audit", "export", "--resume", "-o", "x.json"}, {"audit", "export", "--json"}, {"audit", "export", "--resume", "--after", "a", "-o", "x.csv"},
		{"keys", "list", "--url", "ftp://gateway"}, {"keys", "list", "--url", "http://a:b@gateway"}, {"keys", "list", "--url", "http://gateway/?a=b"},
		{"keys", "list", "--token-file", "x"}, {"keys", "list", "--org", "a\nb"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			flags := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) })
			if !slices.Contains(args, "--url") {
				args = append(args, flags[:2]...)
			}
			got := run(t, append(args, flags[2:]...)...)
			if got.err == nil || ExitCode(got.err) != 2 {
				t.Errorf("error is %v", got.err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		kind   string
		body   string
		want   string
	}{
		"fields": {
			422, "application/json", `{"error":"body.name: is missing (and 1 more)","details":[{"location":"body.name","message":"is missing"},{"location":"body.x","message":"unknown\u001b"}]}`,
			"body.name: is missing (and 1 more) (422)\n  body.name: is missing\n  body.x: unknown\ufffd",
		},
		"one field":          {422, "application/json", `{"error":"body.name: is missing","details":[{"location":"body.name","message":"is missing"}]}`, "body.name: is missing (422)"},
		"not of the message": {409, "application/json", `{"error":"in_use","details":[{"location":"header.X","message":"used"}]}`, "in_use (409)\n  header.X: used"},
		"a stranger":         {404, "text/html", `<html>`, "but not as a gateway's management API does"},
		"another API":        {400, "application/json", `{"message":"no"}`, "but not as a gateway's management API does"},
		"a success of none":  {200, "text/html", `<html>`, "but not as a gateway's management API does"},
		"no list":            {200, "application/json", `{}`, "but not as a gateway's management API does"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			got := run(t, append([]string{"keys", "list"}, flags...)...)
			if got.err == nil || !strings.Contains(got.err.Error(), tt.want) || ExitCode(got.err) != 1 {
				t.Errorf("error is %v, want %s", got.err, tt.want)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s with %v", r.URL, r.Header) })
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other[1], http.StatusMovedPermanently)
	})
	got := run(t, append([]string{"keys", "list"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), other[1]) {
		t.Errorf("error is %v", got.err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	flags := []string{"--url", s.URL, "--token", testToken}
	got := run(t, append([]string{"keys", "list"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), s.URL) || !strings.Contains(got.err.Error(), "is it running?") {
		t.Errorf("error is %v", got.err)
	}
}

// cut answers nothing, and ends the connection.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestChangesThatMayHaveBeenMade(t *testing.T) {
	t.Parallel()
	flags := serve(t, cut)
	got := run(t, append([]string{"keys", "create", "--name", "a"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), "look before you repeat it") {
		t.Errorf("error is %v", got.err)
	}
	got = run(t, append([]string{"credits", "buy", "starter", "--idempotency-key", "order-42-of-november"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), "--idempotency-key order-42-of-november") {
		t.Errorf("error is %v", got.err)
	}
}

func TestIdempotencyKeysAreOfOneRunEach(t *testing.T) {
	t.Parallel()
	var keys []string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		writeJSON(w, 201, anEntry)
	})
	for range 2 {
		if got := run(t, append([]string{"credits", "adjust", "5", "--reason", "x"}, flags...)...); got.err != nil {
			t.Fatal(got.err)
		}
	}
	if len(keys) != 2 || keys[0] == keys[1] || len(keys[0]) < 16 {
		t.Errorf("keys are %q", keys)
	}
}

func TestTokensAreNotShown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(testToken+"\n"+testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := serve(t, cut)
	for _, args := range [][]string{
		{"keys", "list", "--token", testToken}, {"keys", "list", "--token", testToken + "\n"}, {"keys", "list", "--token-file", file},
		{"keys", "list", "--token", testToken, "--url", "http://" + testToken + "@host"}, {"keys", "list", "--token", testToken, "--help"},
	} {
		got := run(t, append(flags[:2:2], args...)...)
		if got.err != nil {
			got.out += got.err.Error()
		}
		if got.out == "" || strings.Contains(got.out+got.notes, testToken) {
			t.Errorf("%q shows %s%s", args, got.out, got.notes)
		}
	}
}

// It is not parallel: the environment is the process's.
func TestSettingsOfTheEnvironment(t *testing.T) {
	var token, org string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token, org = r.Header.Get("Authorization"), r.Header.Get("X-Organization")
		writeJSON(w, 200, anEmptyList)
	})
	t.Setenv(tokenVariable, "")
	if got := run(t, "keys", "list", "--url", flags[1]); ExitCode(got.err) != 2 || !strings.Contains(got.err.Error(), "$GATEWAY_ADMIN_TOKEN") {
		t.Errorf("without a token the error is %v", got.err)
	}
	t.Setenv(urlVariable, strings.TrimPrefix(flags[1], "http://")+"/")
	t.Setenv(tokenVariable, "of-the-environment\n")
	t.Setenv(organizationVariable, "acme")
	if got := run(t, "keys", "list"); got.err != nil || token != "Bearer of-the-environment" || org != "acme" {
		t.Errorf("%v, token %q, organization %q", got.err, token, org)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("of-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "keys", "list", "--token-file", file, "--org", "other"); got.err != nil || token != "Bearer of-the-file" || org != "other" {
		t.Errorf("%v, token %q, organization %q", got.err, token, org)
	}
	if got := run(t, "keys", "--help"); got.err != nil || strings.Contains(got.out, "of-the-environment") {
		t.Errorf("%v: help shows %s", got.err, got.out)
	}
}

func TestHelpShowsExamples(t *testing.T) {
	t.Parallel()
	if got := run(t, "keys", "create", "--help"); got.err != nil || !strings.Contains(got.out, "caddy llm-gateway keys create --name laptop") {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

// Two who edit the same must not undo what the other has done.
func TestVersions(t *testing.T) {
	t.Parallel()
	var match string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		match = r.Header.Get("If-Match")
		w.Header().Set("ETag", `"key-1"`)
		writeJSON(w, 200, aKey)
	})
	if got := run(t, append([]string{"keys", "show", "key_1"}, flags...)...); got.err != nil || !strings.Contains(got.out, "Version               key-1\n") {
		t.Errorf("%v: %s", got.err, got.out)
	}
	created := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"key-1"`)
		writeJSON(w, 201, `{"key":"sk-proxy-abc","proxy_key":`+aKey+`}`)
	})
	if got := run(t, append([]string{"keys", "create", "--name", "a"}, created...)...); got.err != nil || !strings.Contains(got.out, "Version               key-1\n") {
		t.Errorf("%v: %s", got.err, got.out)
	}
	for version, want := range map[string]string{"key-1": `"key-1"`, `"key-1"`: `"key-1"`, "*": "*", "": ""} {
		got := run(t, append([]string{"keys", "edit", "key_1", "--name", "a", "--if-match", version}, flags...)...)
		if got.err != nil || match != want {
			t.Errorf("%v: of version %s asked for %s, want %s", got.err, version, match, want)
		}
	}
}

// An organization is made in a shell that names it already.
func TestCommandsAboutNoOrganizationNameNone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"orgs", "create", "--name", "Acme"}, {"orgs", "list"}, {"orgs", "show", "acme"}, {"orgs", "edit", "acme", "--name", "A"},
		{"tokens", "list"}, {"tokens", "create", "--name", "a"}, {"tokens", "revoke", "a"}, {"invitations", "list"},
		{"invitations", "accept", "a"}, {"invitations", "decline", "a"}, {"credits", "adjust", "5", "--reason", "x"},
	} {
		flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if org := r.Header.Get("X-Organization"); org != "" || args[0] == "credits" && r.URL.Path != "/v1/organizations/acme/adjustments" {
				t.Errorf("%q: asks for %s of %q", args, r.URL, org)
			}
			writeJSON(w, 200, anEmptyList)
		})
		if got := run(t, append(append(flags, "--org", "acme"), args...)...); got.err != nil {
			t.Errorf("%q: %v", args, got.err)
		}
	}
}
