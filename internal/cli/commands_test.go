package cli

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

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
	aChange       = `{"id":"chg_1","at":"2026-11-01T08:00:00Z","actor_kind":"operator","actor_id":"t","actor_name":"Ada","client_ip":"192.0.2.1","action":"key.update","subject_kind":"key","subject_id":"key_1","before":{"name":"a"},"after":{"name":"b","project":"p"}}`
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
		args:   []string{"credits", "transactions", "list", "--limit", "1", "--type", "refund", "--type", "adjustment", "--order", "asc"},
		asks:   "GET /v1/billing/transactions?limit=1&order=asc&type=refund&type=adjustment",
		answer: `{"data":[` + anEntry + `],"next_cursor":null}`, shows: []string{"-$12.50   $87.50  typo"},
	},
	"credits transactions export": {
		args: []string{"credits", "transactions", "export", "--from", "2026-11-01"}, asks: "GET /v1/billing/transactions/export?format=csv&from=2026-11-01",
		answer: "id\nent_1\n", shows: []string{"id\nent_1\n"},
	},
	"usage": {
		args: []string{"usage", "--group-by", "date,key", "--interval", "day", "--timezone", "Europe/Zurich", "--key", "key_1", "--key", "key_2", "--owner", "mem_1"},
		asks: "GET /v1/usage?group_by=date%2Ckey&interval=day&key_id=key_1&key_id=key_2&owner=mem_1&timezone=Europe%2FZurich", answer: dailyUsage,
		shows: []string{"DATE        KEY         REQUESTS", "2026-11-01  ci (key_1)         2", "Others                         1", "Total                          3"},
	},
	"audit list": {
		args: []string{"audit", "list", "--status", "200", "--status", "4xx", "--streaming", "true", "--key", "key_1", "--max-cost-nanos", "5"},
		asks: "GET /v1/audit?key_id=key_1&limit=50&max_cost_nanos=5&status=200&status=4xx&streaming=true", answer: `{"data":[` + aRequest + `],"next_cursor":null}`,
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
		shows: []string{"chg_1  2026-11-01T08:00:00Z  operator Ada  192.0.2.1  key.update  key key_1  name, project"}},
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
