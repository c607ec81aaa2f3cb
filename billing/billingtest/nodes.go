package billingtest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func newNode(id, incarnation string) billing.Node {
	return billing.Node{
		ID: id, Incarnation: incarnation, Host: "host of " + id, Version: "v1", StartedAt: noon,
		LeaseTTL: time.Minute, Unposted: 2, Lag: 3 * time.Second,
	}
}

func testNodes(t *testing.T, open Open) {
	cases(t, open, map[string]func(t *testing.T, s billing.Store){
		"a node is listed from its start to its end":                listsNodes,
		"a process that was replaced is told so":                    tellsReplaced,
		"leases of a node without heartbeats are returned, once":    expiresNodes,
		"a heartbeat in the last moment keeps the leases":           keepsLeasesOfTheLiving,
		"a start returns what all processes before it had leased":   joinReturnsLeases,
		"the end of a process leaves its successor's leases alone":  leavesOthersAlone,
		"what one process posts is not taken from another's leases": postsFromOwnLeases,
	})
}

func listsNodes(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	a, b := newNode("node_a", "1"), newNode("node_b", "1")
	check(t, s.Join(t.Context(), b))
	check(t, s.Join(t.Context(), a))
	lease(t, s, a.Holder(), credits(2*usd), budget(billing.Daily, usd))
	_, expired, err := s.Beat(t.Context(), a)
	check(t, err)
	equal(t, "expired", expired, false)

	nodes, err := s.ListNodes(t.Context())
	check(t, err)
	a.Beats, a.Leases, a.Leased, b.Beats = 2, 2, 2*usd, 1
	want := []billing.Node{a, b}
	if diff := cmp.Diff(want, nodes, cmpopts.IgnoreFields(billing.Node{}, "SeenAt")); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	for _, n := range nodes {
		if age := time.Since(n.SeenAt); age < -time.Minute || age > time.Minute {
			t.Errorf("%s was seen %s ago", n.ID, age)
		}
	}
	check(t, s.Leave(t.Context(), a))
	nodes, err = s.ListNodes(t.Context())
	check(t, err)
	equal(t, "nodes after one has left", len(nodes), 1)
	equal(t, "its leases", leasesOf(t, s, a.ID), nil)
	balanced(t, s)
}

func tellsReplaced(t *testing.T, s billing.Store) {
	old, successor := newNode("node_a", "1"), newNode("node_a", "2")
	check(t, s.Join(t.Context(), old))
	check(t, s.Join(t.Context(), successor))
	if _, _, err := s.Beat(t.Context(), old); !errors.Is(err, billing.ErrReplaced) {
		t.Errorf("heartbeat of the replaced: %v", err)
	}
	if _, _, err := s.Beat(t.Context(), successor); err != nil {
		t.Errorf("heartbeat of the successor: %v", err)
	}
}

func expiresNodes(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	n := newNode("node_a", "1")
	check(t, s.Join(t.Context(), n))
	lease(t, s, n.Holder(), credits(6*usd))
	for _, want := range []bool{true, false} {
		done, err := s.Expire(t.Context(), n.ID, 1)
		check(t, err)
		equal(t, "expired", done, want)
	}
	equal(t, "leases", leasesOf(t, s, n.Holder()), nil)
	equal(t, "granted to another", lease(t, s, "other", credits(10*usd)), []billing.Lease{credits(10 * usd)})
	for _, want := range []bool{true, false} { // it finds out, once
		_, expired, err := s.Beat(t.Context(), n)
		check(t, err)
		equal(t, "was expired", expired, want)
	}
	balanced(t, s)
}

func keepsLeasesOfTheLiving(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	n := newNode("node_a", "1")
	check(t, s.Join(t.Context(), n))
	lease(t, s, n.Holder(), credits(6*usd))
	_, _, err := s.Beat(t.Context(), n)
	check(t, err)
	done, err := s.Expire(t.Context(), n.ID, 1) // what was seen before
	check(t, err)
	equal(t, "expired", done, false)
	equal(t, "leases", leasesOf(t, s, n.Holder()), []billing.Lease{credits(6 * usd)})
}

func joinReturnsLeases(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	first, second := newNode("node_a", "1"), newNode("node_a", "2")
	neighbour := newNode("node_ab", "1")
	for _, n := range []billing.Node{first, neighbour} {
		check(t, s.Join(t.Context(), n))
		lease(t, s, n.Holder(), credits(3*usd))
	}
	check(t, s.Join(t.Context(), second))
	equal(t, "leases under the id", leasesOf(t, s, first.ID), nil)
	equal(t, "leases under another id", leasesOf(t, s, neighbour.ID), []billing.Lease{credits(3 * usd)})
	balanced(t, s)
}

func leavesOthersAlone(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	old, successor := newNode("node_a", "1"), newNode("node_a", "2")
	check(t, s.Join(t.Context(), old))
	check(t, s.Join(t.Context(), successor))
	lease(t, s, successor.Holder(), credits(3*usd))
	check(t, s.Leave(t.Context(), old))
	equal(t, "leases", leasesOf(t, s, successor.ID), []billing.Lease{credits(3 * usd)})
	if _, _, err := s.Beat(t.Context(), successor); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
}

func postsFromOwnLeases(t *testing.T, s billing.Store) {
	buy(t, s, 10*usd)
	old, successor := newNode("node_a", "1"), newNode("node_a", "2")
	lease(t, s, successor.Holder(), credits(3*usd))
	post(t, s, old.Holder(), settlement(1, usd))
	equal(t, "leases", leasesOf(t, s, successor.Holder()), []billing.Lease{credits(3 * usd)})
	balanced(t, s)
}
