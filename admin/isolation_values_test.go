package admin

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// What the isolation test knows of the API. A route, a parameter or a field that
// is not here fails it: add a line that says what of another organization's to
// put there, or that there is nothing.

// belongings are the ids of what an organization has.
type belongings struct {
	org, key, member, invitation, request, change, project, token, node string
}

// theOther is the id of the other organization.
const theOther = "org_other"

// marker is in every text of the other organization's that is not an id, and
// markedAmount in the amounts.
const (
	marker       = "zz-of-the-other"
	markedAmount = "777777.77"
)

// pathIDs are the parameters of paths, by the path up to them.
var pathIDs = map[string]func(belongings) string{
	"/v1/audit/{request_id}":   func(b belongings) string { return b.request },
	"/v1/invitations/{id}":     func(b belongings) string { return b.invitation },
	"/v1/keys/{id}":            func(b belongings) string { return b.key },
	"/v1/members/{id}":         func(b belongings) string { return b.member },
	"/v1/nodes/{id}":           func(b belongings) string { return b.node },
	"/v1/operator-tokens/{id}": func(b belongings) string { return b.token },
	"/v1/organizations/{id}":   func(b belongings) string { return b.org },
	"/v1/projects/{name}":      func(b belongings) string { return b.project },
}

// queryIDs are the parameters of queries: all that is worth a try for each.
var queryIDs = map[string]func(belongings) []string{
	"action":        same("key.create"),
	"actor":         func(b belongings) []string { return []string{b.member} },
	"after":         func(b belongings) []string { return []string{b.request, b.change, "ent_0000000000000001"} },
	"changed":       same("true"),
	"client_ip":     same("192.0.2.1"),
	"endpoint":      same("/v1/chat/completions"),
	"error":         same("upstream request failed"),
	"format":        same("json"),
	"key_name":      same("Key " + marker),
	"price_rule_id": same("rule-1"),
	"request_id":    func(b belongings) []string { return []string{b.request} },
	"streaming":     same("true"),
	"type":          same("adjustment"),
	"usage_source":  same("provider"),
	"user_agent":    same("agent"),
	"cursor":        cursors,
	"examples":      same("5"),
	"from":          same("2020-01-01"),
	"group_by":      same("key"),
	"interval":      same("day"),
	"key_id":        func(b belongings) []string { return []string{b.key} },
	"limit":         same("500"),
	"mode":          same("full"),
	"model":         same("gpt-4o"),
	"order":         same("desc"),
	"owner":         func(b belongings) []string { return []string{b.member} },
	"owner_id":      func(b belongings) []string { return []string{b.member} },
	"project":       func(b belongings) []string { return []string{b.project} },
	"provider":      same("openai"),
	"q":             same("zz"),
	"role":          same("viewer"),
	"scope":         same("gateway"),
	"sort":          same("cost"),
	"status":        same("active"),
	"subject_id":    func(b belongings) []string { return []string{b.key, b.org, b.project} },
	"subject_kind":  same("key"),
	"timezone":      same("Europe/Berlin"),
	"to":            same("2099-01-01"),
}

// bounds are the parameters min_... and max_...
var bounds = regexp.MustCompile(`^(min|max)_(attempts|cost_nanos|latency_ms|market_cost_nanos|ttfb_ms|(\w+_)?tokens)$`)

func valuesOf(parameter string) (values func(belongings) []string, known bool) {
	if bounds.MatchString(parameter) {
		return same("777777770000000"), true
	}
	values, known = queryIDs[parameter]
	return values, known
}

// headerIDs are the parameters in headers.
var headerIDs = map[string]func(belongings) string{
	"Accept-Encoding":  func(belongings) string { return "identity" },
	"If-Match":         func(belongings) string { return "*" },
	"If-None-Match":    func(belongings) string { return `"a-tag"` },
	"Idempotency-Key":  func(b belongings) string { return idempotencyKeyOf(b.org) },
	organizationHeader: func(b belongings) string { return b.org },
}

// bodyIDs are the fields of bodies.
var bodyIDs = map[string]func(belongings) any{
	"allowed_ips":              is([]string{"192.0.2.1"}),
	"allowed_models":           is([]string{"gpt-4o"}),
	"allowed_providers":        is([]string{"openai"}),
	"amount_dollars":           is("1.00"),
	"email":                    is("somebody@example.com"),
	"expires_at":               is("2090-01-01T00:00:00Z"),
	"hold":                     is("strict"),
	"id":                       func(b belongings) any { return b.org },
	"idempotency_key":          func(b belongings) any { return idempotencyKeyOf(b.org) },
	"max_concurrent":           is(1),
	"max_dollars":              is(1),
	"name":                     is("a name"),
	"overlap_seconds":          is(0),
	"owner_email":              is("owner@example.com"),
	"owner_id":                 func(b belongings) any { return b.member },
	"package_id":               is("starter"),
	"period":                   is("monthly"),
	"project":                  func(b belongings) any { return b.project },
	"rate_limit_rpm":           is(1),
	"rate_limit_tpm":           is(1),
	"reason":                   is("a reason"),
	"role":                     is("viewer"),
	"soft_dollars":             is(1),
	"usage_limit_dollars":      is(1),
	"usage_limit_reset":        is("monthly"),
	"usage_soft_limit_dollars": is(1),
	"week_start":               is("monday"),
}

