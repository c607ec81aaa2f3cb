package billingtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const modelSteps = 200

// testModel runs random operations on the store and on a model of it, and
// compares the two after each step.
func testModel(t *testing.T, open Open) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, start(t, open), seed)
			for step := range modelSteps {
				what := m.step()
				m.compare()
				if t.Failed() {
					t.Fatalf("step %d: %s", step, what)
				}
			}
			m.compareReports()
		})
	}
}

// model is a store in a few maps.
type model struct {
	t      *testing.T
	store  billing.Store
	random *rand.Rand

	requests []billing.Settlement
	entries  []billing.Entry
	credited map[string]billing.Money
	settled  map[billing.Allowance]billing.Money
	leases   map[string]map[billing.Allowance]billing.Money
	// limits are of organization/subject, with no subject for a budget.
	limits map[string]periodLimit
	weeks  map[string]billing.WeekStart // of organizations
}

// periodLimit is what may be spent in a period; nil is all.
type periodLimit struct {
	limit *billing.Money
	reset billing.Period
}

var (
	modelNodes = []string{"node_1", "node_2", "node_3"}
	modelKeys  = map[string][]string{org: {key, "key_2"}, other: {"key_3"}}
	// modelProjects are of keys of both organizations.
	modelProjects = []string{"search", "support"}
)

func newModel(t *testing.T, s billing.Store, seed uint64) *model {
	m := &model{
		t: t, store: s, random: rand.New(rand.NewPCG(seed, 4)),
		credited: map[string]billing.Money{},
		settled:  map[billing.Allowance]billing.Money{},
		leases:   map[string]map[billing.Allowance]billing.Money{},
		limits:   map[string]periodLimit{},
		weeks:    map[string]billing.WeekStart{},
	}
	check(t, s.CreateKey(t.Context(), newKey("key_2", org, nil, "")))
	check(t, s.CreateKey(t.Context(), newKey("key_3", other, nil, "")))
	for _, node := range modelNodes {
		m.leases[node] = map[billing.Allowance]billing.Money{}
	}
	return m
}

func pick[T any](random *rand.Rand, values []T) T { return values[random.IntN(len(values))] }

func (m *model) amount(limit int) billing.Money {
	return billing.Money(m.random.IntN(limit)) * usd / 2
}

func (m *model) step() string {
	node := pick(m.random, modelNodes)
	switch n := m.random.IntN(100); {
	case n < 30:
		return m.lease(node)
	case n < 40:
		return m.giveBack(node)
	case n < 43:
		return m.giveAllBack(node)
	case n < 75:
		return m.post(node)
	case n < 82:
		return m.postAgain(node)
	case n < 94:
		return m.append()
	case n < 96:
		return m.setLimit()
	case n < 98:
		return m.setProject()
	default:
		return m.setBudget()
	}
}

// allowance returns a random one, of one of two days.
func (m *model) allowance() billing.Allowance {
	o := pick(m.random, []string{org, other})
	a := billing.BudgetOf(o, pick(m.random, billing.Periods), noon.AddDate(0, 0, 4*m.random.IntN(2)), pick(m.random, billing.WeekStarts))
	switch m.random.IntN(5) {
	case 0:
		return a
	case 1:
		a.Kind, a.Subject = billing.KeySpend, pick(m.random, modelKeys[o])
		return a
	case 2:
		a.Kind, a.Subject = billing.ProjectBudget, pick(m.random, modelProjects)
		return a
	default:
		return billing.CreditsOf(o)
	}
}

// leased is what all nodes, or the named ones, have of what may count in an
// allowance.
func (m *model) leased(a billing.Allowance, nodes ...string) (sum billing.Money) {
	for node, held := range m.leases {
		for b, amount := range held {
			from, to := b.Start, b.End()
			b.Period, b.Start = a.Period, a.Start
			forEver := to.IsZero() || a.End().IsZero()
			if b == a && (forEver || from.Before(a.End()) && a.Start.Before(to)) && (len(nodes) == 0 || slices.Contains(nodes, node)) {
				sum += amount
			}
		}
	}
	return sum
}

