package billingtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func memberships(t *testing.T, s billing.Store, who billing.Identity) []billing.Member {
	t.Helper()
	members, err := s.Memberships(t.Context(), who)
	check(t, err)
	return members
}

func invitations(t *testing.T, s billing.Store, who billing.Identity) []billing.Member {
	t.Helper()
	members, err := s.Invitations(t.Context(), who, billing.Page{})
	check(t, err)
	return members
}

func accept(t *testing.T, s billing.Store, who billing.Identity, id string) billing.Member {
	t.Helper()
	m, err := s.AcceptInvitation(t.Context(), who, id, noon.Add(time.Minute))
	check(t, err)
	return m
}

func acceptError(t *testing.T, s billing.Store, who billing.Identity, id string) error {
	t.Helper()
	_, err := s.AcceptInvitation(t.Context(), who, id, noon)
	return err
}

func identity(subject, email string) billing.Identity {
	return billing.Identity{Issuer: "https://issuer", Subject: subject, Email: email, Name: "Name of " + subject}
}

func acceptsInvitations(t *testing.T, s billing.Store) {
	a, b := invited("mem_a", org, "Ann@example.com", billing.RoleAdmin), invited("mem_b", other, "ann@example.com", billing.RoleViewer)
	a.Name = ""
	createMembers(t, s, b, a, invited("mem_c", org, "bob@example.com", billing.RoleOwner))
	a.Email = "ann@example.com"
	who := identity("ann", "")
	equal(t, "invitations without a verified address", invitations(t, s, who), nil)
	equal(t, "error without a verified address", acceptError(t, s, who, a.ID), billing.ErrNotFound)
	who.Email = "ANN@EXAMPLE.COM"
	equal(t, "invitations", invitations(t, s, who), []billing.Member{a, b})
	equal(t, "pages", pages(t, 1, func(page billing.Page) ([]billing.Member, error) {
		return s.Invitations(t.Context(), who, page)
	}, func(m billing.Member) string { return m.OrganizationID }), []string{org, other})
	equal(t, "memberships of one who is invited", memberships(t, s, who), nil)
	for _, id := range []string{"mem_c", "mem_x", ""} {
		equal(t, "error of invitation "+id, acceptError(t, s, who, id), billing.ErrNotFound)
	}

	a.Name, a.Issuer, a.Subject, a.JoinedAt = who.Name, who.Issuer, who.Subject, noon.Add(time.Minute)
	equal(t, "answer", accept(t, s, who, a.ID), a)
	equal(t, "stored", member(t, s, org, a.ID), a)
	equal(t, "invitations after one is accepted", invitations(t, s, who), []billing.Member{b})
	equal(t, "memberships after one is accepted", memberships(t, s, who), []billing.Member{a})
	equal(t, "error of another time", acceptError(t, s, who, a.ID), billing.ErrNotFound)
	b.Issuer, b.Subject, b.JoinedAt = who.Issuer, who.Subject, noon.Add(time.Minute)
	equal(t, "second answer", accept(t, s, who, b.ID), b)

	later := billing.Identity{Issuer: who.Issuer, Subject: who.Subject, Email: "ann@elsewhere.com"}
	equal(t, "memberships by another address", memberships(t, s, later), []billing.Member{a, b})
	equal(t, "invitation of another", member(t, s, org, "mem_c").Subject, "")
}

func declinesInvitations(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "ann@example.com", billing.RoleOwner), invited("mem_b", other, "ann@example.com", billing.RoleViewer),
		joined("mem_c", org, billing.RoleOwner))
	who := identity("ann", "Ann@example.com")
	for name, x := range map[string]struct {
		who billing.Identity
		id  string
	}{
		"of another":                 {identity("eve", "eve@example.com"), "mem_a"},
		"without a verified address": {identity("ann", ""), "mem_a"},
		"of one who has joined":      {identity("subject of mem_c", "mem_c@example.com"), "mem_c"},
		"that is not there":          {who, "mem_x"},
	} {
		equal(t, "error of an invitation "+name, s.DeclineInvitation(t.Context(), x.who, x.id), billing.ErrNotFound)
	}
	check(t, s.DeclineInvitation(t.Context(), who, "mem_a"))
	_, err := s.Member(t.Context(), org, "mem_a")
	equal(t, "error after", err, billing.ErrNotFound)
	equal(t, "error of another time", s.DeclineInvitation(t.Context(), who, "mem_a"), billing.ErrNotFound)
	equal(t, "error of an acceptance", acceptError(t, s, who, "mem_a"), billing.ErrNotFound)
	equal(t, "invitations that are left", len(invitations(t, s, who)), 1)
	createMembers(t, s, invited("mem_d", org, "ann@example.com", billing.RoleOwner)) // they may ask again
}

func keepsIdentities(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "ann@example.com", billing.RoleOwner))
	before := accept(t, s, identity("ann", "ann@example.com"), "mem_a")
	for _, who := range []billing.Identity{
		identity("eve", "ann@example.com"),
		{Issuer: "https://other", Subject: "ann", Email: "ann@example.com"},
		{Issuer: "https://issuer", Subject: "ANN", Email: "ann@example.com"},
	} {
		equal(t, "memberships of another identity", memberships(t, s, who), nil)
		equal(t, "invitations of another identity", invitations(t, s, who), nil)
		equal(t, "error of another identity", acceptError(t, s, who, "mem_a"), billing.ErrNotFound)
	}
	equal(t, "member", member(t, s, org, "mem_a"), before)
}