// ofEveryone are the operations that need no role in an organization.
var ofEveryone = map[string]bool{
	"get-openapi": true, "receive-webhook": true, "login": true, "login-callback": true, "get-session": true, "logout": true,
}

// ofTheOperator are the operations that are about all organizations, on purpose.
// Nobody but the operator may do them.
var ofTheOperator = map[string]bool{
	"adjust-balance": true, "create-organization": true, "get-organization": true, "list-organizations": true,
	"update-organization": true, "verify-ledger": true, "flush": true, "list-nodes": true, "list-node-leases": true,
	"list-providers":       true,
	"list-operator-tokens": true, "create-operator-token": true, "revoke-operator-token": true,
}

// makesItsOwn are the operations for which the other's name is as good as any:
// they make something of the caller's own.
var makesItsOwn = map[string]bool{"put-project": true}

func is(v any) func(belongings) any { return func(belongings) any { return v } }

func same(v string) func(belongings) []string {
	return func(belongings) []string { return []string{v} }
}

// cursors are the ids that lists of the organization continue from.
func cursors(b belongings) []string {
	var all []string
	for _, id := range b.listed() {
		all = append(all, base64.RawURLEncoding.EncodeToString([]byte(id)))
	}
	return all
}

// cursorsOf are the cursors that the organization's list of a path has.
func (b belongings) cursorsOf(path string) []string {
	p := Paging{list: listMark(b.org, path, url.Values{})}
	var all []string
	for _, id := range b.listed() {
		all = append(all, p.cursor(id))
	}
	return all
}

func (b belongings) listed() []string {
	return []string{b.org, b.key, b.member, b.request, b.change, b.project, "ent_0000000000000001"}
}

func idempotencyKeyOf(org string) string { return "idempotency-key-of-" + org }

// furnish gives an organization one of everything.
func (w *world) furnish(org, text string, amount billing.Money) belongings {
	t, s, now := w.t, w.g.store, time.Now().UTC().Truncate(timeUnit)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(s.EnsureOrganization(t.Context(), billing.Organization{ID: org, Name: "Organization " + text, CreatedAt: now}))
	_, err := s.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error {
		o.Budget, o.BudgetPeriod = &amount, billing.Monthly
		return nil
	})
	check(err)
	m := billing.Member{
		ID: billing.NewID("mem", now), OrganizationID: org, Email: text + "@example.com", Name: text, Role: billing.RoleViewer,
		Issuer: "https://elsewhere.example", Subject: text, CreatedAt: now, JoinedAt: now,
	}
	check(s.CreateMember(t.Context(), m))
	waits := billing.Member{
		ID: billing.NewID("mem", now), OrganizationID: org, Email: "invited-" + text + "@example.com", Name: text, Role: billing.RoleOwner,
		InvitedBy: "member:" + text, CreatedAt: now,
	}
	check(s.CreateMember(t.Context(), waits))
	secret := billing.NewSecret()
	k := billing.Key{
		ID: billing.NewID("key", now), OrganizationID: org, Name: "Key " + text, Hash: billing.HashSecret(secret),
		Prefix: billing.DisplayPrefix(secret), Owner: m.ID, UsageLimit: &amount, UsageLimitReset: billing.Never, CreatedAt: now,
	}
	check(s.CreateKey(t.Context(), k))
	b := belongings{org: org, key: k.ID, member: m.ID, invitation: waits.ID, project: "only-in-" + org, token: "token_none", node: "node_none"}
	_, err = s.PutProject(t.Context(), org, b.project, func(p *billing.Project) error { p.Budget = &amount; return nil })
	check(err)
	r := request("req_"+org, k.ID, now, amount)
	r.OrganizationID, r.KeyName, r.UserAgent, r.Project = org, k.Name, "agent "+text, b.project
	b.request = r.RequestID
	_, err = s.Post(t.Context(), "node_1", []billing.Settlement{r})
	check(err)
	_, err = s.Append(t.Context(), billing.Entry{
		ID: billing.NewID("txn", now), OrganizationID: org, Type: billing.Adjustment, Amount: amount, CreatedAt: now,
		Reason: "reason " + text, Actor: "actor " + text, IdempotencyKey: idempotencyKeyOf(org),
	})
	check(err)
	changes, err := s.ListChanges(t.Context(), org, billing.ChangeFilter{SubjectID: b.key}, billing.Page{})
	check(err)
	b.change = changes[0].ID
	return b
}
