package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	dollar = 1_000_000_000 // in nano-USD, as are the rest
	five   = 5 * dollar
	cent   = dollar / 100
	// briefly is how long clients wait between requests.
	briefly = 10 * time.Millisecond
	// spendTimeout ends a load that is to end by being refused.
	spendTimeout = 90 * time.Second
)

// dear are requests of half a tenth of a cent each. The holds of whole answers
// are little more than what they cost; streams name no limit, and extend theirs.
func dear(random *rand.Rand) ask {
	a := protocols[random.IntN(len(protocols))]
	a.model = "chaos-dear"
	a.prompt, a.output, a.maxTokens = 80, 50, 51
	if a.stream, a.pieces = random.IntN(2) == 0, 10; a.stream && a.protocol != metering.Anthropic {
		a.maxTokens = 0 // Anthropic's requests must name one
	}
	a.delay = time.Duration(1+random.IntN(10)) * time.Millisecond
	return a
}

// liars are streams that say they want a token and take a hundred.
func liars(*rand.Rand) ask {
	return ask{
		protocol: metering.OpenAI, model: "chaos-dear", stream: true,
		prompt: 80, output: 100, maxTokens: 1, pieces: 20, delay: 200 * time.Millisecond,
	}
}

// oneEvent is what an event of each open stream costs.
func oneEvent(a ask, streams int) (int64, error) {
	nanos, err := cost(a.model, metering.Usage{Input: int64(a.prompt), Output: int64(a.output / a.pieces)})
	return nanos * int64(streams), err
}

// limits: clients of all nodes spend one dollar of credits, of a key's limit
// and of the organization's budget, all at once, until they are refused.
func limits(ctx context.Context, c *cluster) error {
	const clients = 64
	if err := c.start(ctx); err != nil {
		return err
	}
	if err := c.buy(ctx, defaultOrganization, "dollar"); err != nil {
		return err
	}
	if err := c.setBudget(ctx, "1.00"); err != nil {
		return err
	}
	names := []string{"credits", "key limit", "budget"}
	k, err := c.createKey(ctx, defaultOrganization, "1.00")
	if err != nil {
		return err
	}
	bound, err := oneEvent(dear(rand.New(rand.NewPCG(1, 1))), clients)
	if err != nil {
		return err
	}
	l := c.newSpenders(k, clients, dear)
	attempts, err := c.spend(ctx, l, bound, nil)
	if err != nil {
		return err
	}
	e := evidence{cutOff: true, attempts: attempts}
	for _, name := range names {
		e.limits = append(e.limits, limit{name: name, nanos: dollar, bound: bound})
	}
	if err := c.settle(ctx, e); err != nil {
		return err
	}
	c.figures.check(e.attempts, expect{refused: true})
	books, err := readBooks(ctx, c.database)
	if err != nil {
		return err
	}
	spent := spentBeforeRefusals(attempts, books)
	c.figures.note("%.2f %% of 1 USD was spent when the first of %d clients was refused, %.2f %% when all had been; limits: %s",
		float64(spent)/dollar*100, clients, float64(books.spent())/dollar*100, strings.Join(names, ", "))
	if spent < dollar/100*99 {
		c.figures.violate("a client was refused when %d of %d was spent, less than 99 %%", spent, dollar)
	}
	return nil
}

// spentBeforeRefusals is what all requests cost that had been sent when the
// first one was refused: what is held for a request under way is not there for
// another one.
func spentBeforeRefusals(attempts []*attempt, books *books) (spent int64) {
	var first time.Time
	for _, a := range attempts {
		if a.refusal != "" && (first.IsZero() || a.ended.Before(first)) {
			first = a.ended
		}
	}
	costs := books.costs()
	for _, a := range attempts {
		if a.sent.Before(first) {
			spent += costs[a.marker]
		}
	}
	return spent
}

// hostile: a thousand streams at once spend the last cent, each of which
// takes a hundred times what it said.
func hostile(ctx context.Context, c *cluster) error {
	const streams = 1000
	if err := c.start(ctx); err != nil {
		return err
	}
	if err := c.buy(ctx, defaultOrganization, "cent"); err != nil {
		return err
	}
	k, err := c.createKey(ctx, defaultOrganization, "")
	if err != nil {
		return err
	}
	bound, err := oneEvent(liars(nil), 1) // of them all
	if err != nil {
		return err
	}
	e := evidence{cutOff: true, limits: []limit{{name: "credits", nanos: cent, bound: bound}}}
	if e.attempts, err = c.spend(ctx, c.newSpenders(k, streams, liars), bound, nil); err != nil {
		return err
	}
	if err := c.settle(ctx, e); err != nil {
		return err
	}
	c.figures.check(e.attempts, expect{refused: true})
	spent, err := c.spent(ctx)
	if err != nil {
		return err
	}
	c.figures.note("%d nano-USD of %d spent, at most %d allowed", spent, cent, cent+bound)
	return nil
}

// siege: a limit is reached while nodes are killed and connections to the
// database are cut. What was leased to a node that was killed is its own until
// it is back, so that less than the limit may be spent then; never more. And
// nothing stays lost: once the faults are over, all of it can be spent, without
// a restart.
func siege(ctx context.Context, c *cluster) error {
	return c.shareFiveDollars(ctx, 64, briefly, func(ctx context.Context) error {
		switch c.random.IntN(4) {
		case 0:
			return c.killOne(ctx)
		case 1:
			c.proxy.loseReplies.Add(1 + c.random.Int64N(3))
		default:
			c.proxy.cutAll()
		}
		return nil
	})
}

