package billingtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testMembers(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"all fields are kept":                keepsMembers,
		"members that cannot be are refused": refusesMembers,
		"an address is a member of an organization once": func(t *testing.T, s billing.Store) {
			check(t, s.CreateMember(t.Context(), invited("mem_1", org, "Ann@Example.com", billing.RoleViewer)))
			again := invited("mem_2", org, "aNN@example.COM", billing.RoleOwner)
			equal(t, "error", s.CreateMember(t.Context(), again), billing.ErrExists)
			again.OrganizationID = other
			check(t, s.CreateMember(t.Context(), again))
		},
		"members are listed page by page, newest first": listsMembers,
		"only name and role change":                     updatesMembers,
		"a failed update changes nothing":               refusesMemberUpdates,
		"a member is removed":                           deletesMembers,
		"members of organizations are not each other's": keepsMembersApart,
		"invitations are accepted by the address":       acceptsInvitations,
		"invitations are declined by the address":       declinesInvitations,
		"a member is one identity for good":             keepsIdentities,
		"an identity is one member of an organization":  keepsMembersSingle,
		"addresses are compared by their ASCII case":    comparesAddresses,
		"identities that cannot be are refused":         refusesIdentities,
		"the last owner stays":                          keepsLastOwner,
	})
	for name, test := range map[string]func(*testing.T, [nodes]billing.Store){
		"one of many identities accepts an invitation": acceptsOnce,
		"an identity joins from everywhere at once":    joinsOnce,
		"an invitation is answered once":               answersOnce,
		"owners who leave at once leave one":           leavesOneOwner,
		"an address is invited once from everywhere":   invitesOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, openNodes(t, open))
		})
	}
}

func invited(id, org, email string, role billing.Role) billing.Member {
	return billing.Member{
		ID: id, OrganizationID: org, Email: email, Name: "Name of " + id, Role: role, InvitedBy: "admin_token", CreatedAt: noon,
	}
}

func joined(id, org string, role billing.Role) billing.Member {
	m := invited(id, org, id+"@example.com", role)
	m.Issuer, m.Subject, m.JoinedAt = "https://issuer", "subject of "+id, noon.Add(time.Hour)
	return m
}

func createMembers(t *testing.T, s billing.Store, members ...billing.Member) {
	t.Helper()
	for _, m := range members {
		check(t, s.CreateMember(t.Context(), m))
	}
}

func member(t *testing.T, s billing.Store, org, id string) billing.Member {
	t.Helper()
	m, err := s.Member(t.Context(), org, id)
	check(t, err)
	return m
}

func deleteMember(t *testing.T, s billing.Store, org, id string) error {
	return s.DeleteMember(t.Context(), org, id, func(billing.Member) error { return nil })
}

func keepsMembers(t *testing.T, s billing.Store) {
	for i, role := range billing.Roles {
		for _, want := range []billing.Member{
			invited(fmt.Sprintf("mem_%d", i), org, fmt.Sprintf("%d@example.com", i), role),
			joined(fmt.Sprintf("mem_joined_%d", i), org, role),
		} {
			createMembers(t, s, want)
			equal(t, "member", member(t, s, org, want.ID), want)
		}
	}
	bare := billing.Member{ID: "mem_bare", OrganizationID: org, Email: "B'; DROP TABLE members; --@x", Role: billing.RoleViewer, CreatedAt: noon}
	createMembers(t, s, bare)
	bare.Email = billing.NormalizeEmail(bare.Email)
	equal(t, "member without options", member(t, s, org, bare.ID), bare)
}

func refusesMembers(t *testing.T, s billing.Store) {
	createMembers(t, s, joined("mem_1", org, billing.RoleOwner))
	for name, change := range map[string]func(*billing.Member){
		"no id":               func(m *billing.Member) { m.ID = "" },
		"same id":             func(m *billing.Member) { m.ID = "mem_1" },
		"no address":          func(m *billing.Member) { m.Email = "" },
		"invalid UTF-8":       func(m *billing.Member) { m.Email = "a\xff@example.com" },
		"NUL":                 func(m *billing.Member) { m.Email = "a\x00@example.com" },
		"long address":        func(m *billing.Member) { m.Email = strings.Repeat("a", 321) },
		"no role":             func(m *billing.Member) { m.Role = "" },
		"unknown role":        func(m *billing.Member) { m.Role = "king" },
		"operator":            func(m *billing.Member) { m.Role = billing.RoleOperator },
		"joined as nobody":    func(m *billing.Member) { m.Subject = "" },
		"identity not joined": func(m *billing.Member) { m.JoinedAt = time.Time{} },
		"no issuer":           func(m *billing.Member) { m.Issuer = "" },
		"same identity":       func(m *billing.Member) { m.Subject = "subject of mem_1" },
		"hostile subject":     func(m *billing.Member) { m.Subject = "a\xff" },
		"long subject":        func(m *billing.Member) { m.Subject = strings.Repeat("x", 1<<20) },
	} {
		m := joined("mem_2", org, billing.RoleViewer)
		change(&m)
		if s.CreateMember(t.Context(), m) == nil {
			t.Errorf("%s: was created", name)
		}
	}
	equal(t, "error for an unknown organization",
		s.CreateMember(t.Context(), invited("mem_2", "nobody", "a@example.com", billing.RoleViewer)), billing.ErrNotFound)
	members, err := s.ListMembers(t.Context(), org, billing.MemberFilter{}, billing.Page{})
	check(t, err)
	equal(t, "members", len(members), 1)
}

