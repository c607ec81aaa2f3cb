package billingtest

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func recordsKeys(t *testing.T, s billing.Store) {
	k := newKey("key_2", org, pointer(5*usd), billing.Monthly)
	k.AllowedModels, k.Prefix = []string{"gpt-4o*", "<&>"}, "sk-proxy-a1b2..."
	k.ExpiresAt = noon.AddDate(1, 0, 0)
	check(t, s.CreateKey(by(t, ada), k))
	recorded(t, record(t, s, k.ID, 1), billing.ChangeRecord{
		Actor: ada, Action: "key.create", Subject: subject(billing.SubjectKey, k.ID),
		After: json.RawMessage(`{"allowed_ips":[],"allowed_models":["gpt-4o*","<&>"],"allowed_providers":[],` +
			`"expires_at":"2027-11-18T12:30:00Z","max_concurrent":8,"name":"Name of key_2","owner_id":null,` +
			`"prefix":"sk-proxy-a1b2...","previous_secret_expires_at":null,"project":"search",` +
			`"rate_limit_rpm":null,"rate_limit_tpm":90000,"revoked_at":null,"usage_limit_nanos":5000000000,` +
			`"usage_limit_reset":"monthly","usage_soft_limit_nanos":5000000000}`),
	})
	update := func(change func(*billing.Key)) {
		t.Helper()
		_, err := s.UpdateKey(t.Context(), org, k.ID, func(k *billing.Key) error {
			change(k)
			return nil
		})
		check(t, err)
	}
	update(func(k *billing.Key) {
		*k.UsageLimit++ // in place
		k.AllowedModels[0], k.RateLimitRPM = "o3", 60
	})
	recorded(t, record(t, s, k.ID, 2), billing.ChangeRecord{
		Actor: billing.Actor{Kind: billing.ActorSystem}, Action: "key.update", Subject: subject(billing.SubjectKey, k.ID),
		Before: json.RawMessage(`{"allowed_models":["gpt-4o*","<&>"],"rate_limit_rpm":null,"usage_limit_nanos":5000000000}`),
		After:  json.RawMessage(`{"allowed_models":["o3","<&>"],"rate_limit_rpm":60,"usage_limit_nanos":5000000001}`),
	})
	update(func(k *billing.Key) { k.RevokedAt = noon })
	recorded(t, record(t, s, k.ID, 3), billing.ChangeRecord{
		Actor: billing.Actor{Kind: billing.ActorSystem}, Action: "key.revoke", Subject: subject(billing.SubjectKey, k.ID),
		Before: json.RawMessage(`{"revoked_at":null}`), After: json.RawMessage(`{"revoked_at":"2026-11-18T12:30:00Z"}`),
	})
	update(func(*billing.Key) {}) // revoked again
	record(t, s, k.ID, 3)
}

func recordsRotations(t *testing.T, s billing.Store) {
	before, err := s.Key(t.Context(), org, key)
	check(t, err)
	r := billing.Rotation{
		Hash: billing.HashSecret("x"), Prefix: before.Prefix, At: noon, Overlap: time.Hour,
		Retry: &billing.Retry{Reply: func(billing.Key) ([]byte, error) { return []byte("sealed"), nil }},
	}
	for range 2 { // the second is answered like the first
		_, _, err = s.RotateKey(by(t, ada), org, key, r)
		check(t, err)
	}
	want := billing.ChangeRecord{
		Actor: ada, Action: "key.rotate", Subject: subject(billing.SubjectKey, key),
		Before: json.RawMessage(`{"previous_secret_expires_at":null}`),
		After:  json.RawMessage(`{"overlap_seconds":3600,"previous_secret_expires_at":"2026-11-18T13:30:00Z"}`),
	}
	recorded(t, record(t, s, key, 2), want)

	r.Hash, r.Prefix, r.Overlap, r.Retry = billing.HashSecret("y"), "sk-proxy-0000...", 0, nil
	failed := errors.New("no")
	r.Check = func(k billing.Key) error {
		equal(t, "checked key", k.Hash, billing.HashSecret("x"))
		return failed
	}
	_, _, err = s.RotateKey(by(t, ada), org, key, r)
	equal(t, "error of a refused rotation", err, failed)
	record(t, s, key, 2)
	r.Check = func(billing.Key) error { return nil }
	_, _, err = s.RotateKey(by(t, ada), org, key, r)
	check(t, err)
	want.Before = json.RawMessage(`{"prefix":"` + before.Prefix + `","previous_secret_expires_at":"2026-11-18T13:30:00Z"}`)
	want.After = json.RawMessage(`{"overlap_seconds":0,"prefix":"sk-proxy-0000...","previous_secret_expires_at":null}`)
	recorded(t, record(t, s, key, 3), want)
}

