package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

const (
	dollar = 1_000_000_000 // in nano-USD
	cent   = dollar / 100
	// spendTimeout ends a load that is to end by being refused.
	spendTimeout = 90 * time.Second
)

// dear are requests of half a tenth of a cent each, whose holds are what they
// cost.
func dear(random *rand.Rand) ask {
	a := protocols[random.IntN(len(protocols))]
	a.model = "chaos-dear"
	a.prompt, a.output, a.maxTokens = 8, 50, 50
	a.stream, a.pieces = random.IntN(2) == 0, 10
	a.delay = time.Duration(1+random.IntN(10)) * time.Millisecond
	return a
}

// liars are streams that say they want a token and take a hundred.
func liars(*rand.Rand) ask {
	return ask{
		protocol: metering.OpenAI, model: "chaos-dear", stream: true,
		prompt: 8, output: 100, maxTokens: 1, pieces: 20, delay: 200 * time.Millisecond,
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
	if err := c.buy(ctx, "dollar"); err != nil {
		return err
	}
	names := []string{"credits", "key limit"}
	switch err := c.setBudget(ctx, "1.00"); {
	case errors.Is(err, errNoBudgets):
		c.figures.note("SKIPPED the budget: %v", err)
		c.progress("SKIPPED the budget: %v", err)
	case err != nil:
		return err
	default:
		names = append(names, "budget")
	}
	keys, err := c.createKeys(ctx, "1.00")
	if err != nil {
		return err
	}
	bound, err := oneEvent(dear(rand.New(rand.NewPCG(1, 1))), clients)
	if err != nil {
		return err
	}
	e := evidence{cutOff: true, attempts: c.spend(ctx, keys, clients, dear)}
	for _, name := range names {
		e.limits = append(e.limits, limit{name: name, nanos: dollar, bound: bound})
	}
	if err := c.settle(ctx, e); err != nil {
		return err
	}
	c.figures.check(e.attempts, expect{refused: true})
	spent, err := c.spent(ctx)
	if err != nil {
		return err
	}
	c.figures.note("%.2f %% of 1 USD was spent when all of %d clients had been refused; limits: %s",
		float64(spent)/dollar*100, clients, strings.Join(names, ", "))
	if spent < dollar/100*99 {
		c.figures.violate("clients were refused when %d of %d was spent, less than 99 %%", spent, dollar)
	}
	return nil
}

// hostile: a thousand streams at once spend the last cent, each of which
// takes a hundred times what it said.
func hostile(ctx context.Context, c *cluster) error {
	const streams = 1000
	if err := c.start(ctx); err != nil {
		return err
	}
	if err := c.buy(ctx, "cent"); err != nil {
		return err
	}
	keys, err := c.createKeys(ctx, "")
	if err != nil {
		return err
	}
	bound, err := oneEvent(liars(nil), streams)
	if err != nil {
		return err
	}
	e := evidence{cutOff: true, limits: []limit{{name: "credits", nanos: cent, bound: bound}}}
	e.attempts = c.spend(ctx, keys, streams, liars)
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

// spend sends requests until every client has been refused once.
func (c *cluster) spend(ctx context.Context, keys []string, clients int, choose func(*rand.Rand) ask) []*attempt {
	ctx, cancel := context.WithTimeout(ctx, spendTimeout)
	defer cancel()
	l := c.newLoad(keys, choose)
	l.clients, l.think, l.untilRefused = clients, 10*time.Millisecond, true
	l.start(ctx)
	attempts := l.join()
	if ctx.Err() != nil {
		c.figures.violate("clients were still not refused after %s", spendTimeout)
	}
	c.progress("%d requests", len(attempts))
	return attempts
}

func (c *cluster) spent(ctx context.Context) (int64, error) {
	b, err := readBooks(ctx, c.database)
	if err != nil {
		return 0, err
	}
	return b.spent(), nil
}

// errNoBudgets: the gateway has no such thing.
var errNoBudgets = errors.New("this gateway has no organization budgets")

func (c *cluster) setBudget(ctx context.Context, dollars string) error {
	body := map[string]string{"max_dollars": dollars, "period": "monthly", "hold": "estimate"}
	err := c.nodes[0].call(ctx, http.MethodPut, "/v1/budget", body, nil)
	var answered *statusError
	if errors.As(err, &answered) && (answered.status == http.StatusNotFound || answered.status == http.StatusMethodNotAllowed) {
		return errNoBudgets
	}
	return err
}

// Sizes of the disk that a journal is on: room for one segment with its
// reserve and not for two, and then for all that is needed.
const (
	smallDisk = 24 << 20
	largeDisk = 256 << 20
)

// fullDisk: the disk of one node's journal is full for a while.
func fullDisk(ctx context.Context, c *cluster) (err error) {
	n := c.nodes[0]
	if err := os.MkdirAll(n.journal, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	disk, err := mountMemory(n.journal, smallDisk)
	if err != nil {
		c.figures.note("SKIPPED: %v", err)
		c.progress("SKIPPED: %v", err)
		return nil
	}
	defer func() { err = errors.Join(err, n.kill(), disk.unmount()) }()
	c.nodes = c.nodes[:1] // the others' disks are well
	var full, freed time.Time
	attempts, err := c.underLoad(ctx, bulky, func(ctx context.Context) error {
		full, err = c.awaitRefusal(ctx, n)
		if err != nil {
			return err
		}
		c.progress("the journal's disk is full")
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		if err := disk.resize(largeDisk); err != nil {
			return err
		}
		freed = time.Now()
		c.progress("the journal's disk has room again")
		return pause(ctx, 5*time.Second)
	})
	c.figures.check(attempts, expect{unavailable: func(a *attempt) bool {
		return a.ended.After(full.Add(-time.Second)) && a.sent.Before(freed.Add(time.Second))
	}})
	if len(c.figures.errors) == 0 {
		c.figures.violate("the disk was never full: no request was refused")
	}
	return err
}

// bulky are requests with large records, and some that stay open for long,
// which keep the journal from starting over in the same segment.
func bulky(random *rand.Rand) ask {
	a := mixed(random)
	a.padding = " " + strings.Repeat("x", 450)
	a.stream, a.leaveAfter, a.delay = false, 0, time.Millisecond
	if random.IntN(200) == 0 {
		a.stream, a.pieces, a.delay = true, 20, time.Second
	}
	return a
}

// awaitRefusal returns when a node has no room for another request.
func (c *cluster) awaitRefusal(ctx context.Context, n *node) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		log, err := os.ReadFile(n.dir + "/gateway.log")
		if err != nil {
			return time.Time{}, fmt.Errorf("read log: %w", err)
		}
		if strings.Contains(string(log), unavailable) {
			return time.Now(), nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return time.Time{}, fmt.Errorf("the disk does not fill up: %w", err)
		}
	}
}