// shareFiveDollars lets clients of all nodes spend five dollars of credits, and
// of a key's limit, to the end, with a fault now and then.
func (c *cluster) shareFiveDollars(ctx context.Context, clients int, think time.Duration, fault func(context.Context) error) error {
	if err := c.startWithFiveDollars(ctx); err != nil {
		return err
	}
	k, err := c.createKey(ctx, defaultOrganization, "5.00")
	if err != nil {
		return err
	}
	bound, err := oneEvent(dear(rand.New(rand.NewPCG(1, 1))), clients)
	if err != nil {
		return err
	}
	l := c.newSpenders(k, clients, dear)
	l.think = think
	attempts, err := c.spend(ctx, l, bound, fault)
	c.proxy.loseReplies.Store(0) // the faults are over
	if err != nil {
		return err
	}
	if lost := c.proxy.lost.Load(); lost > 0 {
		c.figures.note("%d replies of the database lost", lost)
	}
	return c.spendToTheEnd(ctx, k, bound, attempts)
}

// spendToTheEnd spends what is left of five dollars after some attempts, and
// reconciles all.
func (c *cluster) spendToTheEnd(ctx context.Context, k key, bound int64, attempts []*attempt) error {
	rest, err := c.spendTheRest(ctx, k, bound)
	if err != nil {
		return err
	}
	attempts = append(attempts, rest...)
	e := evidence{cutOff: true, attempts: attempts, limits: []limit{{"credits", five, bound}, {"key limit", five, bound}}}
	if err := c.settle(ctx, e); err != nil {
		return err
	}
	c.figures.check(attempts, expect{dying: true, refused: true, unavailable: func(*attempt) bool { return true }})
	return nil
}

func (c *cluster) startWithFiveDollars(ctx context.Context) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	return c.buy(ctx, defaultOrganization, "five")
}

// usableAfter bounds how long after the last fault all of a limit can be spent
// again: nodes give back what they don't use.
const usableAfter = 10 * time.Second

// spendTheRest spends what is left of five dollars, to 99 %.
func (c *cluster) spendTheRest(ctx context.Context, k key, bound int64) (attempts []*attempt, err error) {
	const enough = five / 100 * 99
	for round, began := 1, time.Now(); ; round++ {
		for _, n := range c.nodes {
			if err := n.call(ctx, http.MethodPost, "/v1/flush", nil, nil); err != nil {
				return attempts, err
			}
		}
		spent, err := c.spent(ctx)
		if err != nil {
			return attempts, err
		}
		waited := time.Since(began).Round(100 * time.Millisecond)
		c.progress("%.2f %% spent after %s", float64(spent)/five*100, waited)
		switch {
		case spent >= enough:
			c.figures.note("%.2f %% of 5 USD could be spent, %s after the last fault", float64(spent)/five*100, waited)
			return attempts, nil
		case waited > usableAfter:
			c.figures.violate("%s after the last fault only %d of %d could be spent", waited, spent, int64(five))
			return attempts, nil
		}
		l := c.newSpenders(k, 3*len(c.nodes), dear)
		l.prefix = fmt.Sprintf("%s-rest%d", l.prefix, round)
		more, err := c.spend(ctx, l, bound, nil)
		attempts = append(attempts, more...)
		if err == nil {
			err = pause(ctx, time.Second)
		}
		if err != nil {
			return attempts, err
		}
	}
}

// newSpenders are clients of one key, each of which sends requests until it is
// refused.
func (c *cluster) newSpenders(k key, clients int, choose func(*rand.Rand) ask) *load {
	l := c.newLoad([]key{k}, choose)
	l.clients, l.think, l.untilRefused = clients, briefly, true
	return l
}

// spend lets clients spend a limit until every one has been refused, with a
// fault now and then unless it is nil.
func (c *cluster) spend(ctx context.Context, l *load, bound int64, fault func(context.Context) error) ([]*attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, spendTimeout)
	defer cancel()
	finish := c.startAudit(ctx, bound)
	defer finish()
	l.start(ctx)
	done := make(chan struct{})
	var attempts []*attempt
	go func() {
		defer close(done)
		attempts = l.join()
	}()
	var failed error
	for fault != nil && failed == nil {
		select {
		case <-done:
			fault = nil
		case <-time.After(c.between(200*time.Millisecond, 600*time.Millisecond)):
			failed = fault(ctx)
		}
	}
	<-done
	if ctx.Err() != nil {
		c.figures.violate("clients were still not refused after %s", spendTimeout)
	}
	c.progress("%d requests", len(attempts))
	return attempts, failed
}

func (c *cluster) spent(ctx context.Context) (int64, error) {
	b, err := readBooks(ctx, c.database)
	if err != nil {
		return 0, err
	}
	return b.spent(), nil
}

func (c *cluster) setBudget(ctx context.Context, dollars string) error {
	body := map[string]string{"max_dollars": dollars, "period": "monthly", "hold": "estimate"}
	return c.nodes[0].call(ctx, http.MethodPut, "/v1/budget", body, nil)
}