func listsMembers(t *testing.T, s billing.Store) {
	createMembers(t, s,
		invited("mem_1", org, "c@example.com", billing.RoleViewer), joined("mem_2", org, billing.RoleOwner),
		invited("mem_3", org, "b@example.com", billing.RoleViewer), invited("mem_4", other, "a@example.com", billing.RoleViewer),
		invited("mem_5", org, "a@example.com", billing.RoleViewer))
	for role, want := range map[billing.Role][]string{
		"": {"mem_5", "mem_3", "mem_2", "mem_1"}, billing.RoleViewer: {"mem_5", "mem_3", "mem_1"}, billing.RoleAdmin: nil,
	} {
		got := pages(t, 2, func(page billing.Page) ([]billing.Member, error) {
			return s.ListMembers(t.Context(), org, billing.MemberFilter{Role: role}, page)
		}, func(m billing.Member) string { return m.ID })
		equal(t, "members with role "+string(role), got, want)
	}
}

// pages are the ids of all that is listed, a few at a time.
func pages[T any](t *testing.T, limit int, list func(billing.Page) ([]T, error), id func(T) string) []string {
	t.Helper()
	var got []string
	page := billing.Page{Limit: limit}
	for {
		found, err := list(page)
		check(t, err)
		for _, v := range found {
			got = append(got, id(v))
		}
		if len(found) < limit {
			return got
		}
		page.After = got[len(got)-1]
	}
}

func updatesMembers(t *testing.T, s billing.Store) {
	for _, before := range []billing.Member{
		joined("mem_1", org, billing.RoleAdmin), invited("mem_2", org, "a@example.com", billing.RoleAdmin),
	} {
		createMembers(t, s, before)
		want := before
		want.Name, want.Role = "Änne", billing.RoleFinance
		got, err := s.UpdateMember(t.Context(), org, before.ID, func(m *billing.Member) error {
			equal(t, "before", *m, before)
			*m = joined("mem_x", other, want.Role)
			m.Name = want.Name
			return nil
		})
		check(t, err)
		equal(t, "answer", got, want)
		equal(t, "stored", member(t, s, org, before.ID), want)
	}
}

func refusesMemberUpdates(t *testing.T, s billing.Store) {
	before := joined("mem_1", org, billing.RoleAdmin)
	createMembers(t, s, before)
	failed := errors.New("no")
	_, err := s.UpdateMember(t.Context(), org, before.ID, func(m *billing.Member) error { m.Name = "x"; return failed })
	equal(t, "error", err, failed)
	for _, role := range []billing.Role{"", "king", billing.RoleOperator} {
		if _, err := s.UpdateMember(t.Context(), org, before.ID, func(m *billing.Member) error { m.Role = role; return nil }); err == nil {
			t.Errorf("role %q was given", role)
		}
	}
	equal(t, "stored", member(t, s, org, before.ID), before)
}

func deletesMembers(t *testing.T, s billing.Store) {
	createMembers(t, s, joined("mem_1", org, billing.RoleDeveloper))
	k := newKey("key_of_1", org, nil, "")
	k.Owner = "mem_1"
	check(t, s.CreateKey(t.Context(), k))
	refusal := errors.New("no")
	equal(t, "error of check", s.DeleteMember(t.Context(), org, "mem_1", func(m billing.Member) error {
		equal(t, "member before", m, joined("mem_1", org, billing.RoleDeveloper))
		return refusal
	}), refusal)
	check(t, deleteMember(t, s, org, "mem_1"))
	_, err := s.Member(t.Context(), org, "mem_1")
	equal(t, "error after", err, billing.ErrNotFound)
	equal(t, "error of another deletion", deleteMember(t, s, org, "mem_1"), billing.ErrNotFound)
	equal(t, "memberships", memberships(t, s, identity("subject of mem_1", "mem_1@example.com")), nil)
	got, err := s.Key(t.Context(), org, k.ID)
	check(t, err)
	equal(t, "key", got, k)
	createMembers(t, s, joined("mem_2", org, billing.RoleDeveloper))
}