// limit returns an allowance's limit; false if it has none.
func (m *model) limit(a billing.Allowance) (billing.Money, bool) {
	l := m.limits[a.OrganizationID+"/"+a.Subject]
	week := m.weeks[a.OrganizationID]
	switch {
	case a.Kind == billing.Credits:
		return m.credited[a.OrganizationID], true
	case l.limit == nil:
		return 0, false
	case l.reset != a.Period, week != "" && !a.Period.Start(a.Start, week).Equal(a.Start):
		return 0, true
	}
	return *l.limit, true
}

func (m *model) lease(node string) string {
	var want []billing.Want
	var expected []billing.Grant
	for range 1 + m.random.IntN(4) {
		w := billing.Want{Allowance: m.allowance(), Need: m.amount(40), Ahead: m.amount(20)}
		a := w.Allowance
		granted := billing.Grant{Lease: billing.Lease{Allowance: a, Amount: w.Need + w.Ahead}}
		granted.Elsewhere = m.leased(a) - m.leased(a, node)
		if limit, limited := m.limit(a); limited {
			room := max(0, limit-m.settled[a]-m.leased(a))
			granted.Amount = min(w.Need, room)
			granted.Amount += min(w.Ahead, (room-granted.Amount)/4)
		}
		want = append(want, w)
		expected = append(expected, granted)
		m.leases[node][a] += granted.Amount
	}
	got, err := m.store.Lease(m.t.Context(), node, want)
	check(m.t, err)
	equal(m.t, "granted leases", got, expected)
	for _, l := range got {
		limit, limited := m.limit(l.Allowance)
		if sum := m.settled[l.Allowance] + m.leased(l.Allowance); limited && l.Amount > 0 && sum > limit {
			m.t.Errorf("%+v: settled and leased %d exceed the limit %d", l, sum, limit)
		}
	}
	return fmt.Sprintf("%s leases %v", node, want)
}

func (m *model) take(node string, a billing.Allowance, amount billing.Money) {
	m.leases[node][a] -= min(m.leases[node][a], amount)
}

func (m *model) giveBack(node string) string {
	leases := []billing.Lease{{Allowance: m.allowance(), Amount: m.amount(40)}}
	for _, l := range m.leasesOf(node) {
		if m.random.IntN(2) == 0 {
			leases = append(leases, billing.Lease{Allowance: l.Allowance, Amount: m.amount(40)})
		}
	}
	for _, l := range leases {
		m.take(node, l.Allowance, l.Amount)
	}
	check(m.t, m.store.Return(m.t.Context(), node, leases))
	return fmt.Sprintf("%s returns %v", node, leases)
}

func (m *model) giveAllBack(node string) string {
	clear(m.leases[node])
	check(m.t, m.store.ReturnAll(m.t.Context(), node))
	return node + " returns all"
}

func (m *model) newSettlement() billing.Settlement {
	at := noon.AddDate(0, 0, 4*m.random.IntN(2)).Add(time.Duration(m.random.IntN(300)) * time.Minute)
	r := settlementAt(len(m.requests), at, m.amount(8))
	r.OrganizationID = pick(m.random, []string{org, other})
	r.KeyID = pick(m.random, modelKeys[r.OrganizationID])
	r.Project = pick(m.random, append(modelProjects, ""))
	r.Provider = pick(m.random, []string{"openai", "gemini"})
	r.Recovered = m.random.IntN(5) == 0
	m.requests = append(m.requests, r)
	return r
}

func (m *model) post(node string) string {
	var batch []billing.Settlement
	for range 1 + m.random.IntN(5) {
		r := m.newSettlement()
		batch = append(batch, r)
		m.settle(node, r)
		if m.random.IntN(4) == 0 {
			batch = append(batch, r) // twice in a batch
		}
	}
	post(m.t, m.store, node, batch...)
	return fmt.Sprintf("%s posts %d settlements", node, len(batch))
}