func keepsMembersSingle(t *testing.T, s billing.Store) {
	createMembers(t, s, invited("mem_a", org, "ann@example.com", billing.RoleViewer))
	first := accept(t, s, identity("ann", "ann@example.com"), "mem_a")
	createMembers(t, s, invited("mem_b", org, "ann@work.com", billing.RoleOwner), invited("mem_c", other, "ann@work.com", billing.RoleViewer))
	atWork := identity("ann", "ann@work.com")
	equal(t, "error of a second membership", acceptError(t, s, atWork, "mem_b"), billing.ErrExists)
	second := accept(t, s, atWork, "mem_c")
	equal(t, "members", memberships(t, s, atWork), []billing.Member{first, second})
	equal(t, "invitation that is left", member(t, s, org, "mem_b").Subject, "")
	check(t, s.DeclineInvitation(t.Context(), atWork, "mem_b"))
}

func comparesAddresses(t *testing.T, s billing.Store) {
	// The Kelvin sign has k as its lower case, the dotted I an i with a dot above:
	// who has such an address is another person.
	for i, email := range []string{"K@example.com", "İ@example.com", "ÄNNE@example.com", "a@EXÄMPLE.com"} {
		createMembers(t, s, invited(fmt.Sprintf("mem_%d", i), org, email, billing.RoleOwner))
	}
	for _, email := range []string{"\u212A@example.com", "i@example.com", "i̇@example.com", "änne@example.com", "a@exämple.com", "ÄNNE@example.com "} {
		equal(t, "invitations of "+email, invitations(t, s, identity("eve", email)), nil)
	}
	for i, email := range []string{"k@EXAMPLE.com", "İ@EXAMPLE.com", "Änne@example.com", "A@exÄmple.COM"} {
		found := invitations(t, s, identity("sub"+email, email))
		if len(found) != 1 || found[0].ID != fmt.Sprintf("mem_%d", i) {
			t.Errorf("invitations of %s: %+v", email, found)
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
		if _, err := s.Memberships(t.Context(), who); err == nil {
			t.Errorf("%.60q is an identity", who)
		}
		if _, err := s.Invitations(t.Context(), who, billing.Page{}); err == nil {
			t.Errorf("%.60q is an identity who is invited", who)
		}
		if acceptError(t, s, who, "mem_a") == nil || s.DeclineInvitation(t.Context(), who, "mem_a") == nil {
			t.Errorf("%.60q is an identity who answers an invitation", who)
		}
	}
	for _, email := range []string{"a\xff@example.com", "a\x00@example.com", strings.Repeat("x", 1<<20), "' OR 1=1 --"} {
		equal(t, "invitations", invitations(t, s, identity("eve", email)), nil)
		equal(t, "error of an acceptance", acceptError(t, s, identity("eve", email), "mem_a"), billing.ErrNotFound)
	}
	who := identity("ann", "a\uFFFD@example.com")
	bare := invited("mem_b", other, who.Email, billing.RoleViewer)
	bare.Name = ""
	check(t, s.CreateMember(t.Context(), bare))
	who.Name = strings.Repeat("ä\n\xff", 1<<18)
	equal(t, "name", accept(t, s, who, "mem_b").Name, strings.Repeat("ä", 200))
}

func acceptsOnce(t *testing.T, stores [nodes]billing.Store) {
	const rounds = 20 // they seldom meet
	for round := range rounds {
		id, email := fmt.Sprintf("mem_%d", round), fmt.Sprintf("%d@example.com", round)
		createMembers(t, stores[0], invited(id, org, email, billing.RoleOwner))
		var (
			mu      sync.Mutex
			winners []string
		)
		each(func(n, worker int) {
			who := identity(fmt.Sprintf("subject %d of %d", worker, round), email)
			m, err := stores[n].AcceptInvitation(t.Context(), who, id, noon)
			if errors.Is(err, billing.ErrNotFound) {
				return
			}
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			winners = append(winners, m.Subject)
		})
		equal(t, "winners", winners, []string{member(t, stores[0], org, id).Subject})
	}
}

// joinsOnce has somebody accept, from everywhere at once, invitations by which
// they would be several members of an organization.
func joinsOnce(t *testing.T, stores [nodes]billing.Store) {
	for worker := range nodes * workersPerNode {
		createMembers(t, stores[0], invited(fmt.Sprintf("mem_%d", worker), org, fmt.Sprintf("%d@example.com", worker), billing.RoleOwner))
	}
	each(func(n, worker int) {
		who := identity("ann", fmt.Sprintf("%d@example.com", worker))
		_, err := stores[n].AcceptInvitation(t.Context(), who, fmt.Sprintf("mem_%d", worker), noon)
		if err != nil && !errors.Is(err, billing.ErrExists) {
			t.Error(err)
		}
	})
	equal(t, "memberships", len(memberships(t, stores[0], identity("ann", ""))), 1)
}

// answersOnce has an invitation accepted and declined at once.
func answersOnce(t *testing.T, stores [nodes]billing.Store) {
	const rounds = 20
	for round := range rounds {
		id, email := fmt.Sprintf("mem_%d", round), fmt.Sprintf("%d@example.com", round)
		createMembers(t, stores[0], invited(id, org, email, billing.RoleOwner))
		who := identity("subject of "+id, email)
		var accepted, declined atomic.Int64
		each(func(n, worker int) {
			var err error
			answer := &declined
			if worker%2 == 0 {
				answer = &accepted
				_, err = stores[n].AcceptInvitation(t.Context(), who, id, noon)
			} else {
				err = stores[n].DeclineInvitation(t.Context(), who, id)
			}
			switch {
			case err == nil:
				answer.Add(1)
			case !errors.Is(err, billing.ErrNotFound):
				t.Error(err)
			}
		})
		equal(t, "answers", accepted.Load()+declined.Load(), 1)
		equal(t, "memberships", int64(len(memberships(t, stores[0], who))), accepted.Load())
	}
}
