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
		"a member is one identity for good":             keepsIdentities,
		"an identity is one member of an organization":  keepsMembersSingle,
		"addresses are compared by their ASCII case":    comparesAddresses,
		"identities that cannot be are refused":         refusesIdentities,
		"the last owner stays":                          keepsLastOwner,
	})
	for name, test := range map[string]func(*testing.T, [nodes]billing.Store){
		"one of many identities accepts an invitation": acceptsOnce,
		"an identity joins from everywhere at once":    joinsOnce,
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

func memberships(t *testing.T, s billing.Store, who billing.Identity) []billing.Member {
	t.Helper()
	members, err := s.Memberships(t.Context(), who, noon.Add(time.Minute))
	check(t, err)
	return members
}

func identity(subject, email string) billing.Identity {
	return billing.Identity{Issuer: "https://issuer", Subject: subject, Email: email, Name: "Name of " + subject}
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

func acceptsInvitations(t *testing.T, s billing.Store) {
	a, b := invited("mem_a", org, "Ann@example.com", billing.RoleAdmin), invited("mem_b", other, "ann@example.com", billing.RoleViewer)
	a.Name = ""
	createMembers(t, s, b, a, invited("mem_c", org, "bob@example.com", billing.RoleOwner))
	who := identity("ann", "")
	equal(t, "without a verified address", memberships(t, s, who), nil)
	who.Email = "ANN@EXAMPLE.COM"
	for _, m := range []*billing.Member{&a, &b} {
		m.Email, m.Issuer, m.Subject, m.JoinedAt = "ann@example.com", who.Issuer, who.Subject, noon.Add(time.Minute)
	}
	a.Name = who.Name
	equal(t, "memberships", memberships(t, s, who), []billing.Member{a, b})
	equal(t, "stored", []billing.Member{member(t, s, org, a.ID), member(t, s, other, b.ID)}, []billing.Member{a, b})

	again, err := s.Memberships(t.Context(), billing.Identity{Issuer: who.Issuer, Subject: who.Subject, Email: "ann@elsewhere.com"}, noon.AddDate(0, 0, 1))
	check(t, err)
	equal(t, "later, by another address", again, []billing.Member{a, b})
	equal(t, "invitation of another", member(t, s, org, "mem_c").Subject, "")
}

func keepsIdentities(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "ann@example.com", billing.RoleOwner))
	equal(t, "first", len(memberships(t, s, identity("ann", "ann@example.com"))), 1)
	before := member(t, s, org, "mem_a")
	for _, who := range []billing.Identity{
		identity("eve", "ann@example.com"),
		{Issuer: "https://other", Subject: "ann", Email: "ann@example.com"},
		{Issuer: "https://issuer", Subject: "ANN", Email: "ann@example.com"},
	} {
		equal(t, "memberships of another identity", memberships(t, s, who), nil)
	}
	equal(t, "member", member(t, s, org, "mem_a"), before)
}

func keepsMembersSingle(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "ann@example.com", billing.RoleViewer))
	first := memberships(t, s, identity("ann", "ann@example.com"))
	createMembers(t, s, invited("mem_b", org, "ann@work.com", billing.RoleOwner), invited("mem_c", other, "ann@work.com", billing.RoleViewer))
	second := memberships(t, s, identity("ann", "ann@work.com"))
	var ids []string
	for _, m := range second {
		ids = append(ids, m.ID)
	}
	equal(t, "members", ids, []string{"mem_a", "mem_c"})
	equal(t, "first member", second[0], first[0])
	equal(t, "invitation that is left", member(t, s, org, "mem_b").Subject, "")
}

