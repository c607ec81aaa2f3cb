package billing_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	historySteps = 300
	historySeeds = 2
)

// TestAnyHistoryBalances runs random operations on three nodes, crashes
// included, and proves the invariants after each of them.
func TestAnyHistoryBalances(t *testing.T) {
	t.Parallel()
	for seed := range uint64(historySeeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			onBothStores(t, func(t *testing.T, open func() billing.Store) {
				h := newHistory(t, open, seed)
				for step := range historySteps {
					what := h.step()
					h.check()
					if t.Failed() {
						t.Fatalf("step %d: %s", step, what)
					}
				}
				h.end()
			})
		})
	}
}

// openRequest is a request on its way.
type openRequest struct {
	hold *billing.Hold
	node int
	// last is what is in the journal of it.
	last billing.Settlement
}

// history is what has happened, as far as the books must know.
type history struct {
	*cluster
	t       *testing.T
	random  *rand.Rand
	auditor billing.Store
	key     billing.Key
	paid    billing.Money
	limit   billing.Money
	open    []*openRequest
	// ended has the outcome of each request: what it cost.
	ended map[string]billing.Money
	ids   map[string]bool // of nodes
}

var patient = billing.Options{Patience: 20 * time.Millisecond}

func newHistory(t *testing.T, open func() billing.Store, seed uint64) *history {
	h := &history{
		cluster: startCluster(t, 3, open, patient), t: t, random: rand.New(rand.NewPCG(seed, 7)),
		auditor: open(), ended: make(map[string]billing.Money), ids: make(map[string]bool),
	}
	h.limit = 5 * metering.USD
	h.key = h.nodes[0].key(t, h.limit)
	for _, b := range h.nodes {
		h.ids[b.journal.Node()] = true
	}
	h.buy()
	return h
}

func (h *history) step() string {
	n := h.random.IntN(len(h.nodes))
	switch dice := h.random.IntN(100); {
	case dice < 40:
		return h.begin(n)
	case dice < 50:
		return h.extend()
	case dice < 85:
		return h.settle()
	case dice < 90:
		h.must(h.nodes[n].poster.Flush(h.t.Context()))
		return fmt.Sprintf("node %d posts", n)
	case dice < 93:
		h.must(h.nodes[n].authorizer.GiveBackKeys(h.t.Context()))
		return fmt.Sprintf("node %d gives back", n)
	case dice < 96:
		h.buy()
		return "credits are bought"
	default:
		return h.crash(n)
	}
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) cents(most int) billing.Money { return billing.Money(h.random.IntN(most)) * cent }

func (h *history) buy() {
	amount := metering.USD + h.cents(100)
	h.nodes[0].buy(h.t, amount)
	h.paid += amount
}

// begin holds for a request, be it in vain.
func (h *history) begin(n int) string {
	r := request{key: h.key, at: time.Now(), held: cent + h.cents(40)}
	s := settlement(h.cents(3))
	s.RequestID, s.At, s.KeyID, s.Recovered = billing.NewID(billing.RequestIDPrefix, r.at), r.at, h.key.ID, true
	s.Cost = min(s.Cost, r.held)
	claim := billing.Claim{Allowances: r.allowances(), Amount: r.held, Least: cent * 3}
	hold, err := h.nodes[n].authorizer.Hold(h.t.Context(), claim, &s)
	switch {
	case err == nil:
		h.open = append(h.open, &openRequest{hold: hold, node: n, last: s})
		return fmt.Sprintf("node %d begins %s, holds %s", n, s.RequestID, hold.Amount())
	case errors.Is(err, billing.ErrUnavailable):
		h.t.Errorf("hold: %v", err)
	}
	return fmt.Sprintf("node %d refuses %s", n, r.held)
}

func (h *history) extend() string {
	if len(h.open) == 0 {
		return "nothing to extend"
	}
	r := h.open[h.random.IntN(len(h.open))]
	if err := r.hold.Extend(h.t.Context(), h.cents(20), 0); err != nil {
		return "refused to extend " + r.last.RequestID
	}
	r.last.Cost = min(r.last.Cost+h.cents(10), r.hold.Amount())
	h.must(r.hold.Progress(&r.last))
	return "extended " + r.last.RequestID
}

