package admin

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/cli"
)

// terminal runs commands against the API of a gateway.
type terminal struct {
	t     *testing.T
	flags []string
}

func newTerminal(t *testing.T, g *testGateway, org string) terminal {
	t.Helper()
	s := httptest.NewServer(New(g))
	t.Cleanup(s.Close)
	return terminal{t, []string{"--url", s.URL, "--token", testToken, "--org", org}}
}

func (c terminal) run(args ...string) (string, error) {
	root := &cobra.Command{Use: "llm-gateway", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(cli.Commands()...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append(c.flags[:len(c.flags):len(c.flags)], args...))
	err := root.ExecuteContext(c.t.Context())
	return out.String(), err
}

// shows fails the test unless the command ends well, and shows the parts.
func (c terminal) shows(args []string, parts ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("%q: %v", args, err)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			c.t.Errorf("%q does not show %q:\n%s", args, part, out)
		}
	}
	return out
}

// refused fails the test unless the command fails and says why.
func (c terminal) refused(args []string, why string) {
	c.t.Helper()
	if out, err := c.run(args...); err == nil || !strings.Contains(err.Error(), why) {
		c.t.Errorf("%q: error is %v, want %s\n%s", args, err, why, out)
	}
}

// words splits a command line without quotes.
func words(line string) []string { return strings.Fields(line) }

// What a newcomer does first.
func TestCommandLineFromNothingToTheAuditTrail(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newTerminal(t, g, "blue")
	c.refused(words("credits balance"), "no such organization")
	c.shows([]string{"orgs", "create", "--id", "blue", "--name", "Blue Inc."}, "blue", "Blue Inc.", "$0.00")
	c.refused([]string{"orgs", "create", "--id", "blue", "--name", "Another"}, "body.id: ")
	c.shows(words("orgs list --all"), "blue", otherOrg, billing.DefaultOrganization)
	c.shows([]string{"orgs", "edit", "blue", "--name", "Blue"}, "Blue")

	c.shows(words("credits adjust 25.000000001 --reason trial --idempotency-key trial-of-blue-inc"), "adjustment", "$25.000000001")
	c.shows(words("credits adjust 25.000000001 --reason trial --idempotency-key trial-of-blue-inc"), "Balance  $25.000000001")
	c.shows(words("credits adjust --reason rounding -- -0.000000001"), "-$0.000000001", "$25.00")
	c.shows(words("credits packages"), "starter")
	c.shows(words("credits buy starter"), "purchase", "$10.00", "$35.00")
	c.refused(words("credits buy nothing"), "body.package_id")

	id := c.createsKey("laptop", "--usage-limit-dollars", "5", "--usage-limit-reset", "monthly", "--allowed-models", "gpt-4o*")
	now := time.Now()
	debit := request(billing.NewID(billing.RequestIDPrefix, now), id, now, 2_408_000)
	debit.OrganizationID, debit.KeyName, debit.MarketCost = "blue", "laptop", 3_010_000
	g.post(t, debit)
	c.shows(words("credits balance"), "blue (Blue)", "Balance       $34.997592")
	c.shows(words("credits transactions list"), "usage_debit", "-$0.002408", "$34.997592", debit.RequestID, "purchase", "adjustment", "rounding")
	c.shows(words("audit list --model gpt-4o"), debit.RequestID, "laptop", "$0.002408")
	c.shows(words("audit show "+debit.RequestID), "sdk/1", "1.5s", "$0.00301", "$0.002408")
	c.shows(words("usage"), "$0.002408", "$0.00301", "$0.000602", "20")
	c.shows(words("usage --group-by date,key --interval month --timezone Europe/Zurich --sort cost --limit 1"), "DATE", "laptop ("+id+")", "Total", "$0.002408")
	c.refused(words("usage --group-by weather"), "query.group_by")
	c.shows(words("keys usage "+id+" --group-by model"), "MODEL", "gpt-4o", "$0.002408")
	c.shows(words("keys show "+id), "Spent                 $0.002408", "Limit                 $5.00")
	c.refused(words("keys show nobody"), "no such key")
}

func TestCommandLineEditsKeys(t *testing.T) {
	t.Parallel()
	c := newTerminal(t, newGateway(t), otherOrg)
	id := c.createsKey("ci")
	c.shows(append(words("keys edit "+id+" --rate-limit-rpm 60 --rate-limit-tpm 1000 --max-concurrent 3 --project search"),
		"--allowed-ips", "192.0.2.0/24,::1", "--expires-at", "2999-01-01", "--usage-limit-dollars", "25.10", "--usage-soft-limit-dollars", "20"),
		"192.0.2.0/24, ::1", "60", "1000", "search", "$25.10", "$20.00", "2999-01-01T00:00:00Z")
	out := c.shows(append(words("keys edit "+id+" --rate-limit-rpm none --project none --expires-at none --usage-limit-dollars none"), "--allowed-ips", ""),
		"Addresses             all", "Requests per minute   -", "Tokens per minute     1000")
	for _, cleared := range []string{"search", "$25.10", "2999-01-01"} {
		if strings.Contains(out, cleared) {
			t.Errorf("still has %s:\n%s", cleared, out)
		}
	}
	c.refused(append(words("keys edit "+id), "--allowed-ips", "nowhere", "--rate-limit-rpm", "-1"), "body.rate_limit_rpm")
	if out := c.shows(words("keys rotate "+id+" --overlap 1h"), "Earlier secret until"); !strings.Contains(out, billing.KeyPrefix) {
		t.Errorf("shows no secret:\n%s", out)
	}
	c.shows(words("keys revoke "+id), "revoked")
	c.refused(words("keys edit "+id+" --name other"), "revoked")
	for range 3 {
		c.createsKey("one more")
	}
	c.shows(words("keys list --limit 2"), "--cursor ")
	if all := c.shows(words("keys list --all")); strings.Count(all, "key_") != 4 {
		t.Errorf("lists other than 4 keys:\n%s", all)
	}
	c.shows(words("orgs budget set --max-dollars 100 --soft-dollars 80 --period weekly --week-start monday --hold strict"), "$100.00", "monday", "strict")
	c.shows(words("orgs budget get"), "$80.00", "weekly")
	c.shows(words("members invite ada@acme.example --role owner"), "ada@acme.example", "owner")
	c.refused(words("members invite ada --role owner"), "body.email")
	c.refused(words("members invite bob@acme.example --role king"), "body.role")
	bob := lastField(c.shows(words("members invite bob@acme.example --role viewer")), "ID")
	c.shows(words("members edit "+bob+" --role finance"), "finance")
	c.shows(words("members list"), "bob@acme.example", "invited")
	c.shows(words("members remove "+bob), "Removed")
	c.refused(words("members show "+bob), "no such member")
}

// createsKey returns the id of a new key.
func (c terminal) createsKey(name string, flags ...string) string {
	c.t.Helper()
	out := c.shows(append([]string{"keys", "create", "--name", name}, flags...), billing.KeyPrefix, "not shown again", name)
	return lastField(out, "ID")
}

// lastField is the value of a field that is shown.
func lastField(out, name string) string {
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return f[len(f)-1]
		}
	}
	return ""
}