func keepsMembersApart(t *testing.T, s billing.Store) {
	createMembers(t, s, joined("mem_1", other, billing.RoleOwner))
	same := func(*billing.Member) error { return nil }
	for _, in := range []string{org, "nobody", ""} {
		_, err := s.Member(t.Context(), in, "mem_1")
		equal(t, "error of a read", err, billing.ErrNotFound)
		_, err = s.UpdateMember(t.Context(), in, "mem_1", same)
		equal(t, "error of a change", err, billing.ErrNotFound)
		equal(t, "error of a deletion", deleteMember(t, s, in, "mem_1"), billing.ErrNotFound)
	}
	members, err := s.ListMembers(t.Context(), org, billing.MemberFilter{}, billing.Page{})
	check(t, err)
	equal(t, "members", members, nil)
}

func keepsLastOwner(t *testing.T, s billing.Store) {
	createMembers(t, s, joined("mem_1", org, billing.RoleOwner), joined("mem_2", org, billing.RoleAdmin),
		invited("mem_3", org, "c@example.com", billing.RoleOwner), joined("mem_4", other, billing.RoleOwner))
	role := func(role billing.Role) func(*billing.Member) error {
		return func(m *billing.Member) error { m.Role = role; return nil }
	}
	_, err := s.UpdateMember(t.Context(), org, "mem_1", role(billing.RoleAdmin))
	equal(t, "error of a demotion", err, billing.ErrLastOwner)
	equal(t, "error of a removal", deleteMember(t, s, org, "mem_1"), billing.ErrLastOwner)
	equal(t, "owner", member(t, s, org, "mem_1"), joined("mem_1", org, billing.RoleOwner))
	_, err = s.UpdateMember(t.Context(), org, "mem_1", func(m *billing.Member) error { m.Name = "New"; return nil })
	check(t, err)

	// An owner who has not joined is none, and may go.
	check(t, deleteMember(t, s, org, "mem_3"))
	_, err = s.UpdateMember(t.Context(), org, "mem_2", role(billing.RoleOwner))
	check(t, err)
	_, err = s.UpdateMember(t.Context(), org, "mem_1", role(billing.RoleViewer))
	check(t, err)
	check(t, deleteMember(t, s, org, "mem_1"))
	equal(t, "error of a removal", deleteMember(t, s, org, "mem_2"), billing.ErrLastOwner)
}

func leavesOneOwner(t *testing.T, stores [nodes]billing.Store) {
	for i := range nodes * workersPerNode {
		createMembers(t, stores[0], joined(fmt.Sprintf("mem_%d", i), org, billing.RoleOwner))
	}
	var (
		mu     sync.Mutex
		stayed []string
	)
	each(func(n, worker int) {
		id := fmt.Sprintf("mem_%d", worker)
		var err error
		if worker%2 == 0 {
			err = deleteMember(t, stores[n], org, id)
		} else {
			_, err = stores[n].UpdateMember(t.Context(), org, id, func(m *billing.Member) error { m.Role = billing.RoleViewer; return nil })
		}
		switch {
		case errors.Is(err, billing.ErrLastOwner):
			mu.Lock()
			defer mu.Unlock()
			stayed = append(stayed, id)
		case err != nil:
			t.Error(err)
		}
	})
	owners, err := stores[0].ListMembers(t.Context(), org, billing.MemberFilter{Role: billing.RoleOwner}, billing.Page{})
	check(t, err)
	if len(owners) != 1 || !slices.Equal(stayed, []string{owners[0].ID}) {
		t.Errorf("owners are %+v, refused were %v", owners, stayed)
	}
}

func invitesOnce(t *testing.T, stores [nodes]billing.Store) {
	var (
		mu      sync.Mutex
		created []string
	)
	each(func(n, worker int) {
		m := invited(fmt.Sprintf("mem_%d", worker), org, "a@example.com", billing.RoleViewer)
		err := stores[n].CreateMember(t.Context(), m)
		if errors.Is(err, billing.ErrExists) {
			return
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		created = append(created, m.ID)
	})
	members, err := stores[0].ListMembers(t.Context(), org, billing.MemberFilter{}, billing.Page{})
	check(t, err)
	if len(members) != 1 || !slices.Equal(created, []string{members[0].ID}) {
		t.Errorf("members are %+v, created were %v", members, created)
	}
}