func recordsOrganizations(t *testing.T, s billing.Store) {
	created := billing.ChangeRecord{
		Actor: billing.Actor{Kind: billing.ActorSystem}, Action: "organization.create",
		Subject: subject(billing.SubjectOrganization, org),
		After: json.RawMessage(`{"hold":"estimate","max_nanos":null,"name":"Name of org_a","period":"never",` +
			`"rate_limit_rpm":null,"soft_nanos":null,"week_start":null}`),
	}
	recorded(t, record(t, s, org, 1), created)
	check(t, s.EnsureOrganization(t.Context(), billing.Organization{ID: org, Name: "again"})) // it exists
	recorded(t, record(t, s, org, 1), created)

	_, err := s.UpdateOrganization(by(t, ada), org, func(o *billing.Organization) error {
		o.Budget, o.BudgetPeriod, o.HoldStrict, o.WeekStart = pointer(usd), billing.Weekly, true, billing.Monday
		return nil
	})
	check(t, err)
	recorded(t, record(t, s, org, 2), billing.ChangeRecord{
		Actor: ada, Action: "organization.update", Subject: subject(billing.SubjectOrganization, org),
		Before: json.RawMessage(`{"hold":"estimate","max_nanos":null,"period":"never","week_start":null}`),
		After:  json.RawMessage(`{"hold":"strict","max_nanos":1000000000,"period":"weekly","week_start":"monday"}`),
	})
	equal(t, "changes of another organization", len(records(t, s, other, billing.ChangeFilter{SubjectID: org})), 0)

	owner := invited("mem_1", "", "ada@example.com", billing.RoleOwner)
	check(t, s.CreateOrganization(by(t, ada), billing.Organization{ID: "org_c", Name: "C"}, owner))
	err = s.CreateOrganization(by(t, ada), billing.Organization{ID: "org_c", Name: "C"}, owner)
	equal(t, "error of another creation", err, billing.ErrExists)
	var made []string
	for _, c := range records(t, s, "org_c", billing.ChangeFilter{Actor: ada.ID}) {
		made = append(made, c.Action+" "+c.Subject.ID)
	}
	equal(t, "changes of a new organization", made, []string{"member.create mem_1", "organization.create org_c"})
}

func recordsProjects(t *testing.T, s billing.Store) {
	putProject(t, s, "search", pointer(usd), billing.Daily)
	want := billing.ChangeRecord{
		Actor: billing.Actor{Kind: billing.ActorSystem}, Action: "project.create",
		Subject: subject(billing.SubjectProject, "search"),
		After:   json.RawMessage(`{"max_nanos":1000000000,"period":"daily","soft_nanos":null}`),
	}
	recorded(t, record(t, s, "search", 1), want)
	putProject(t, s, "search", pointer(usd), billing.Never)
	want.Action = "project.update"
	want.Before, want.After = json.RawMessage(`{"period":"daily"}`), json.RawMessage(`{"period":"never"}`)
	recorded(t, record(t, s, "search", 2), want)
	putProject(t, s, "search", pointer(usd), billing.Never)
	check(t, s.DeleteProject(t.Context(), org, "search", anyProject))
	want.Action = "project.delete"
	want.Before, want.After = json.RawMessage(`{"max_nanos":1000000000,"period":"never","soft_nanos":null}`), nil
	recorded(t, record(t, s, "search", 3), want)
}