func comparesAddresses(t *testing.T, s billing.Store) {
	// The Kelvin sign has k as its lower case, the dotted I an i with a dot above:
	// who has such an address is another person.
	for i, email := range []string{"K@example.com", "İ@example.com", "ÄNNE@example.com", "a@EXÄMPLE.com"} {
		createMembers(t, s, invited(fmt.Sprintf("mem_%d", i), org, email, billing.RoleOwner))
	}
	for _, email := range []string{"\u212A@example.com", "i@example.com", "i̇@example.com", "änne@example.com", "a@exämple.com", "ÄNNE@example.com "} {
		equal(t, "memberships by "+email, memberships(t, s, identity("eve", email)), nil)
	}
	for i, email := range []string{"k@EXAMPLE.com", "İ@EXAMPLE.com", "Änne@example.com", "A@exÄmple.COM"} {
		found := memberships(t, s, identity("sub"+email, email))
		if len(found) != 1 || found[0].ID != fmt.Sprintf("mem_%d", i) {
			t.Errorf("memberships by %s: %+v", email, found)
		}
	}
}

func refusesIdentities(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "a\uFFFD@example.com", billing.RoleOwner))
	for _, who := range []billing.Identity{
		{}, {Subject: "x", Email: "a\uFFFD@example.com"}, {Issuer: "x", Email: "a\uFFFD@example.com"},
		identity("a\x00", "a\uFFFD@example.com"), identity("a\xff", "a\uFFFD@example.com"),
		identity(strings.Repeat("x", 1<<20), "a\uFFFD@example.com"),
	} {
		if _, err := s.Memberships(t.Context(), who, noon); err == nil {
			t.Errorf("%.60q is an identity", who)
		}
	}
	for _, email := range []string{"a\xff@example.com", "a\x00@example.com", strings.Repeat("x", 1<<20), "' OR 1=1 --"} {
		equal(t, "memberships", memberships(t, s, identity("eve", email)), nil)
	}
	who := identity("ann", "a\uFFFD@example.com")
	check(t, s.CreateMember(t.Context(), invited("mem_b", other, who.Email, billing.RoleViewer)))
	_, err := s.UpdateMember(t.Context(), other, "mem_b", func(m *billing.Member) error { m.Name = ""; return nil })
	check(t, err)
	who.Name = strings.Repeat("ä\n\xff", 1<<18)
	equal(t, "name", memberships(t, s, who)[1].Name, strings.Repeat("ä", 200))
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

func acceptsOnce(t *testing.T, stores [nodes]billing.Store) {
	const rounds = 20 // they seldom meet
	for round := range rounds {
		id, email := fmt.Sprintf("mem_%d", round), fmt.Sprintf("%d@example.com", round)
		createMembers(t, stores[0], invited(id, org, email, billing.RoleOwner), invited(id, other, email, billing.RoleOwner))
		var (
			mu      sync.Mutex
			winners = make(map[string][]string)
		)
		each(func(n, worker int) {
			who := identity(fmt.Sprintf("subject %d of %d", worker, round), email)
			found, err := stores[n].Memberships(t.Context(), who, noon)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range found {
				winners[m.OrganizationID] = append(winners[m.OrganizationID], m.Subject)
			}
		})
		for _, in := range []string{org, other} {
			equal(t, "winners in "+in, winners[in], []string{member(t, stores[0], in, id).Subject})
		}
	}
}

func joinsOnce(t *testing.T, stores [nodes]billing.Store) {
	emails := []string{"a@example.com", "b@example.com", "c@example.com"}
	for i, email := range emails {
		for _, in := range []string{org, other} {
			createMembers(t, stores[0], invited(fmt.Sprintf("mem_%d", i), in, email, billing.RoleOwner))
		}
	}
	each(func(n, worker int) {
		found, err := stores[n].Memberships(t.Context(), identity("ann", emails[worker%len(emails)]), noon)
		if err != nil {
			t.Error(err)
		}
		if len(found) != 2 || found[0].OrganizationID != org || found[1].OrganizationID != other {
			t.Errorf("memberships %+v", found)
		}
	})
	equal(t, "memberships", len(memberships(t, stores[0], identity("ann", ""))), 2)
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
