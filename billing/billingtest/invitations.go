package billingtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func memberships(t *testing.T, s billing.Store, who billing.Identity) []billing.Member {
	t.Helper()
	members, err := s.Memberships(t.Context(), who, noon.Add(time.Minute))
	check(t, err)
	return members
}

func identity(subject, email string) billing.Identity {
	return billing.Identity{Issuer: "https://issuer", Subject: subject, Email: email, Name: "Name of " + subject}
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