func recordsMembers(t *testing.T, s billing.Store) {
	const id = "mem_2"
	check(t, s.CreateMember(by(t, ada), invited(id, org, "bob@example.com", billing.RoleViewer)))
	want := billing.ChangeRecord{
		Actor: ada, Action: "member.create", Subject: subject(billing.SubjectMember, id),
		After: json.RawMessage(`{"email":"bob@example.com","invited_by":"admin_token","issuer":null,"joined_at":null,` +
			`"name":"Name of mem_2","role":"viewer","subject":null}`),
	}
	recorded(t, record(t, s, id, 1), want)
	equal(t, "error of another", s.CreateMember(t.Context(), invited("mem_3", org, "bob@example.com", billing.RoleViewer)), billing.ErrExists)

	who := identity("bob", "bob@example.com")
	accept(t, s, who, id)
	equal(t, "error of another acceptance", acceptError(t, s, who, id), billing.ErrNotFound)
	recorded(t, record(t, s, id, 2), billing.ChangeRecord{
		Actor:  billing.Actor{Kind: billing.ActorMember, ID: id, Name: "bob@example.com"},
		Action: "member.join", Subject: want.Subject,
		Before: json.RawMessage(`{"issuer":null,"joined_at":null,"subject":null}`),
		After:  json.RawMessage(`{"issuer":"https://issuer","joined_at":"2026-11-18T12:31:00Z","subject":"bob"}`),
	})
	for range 2 { // the second changes nothing
		_, err := s.UpdateMember(by(t, ada), org, id, func(m *billing.Member) error { m.Role = billing.RoleAdmin; return nil })
		check(t, err)
	}
	want.Action, want.Before, want.After = "member.update", json.RawMessage(`{"role":"viewer"}`), json.RawMessage(`{"role":"admin"}`)
	recorded(t, record(t, s, id, 3), want)

	failed := errors.New("no")
	err := s.DeleteMember(t.Context(), org, id, func(billing.Member) error { return failed })
	equal(t, "error of a refused removal", err, failed)
	check(t, s.DeleteMember(by(t, ada), org, id, func(billing.Member) error { return nil }))
	want.Action, want.After = "member.delete", nil
	want.Before = json.RawMessage(`{"email":"bob@example.com","invited_by":"admin_token","issuer":"https://issuer",` +
		`"joined_at":"2026-11-18T12:31:00Z","name":"Name of mem_2","role":"admin","subject":"bob"}`)
	recorded(t, record(t, s, id, 4), want)
	equal(t, "members", len(records(t, s, org, billing.ChangeFilter{SubjectKind: billing.SubjectMember})), 4)

	check(t, s.CreateMember(by(t, ada), invited("mem_3", org, "bob@example.com", billing.RoleViewer)))
	check(t, s.DeclineInvitation(t.Context(), who, "mem_3"))
	recorded(t, record(t, s, "mem_3", 2), billing.ChangeRecord{
		Actor:  billing.Actor{Kind: billing.ActorMember, ID: "mem_3", Name: "bob@example.com"},
		Action: "member.decline", Subject: subject(billing.SubjectMember, "mem_3"),
		Before: json.RawMessage(`{"email":"bob@example.com","invited_by":"admin_token","issuer":null,"joined_at":null,` +
			`"name":"Name of mem_3","role":"viewer","subject":null}`),
	})
}

func recordsTokens(t *testing.T, s billing.Store) {
	token := newOperatorToken("token_1", noon)
	check(t, s.CreateOperatorToken(by(t, ada), token))
	for range 2 { // the second changes nothing
		_, err := s.RevokeOperatorToken(t.Context(), token.ID, noon)
		check(t, err)
	}
	check(t, s.UseOperatorToken(t.Context(), token.ID, noon))
	all := records(t, s, "", billing.ChangeFilter{})
	if len(all) != 2 {
		t.Fatalf("changes: %+v", all)
	}
	want := billing.ChangeRecord{
		Actor: billing.Actor{Kind: billing.ActorSystem}, Action: "token.revoke",
		Subject: billing.ChangeSubject{Kind: billing.SubjectToken, ID: token.ID},
		Before:  json.RawMessage(`{"revoked_at":null}`), After: json.RawMessage(`{"revoked_at":"2026-11-18T12:30:00Z"}`),
	}
	recorded(t, all[0], want)
	want.Actor, want.Action, want.Before = ada, "token.create", nil
	want.After = json.RawMessage(`{"created_by":"` + token.CreatedBy + `","expires_at":"` + token.ExpiresAt.Format(time.RFC3339) +
		`","name":"` + token.Name + `","prefix":"` + token.Prefix + `","revoked_at":null}`)
	recorded(t, all[1], want)
	equal(t, "changes of an organization", len(records(t, s, org, billing.ChangeFilter{SubjectKind: billing.SubjectToken})), 0)
}

func recordsEntries(t *testing.T, s billing.Store) {
	e, err := s.Append(by(t, ada), billing.Entry{
		OrganizationID: org, Type: billing.Adjustment, Amount: -usd, CreatedAt: noon, RequestID: "req_1",
		Reason: "goodwill", Actor: "Ada", IdempotencyKey: "not told",
	})
	check(t, err)
	want := billing.ChangeRecord{
		Actor: ada, Action: "entry.append", Subject: subject(billing.SubjectEntry, e.ID),
		After: json.RawMessage(`{"actor":"Ada","amount_nanos":-1000000000,"balance_after_nanos":-1000000000,` +
			`"created_at":"2026-11-18T12:30:00Z","payment_id":null,"reason":"goodwill","request_id":"req_1","type":"adjustment"}`),
	}
	recorded(t, record(t, s, e.ID, 1), want)
	buy(t, s, 5*usd)
	buy(t, s, 5*usd) // the same again
	post(t, s, node, settlement(1, usd))
	equal(t, "entries", len(records(t, s, org, billing.ChangeFilter{SubjectKind: billing.SubjectEntry})), 2)
	equal(t, "changes of the key that was used", len(records(t, s, org, billing.ChangeFilter{SubjectID: key})), 1)
}