func (m *model) settle(node string, r billing.Settlement) {
	if r.Cost == 0 {
		return
	}
	seen := map[billing.Allowance]bool{billing.CreditsOf(r.OrganizationID): true}
	for _, p := range billing.Periods {
		for _, week := range billing.WeekStarts {
			a := billing.BudgetOf(r.OrganizationID, p, r.At, week)
			seen[a] = true
			a.Kind, a.Subject = billing.KeySpend, r.KeyID
			seen[a] = true
			if a.Kind, a.Subject = billing.ProjectBudget, r.Project; r.Project != "" {
				seen[a] = true
			}
		}
	}
	for a := range seen {
		m.settled[a] += r.Cost
		m.take(node, a, r.Cost)
	}
	m.entries = append(m.entries, billing.Entry{OrganizationID: r.OrganizationID, Amount: -r.Cost, RequestID: r.RequestID})
}

// postAgain posts old settlements among a new one: some as they were, some with
// other content, some of those recovered.
func (m *model) postAgain(node string) string {
	if len(m.requests) == 0 {
		return "nothing to post again"
	}
	var batch []billing.Settlement
	var conflicts []string
	for range 3 {
		r := pick(m.random, m.requests)
		switch m.random.IntN(3) {
		case 0:
			r.Cost += usd
			r.Recovered = true
		case 1:
			r.Error, r.Recovered = "changed", false
			conflicts = append(conflicts, r.RequestID)
		}
		batch = append(batch, r)
	}
	fresh := m.newSettlement()
	m.settle(node, fresh)
	got, err := m.store.Post(m.t.Context(), node, append(batch, fresh))
	check(m.t, err)
	equal(m.t, "conflicts", got, conflicts)
	return node + " posts old settlements"
}

func (m *model) append() string {
	e := billing.Entry{
		OrganizationID: pick(m.random, []string{org, other}), Type: billing.Purchase,
		Amount: usd + m.amount(60), IdempotencyKey: fmt.Sprint("entry ", len(m.entries)),
	}
	if m.random.IntN(4) == 0 {
		e.Type, e.Amount = billing.Refund, -e.Amount/4
	}
	m.entries = append(m.entries, e)
	m.credited[e.OrganizationID] += e.Amount
	for range 1 + m.random.IntN(2) { // and perhaps a redelivery
		got, err := m.store.Append(m.t.Context(), e)
		check(m.t, err)
		equal(m.t, "balance after", got.BalanceAfter, m.balance(e.OrganizationID))
	}
	return fmt.Sprintf("append %+v", e)
}

func (m *model) setLimit() string {
	o := pick(m.random, []string{org, other})
	id := pick(m.random, modelKeys[o])
	l := m.newLimit()
	m.limits[o+"/"+id] = l
	_, err := m.store.UpdateKey(m.t.Context(), o, id, func(k *billing.Key) error {
		k.UsageLimit, k.UsageLimitReset = l.limit, l.reset
		return nil
	})
	check(m.t, err)
	return "limit of " + id
}

func (m *model) setBudget() string {
	o := pick(m.random, []string{org, other})
	l := m.newLimit()
	m.limits[o+"/"], m.weeks[o] = l, pick(m.random, append(billing.WeekStarts, ""))
	_, err := m.store.UpdateOrganization(m.t.Context(), o, func(o *billing.Organization) error {
		o.Budget, o.BudgetPeriod, o.WeekStart = l.limit, l.reset, m.weeks[o.ID]
		return nil
	})
	check(m.t, err)
	return "budget of " + o
}

func (m *model) setProject() string {
	o, name := pick(m.random, []string{org, other}), pick(m.random, modelProjects)
	if _, known := m.limits[o+"/"+name]; known && m.random.IntN(3) == 0 {
		delete(m.limits, o+"/"+name)
		check(m.t, m.store.DeleteProject(m.t.Context(), o, name, anyProject))
		return "no more project " + name
	}
	l := m.newLimit()
	m.limits[o+"/"+name] = l
	_, err := m.store.PutProject(m.t.Context(), o, name, func(p *billing.Project) error {
		p.Budget, p.BudgetPeriod = l.limit, l.reset
		return nil
	})
	check(m.t, err)
	return "budget of project " + name
}

func (m *model) newLimit() periodLimit {
	l := periodLimit{limit: pointer(m.amount(100)), reset: pick(m.random, billing.Periods)}
	if m.random.IntN(3) == 0 {
		l.limit = nil
	}
	return l
}
