package billingtest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	nodes          = 3
	workersPerNode = 4
)

func testConcurrency(t *testing.T, open Open) {
	t.Run("nodes spend exactly what was paid", func(t *testing.T) {
		t.Parallel()
		spendsExactly(t, openNodes(t, open), func(*testing.T) {})
	})
	t.Run("nodes that post for many organizations do not block each other", func(t *testing.T) {
		t.Parallel()
		postsCrosswise(t, openNodes(t, open))
	})
	t.Run("the same settlements from everywhere are booked once", func(t *testing.T) {
		t.Parallel()
		postsOnce(t, openNodes(t, open))
	})
	t.Run("the same purchase from everywhere is booked once", func(t *testing.T) {
		t.Parallel()
		appendsOnce(t, openNodes(t, open))
	})
	t.Run("nodes may start at once", func(t *testing.T) {
		t.Parallel()
		startsAtOnce(t, open)
	})
}

// openNodes opens the test's database once for each node.
func openNodes(t *testing.T, open Open) [nodes]billing.Store {
	t.Helper()
	stores := [nodes]billing.Store{start(t, open)}
	for i := 1; i < nodes; i++ {
		stores[i] = reopen(t, open)
	}
	return stores
}

// each runs work for all workers of all nodes at once.
func each(work func(node, worker int)) {
	var wg sync.WaitGroup
	for n := range nodes {
		for w := range workersPerNode {
			wg.Go(func() { work(n, n*workersPerNode+w) })
		}
	}
	wg.Wait()
}

// spendsExactly lets all nodes lease from the same credits, budgets and key
// limit, spend what they got and give some back, until there is nothing left.
func spendsExactly(t *testing.T, stores [nodes]billing.Store, watch func(*testing.T)) {
	const paid = 120 * usd
	buy(t, stores[0], paid)
	_, err := stores[0].UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
		k.UsageLimit, k.UsageLimitReset = pointer(paid), billing.Monthly
		return nil
	})
	check(t, err)
	setBudget(t, stores[0], pointer(paid), billing.Weekly)
	putProject(t, stores[0], "search", pointer(paid), billing.Never)

	var done atomic.Bool
	var watcher sync.WaitGroup
	for n, mode := range []billing.VerifyMode{billing.Incremental, billing.Full} {
		watcher.Go(func() {
			for !done.Load() {
				watch(t)
				v, err := stores[n].Verify(t.Context(), billing.VerifyOptions{Mode: mode})
				if err != nil || v.Imbalance() != 0 {
					t.Errorf("failed checks of %s verification while nodes work: %+v, %v", mode, v.Failed(), err)
					return
				}
			}
		})
	}
	var serial atomic.Int64
	each(func(n, worker int) {
		random := rand.New(rand.NewPCG(uint64(worker), 1))
		// A worker that failed keeps what it leased: the others would wait for it.
		for !t.Failed() && spendSome(t, stores[n], fmt.Sprintf("worker_%d", worker), random, &serial) {
		}
	})
	done.Store(true)
	watcher.Wait()

	equal(t, "balance", balanceOf(t, stores[0], org), 0)
	for worker := range nodes * workersPerNode {
		equal(t, "leases", leasesOf(t, stores[0], fmt.Sprintf("worker_%d", worker)), nil)
	}
	totals, err := stores[0].Usage(t.Context(), org, billing.Filter{}, billing.Grouping{})
	check(t, err)
	equal(t, "spent", totals.Cost, paid)
	balanced(t, stores[0])
	checkChain(t, stores[0])
}

// spendSome returns whether there may be more to spend. A worker is a node of
// its own: what it leases, it alone may spend.
func spendSome(t *testing.T, s billing.Store, worker string, random *rand.Rand, serial *atomic.Int64) bool {
	want := billing.Money(1+random.IntN(8)) * usd
	wanted := []billing.Lease{credits(want), keySpend(key, billing.Monthly, want), budget(billing.Weekly, want),
		projectSpend(billing.Never, want)}
	random.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
	granted, err := s.Lease(t.Context(), worker, needs(wanted...))
	if err != nil {
		t.Error(err)
		return false
	}
	room := min(granted[0].Amount, granted[1].Amount, granted[2].Amount, granted[3].Amount)
	spend := room
	if room > usd && random.IntN(3) == 0 {
		spend -= usd // the rest is given back
	}
	var batch []billing.Settlement
	for spend > 0 {
		cost := min(spend, billing.Money(1+random.IntN(3))*usd)
		batch = append(batch, settlement(int(serial.Add(1)), cost))
		spend -= cost
	}
	conflicts, err := s.Post(t.Context(), worker, batch)
	if err != nil || len(conflicts) > 0 {
		t.Errorf("post: %v, conflicts %v", err, conflicts)
		return false
	}
	if err := s.ReturnAll(t.Context(), worker); err != nil {
		t.Error(err)
		return false
	}
	if room > 0 {
		return true
	}
	// Others may still give back; it is over when they have spent it all.
	a, err := s.Account(t.Context(), org)
	if err != nil {
		t.Error(err)
		return false
	}
	return a.Balance > 0
}