// settle ends a request with a cost that its hold covers, or with none.
func (h *history) settle() string {
	if len(h.open) == 0 {
		return "nothing to settle"
	}
	i := h.random.IntN(len(h.open))
	r := h.open[i]
	h.open = append(h.open[:i], h.open[i+1:]...)
	s := r.last
	s.Recovered, s.Cost = false, 0
	if h.random.IntN(5) > 0 {
		s.Cost = min(h.cents(60), r.hold.Amount())
	}
	h.must(r.hold.Settle(&s))
	h.ended[s.RequestID] = s.Cost
	return fmt.Sprintf("node %d settles %s for %s", r.node, s.RequestID, s.Cost)
}

// crash kills a node and starts it again on its journal.
func (h *history) crash(n int) string {
	h.nodes[n].authorizer.Close()
	h.nodes[n].crash(h.t)
	var rest []*openRequest
	for _, r := range h.open {
		if r.node != n {
			rest = append(rest, r)
			continue
		}
		h.ended[r.last.RequestID] = r.last.Cost
	}
	h.open = rest
	h.nodes[n] = h.start(h.t, n, patient)
	return fmt.Sprintf("node %d crashes", n)
}

// check proves that no limit is exceeded and that the books balance, now.
func (h *history) check() {
	h.t.Helper()
	spent, err := h.auditor.Spend(h.t.Context(), []billing.Allowance{billing.SpendOf(&h.key, time.Now(), billing.Sunday)})
	h.must(err)
	account, err := h.auditor.Account(h.t.Context(), org)
	h.must(err)
	v, err := h.auditor.Verify(h.t.Context(), billing.VerifyOptions{Mode: billing.Full, Examples: 3})
	h.must(err)
	if v.Imbalance() != 0 {
		h.t.Errorf("the books do not balance: %+v", v.Failed())
	}
	if account.Balance < 0 || spent[0] > h.limit {
		h.t.Errorf("balance %s, key spent %s of %s", account.Balance, spent[0], h.limit)
	}
	// What a node gives back may be read once more as another one's, so what
	// looks like too much is looked at again.
	for again := range 5 {
		credits, key := h.leased()
		if credits <= account.Balance && spent[0]+key <= h.limit {
			return
		}
		if again == 4 {
			h.t.Errorf("leased %s of a balance of %s, and %s of a key that has spent %s of %s",
				credits, account.Balance, key, spent[0], h.limit)
		}
	}
}

// leased is what all nodes have leased. It is read after what is spent: what
// is posted in between leaves a lease as it enters the spend.
func (h *history) leased() (credits, key billing.Money) {
	for id := range h.ids {
		leases, err := h.auditor.LeasesOf(h.t.Context(), id)
		h.must(err)
		for _, l := range leases {
			switch l.Allowance.Kind {
			case billing.Credits:
				credits += l.Amount
			case billing.KeySpend:
				key += l.Amount
			}
		}
	}
	return credits, key
}

// end settles what is open and compares all that was booked with what was done.
func (h *history) end() {
	for len(h.open) > 0 {
		h.settle()
	}
	h.flush(h.t)
	h.check()
	h.checkBooks(h.t)
	rows, err := h.auditor.Requests(h.t.Context(), org, billing.Filter{}, billing.Page{Limit: 10 * historySteps})
	h.must(err)
	booked := make(map[string]billing.Money, len(rows))
	for _, row := range rows {
		booked[row.RequestID] = row.Cost
	}
	if diff := cmp.Diff(h.ended, booked); diff != "" {
		h.t.Errorf("requests (-done +booked):\n%s", diff)
	}
	if len(booked) != len(rows) {
		h.t.Errorf("%d rows of %d requests", len(rows), len(booked))
	}
	for _, b := range h.nodes {
		b.authorizer.Close()
		h.must(b.poster.Close(h.t.Context()))
	}
}