// checkChain checks that the balances after the entries are their running sum.
func checkChain(t *testing.T, s billing.Store) {
	t.Helper()
	entries, err := s.Transactions(t.Context(), org, billing.Page{Limit: 100_000})
	check(t, err)
	balance := balanceOf(t, s, org)
	for _, e := range entries {
		equal(t, "balance after "+e.ID, e.BalanceAfter, balance)
		balance -= e.Amount
	}
	equal(t, "balance before the first entry", balance, 0)
}

func postsCrosswise(t *testing.T, stores [nodes]billing.Store) {
	const (
		rounds = 10
		orgs   = 6
	)
	each(func(n, worker int) {
		random := rand.New(rand.NewPCG(uint64(worker), 2))
		for round := range rounds {
			var batch []billing.Settlement
			var want []billing.Lease
			for i, o := range random.Perm(orgs) {
				r := settlement((worker*rounds+round)*orgs+i, usd)
				r.OrganizationID = fmt.Sprintf("org_%d", o)
				batch = append(batch, r)
				l := budget(billing.Daily, 2*usd)
				l.Allowance.OrganizationID = r.OrganizationID
				want = append(want, l)
			}
			name := fmt.Sprintf("worker_%d", worker)
			if _, err := stores[n].Lease(t.Context(), name, needs(want...)); err != nil {
				t.Error(err)
			}
			if _, err := stores[n].Post(t.Context(), name, batch); err != nil {
				t.Error(err)
			}
			if err := stores[n].Return(t.Context(), name, want[:orgs/2]); err != nil {
				t.Error(err)
			}
		}
		if err := stores[n].ReturnAll(t.Context(), fmt.Sprintf("worker_%d", worker)); err != nil {
			t.Error(err)
		}
	})
	for o := range orgs {
		totals, err := stores[0].Usage(t.Context(), fmt.Sprintf("org_%d", o), billing.Filter{}, billing.Grouping{})
		check(t, err)
		equal(t, "requests", totals.Requests, nodes*workersPerNode*rounds)
	}
	balanced(t, stores[0])
}

func postsOnce(t *testing.T, stores [nodes]billing.Store) {
	const requests = 40
	each(func(n, worker int) {
		random := rand.New(rand.NewPCG(uint64(worker), 3))
		ids := random.Perm(requests)
		for len(ids) > 0 {
			size := min(len(ids), 7)
			var batch []billing.Settlement
			for _, id := range ids[:size] {
				batch = append(batch, settlement(id, usd))
			}
			ids = ids[size:]
			conflicts, err := stores[n].Post(t.Context(), fmt.Sprintf("worker_%d", worker), batch)
			if err != nil || len(conflicts) > 0 {
				t.Errorf("post: %v, conflicts %v", err, conflicts)
			}
		}
	})
	equal(t, "balance", balanceOf(t, stores[0], org), -requests*usd)
	balanced(t, stores[0])
}

func appendsOnce(t *testing.T, stores [nodes]billing.Store) {
	var ids sync.Map
	each(func(n, _ int) {
		e := purchase(5*usd, "event")
		e.CreatedAt = time.Time{}
		e, err := stores[n].Append(t.Context(), e)
		if err != nil {
			t.Error(err)
		}
		ids.Store(e.ID, true)
	})
	var distinct int
	ids.Range(func(any, any) bool { distinct++; return true })
	equal(t, "distinct entries", distinct, 1)
	equal(t, "balance", balanceOf(t, stores[0], org), 5*usd)
}

func startsAtOnce(t *testing.T, open Open) {
	reopen(t, open) // creates the database, and what its opener needs
	var wg sync.WaitGroup
	for range nodes {
		wg.Go(func() {
			if err := open(t).Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
