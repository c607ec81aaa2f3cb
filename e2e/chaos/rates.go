package chaos

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/internal/sandbox"
)

const (
	// The limits of the keys, and of the project of one of them.
	perMinute       = 600
	openAtOnce      = 8
	tokensPerMinute = 6000
	projectBudget   = dollar / 25
	projectDollars  = "0.04"

	// onTheWay is how long after a request was counted it reaches the provider
	// at the latest, so that it may do so in the next minute.
	onTheWay = 4 * time.Second
	// unseen is how long the provider may take to notice that an answer is over
	// after the gateway has, which may send the next request then.
	unseen = 50 * time.Millisecond
)

// brief are answers that take longer than unseen. They use just the tokens that
// they reserve: the gateway takes their prompt for 29.
func brief(random *rand.Rand) ask {
	a := protocols[0]
	a.model = "chaos-dear"
	a.prompt, a.output, a.maxTokens = 30, 50, 51
	a.delay = time.Duration(150+random.IntN(100)) * time.Millisecond
	return a
}

// limitedKeys are two keys under all limits that are not reached at once.
type limitedKeys struct {
	paced   []key // by requests a minute and open requests, under two secrets
	pacedID string
	tokens  key // by tokens a minute and the budget of a project
}

// ratesHold: clients of two keys ask for more than their limits on requests,
// tokens, open requests and a project's budget let through, under an old and a
// new secret, while nodes are killed and the database is cut. The provider never
// sees more than the limits, and when it is over all of them can be used again.
func ratesHold(ctx context.Context, c *cluster) error {
	if err := c.startWithFiveDollars(ctx); err != nil {
		return err
	}
	keys, err := c.createLimitedKeys(ctx)
	if err != nil {
		return err
	}
	finish := c.startAudit(ctx, 0)
	paced, tokens := c.newLoad(keys.paced, brief), c.newLoad([]key{keys.tokens}, brief)
	paced.prefix, tokens.prefix = "rates-paced", "rates-tokens"
	paced.start(ctx)
	tokens.start(ctx)
	failed := c.disturb(ctx)
	attempts := slices.Concat(paced.finish(), tokens.finish())
	finish()
	if failed != nil {
		return failed
	}
	again, err := c.useAllAgain(ctx, keys)
	if err != nil {
		return err
	}
	attempts = append(attempts, again...)
	if err := c.settle(ctx, evidence{attempts: attempts}); err != nil {
		return err
	}
	c.figures.check(attempts, expect{
		dying: true, refused: true, limited: true, unavailable: func(*attempt) bool { return true },
	})
	return c.checkRates(ctx)
}

func (c *cluster) createLimitedKeys(ctx context.Context) (keys limitedKeys, err error) {
	n := c.nodes[0]
	budget := map[string]string{"max_dollars": projectDollars, "period": "monthly"}
	if err := n.call(ctx, http.MethodPut, "/v1/projects/chaos", budget, nil); err != nil {
		return keys, err
	}
	var old, next, counted struct{ Key, ID string }
	for _, call := range []struct {
		path string
		body map[string]any
		out  any
	}{
		{"/v1/keys", map[string]any{"name": "paced", "rate_limit_rpm": perMinute, "max_concurrent": openAtOnce}, &old},
		{"/v1/keys", map[string]any{"name": "tokens", "rate_limit_tpm": tokensPerMinute, "project": "chaos"}, &counted},
	} {
		if err := n.call(ctx, http.MethodPost, call.path, call.body, call.out); err != nil {
			return keys, err
		}
	}
	overlap := map[string]any{"overlap_seconds": 3600}
	if err := n.call(ctx, http.MethodPost, "/v1/keys/"+old.ID+"/rotate", overlap, &next); err != nil {
		return keys, err
	}
	keys.paced = []key{{old.Key, defaultOrganization}, {next.Key, defaultOrganization}}
	keys.pacedID, keys.tokens = old.ID, key{counted.Key, defaultOrganization}
	return keys, nil
}

// disturb kills nodes and cuts the database for a while.
func (c *cluster) disturb(ctx context.Context) error {
	for end := time.Now().Add(2 * c.options.duration); time.Now().Before(end); {
		if err := pause(ctx, c.between(500*time.Millisecond, 1500*time.Millisecond)); err != nil {
			return err
		}
		switch c.random.IntN(6) {
		case 0:
			c.proxy.loseReplies.Add(1 + c.random.Int64N(3))
		case 1:
			c.proxy.cutAll()
		case 2:
			release := c.proxy.stall()
			err := pause(ctx, 3*time.Second)
			release()
			if err != nil {
				return err
			}
		default:
			if err := c.killOne(ctx); err != nil {
				return err
			}
		}
	}
	c.proxy.loseReplies.Store(0) // the faults are over
	return pause(ctx, backAfter)
}

// useAllAgain lifts the limit on requests and lets clients ask for more open
// requests than there may be: as many as may be are open at the provider.
func (c *cluster) useAllAgain(ctx context.Context, keys limitedKeys) ([]*attempt, error) {
	if err := c.nodes[0].call(ctx, http.MethodPatch, "/v1/keys/"+keys.pacedID, map[string]any{"rate_limit_rpm": nil}, nil); err != nil {
		return nil, err
	}
	if err := pause(ctx, time.Second); err != nil { // for the other nodes to see it
		return nil, err
	}
	l := c.newLoad(keys.paced, brief)
	l.prefix = "rates-again"
	l.start(ctx)
	err := pause(ctx, 5*time.Second)
	return l.finish(), err
}

// checkRates compares what the provider has seen with the limits.
func (c *cluster) checkRates(ctx context.Context) error {
	paced, tokens, again := c.servedTo("rates-paced"), c.servedTo("rates-tokens"), c.servedTo("rates-again")
	c.checkMinutes("requests", paced, perMinute, func(sandbox.Served) int64 { return 1 })
	c.checkMinutes("tokens", tokens, tokensPerMinute, func(s sandbox.Served) int64 { return s.Usage.Prompt() + s.Usage.Completion() })
	for when, served := range map[string][]sandbox.Served{"under faults": paced, "afterwards": again} {
		if n := mostOpen(served); n > openAtOnce {
			c.figures.violate("%d requests were open at the provider %s, at most %d may be", n, when, openAtOnce)
		}
	}
	if n := mostOpen(again); n < openAtOnce {
		c.figures.violate("after the faults only %d of %d requests can be open", n, openAtOnce)
	}
	books, err := readBooks(ctx, c.database)
	if err != nil {
		return err
	}
	var spent int64
	for marker, cost := range books.costs() {
		if strings.HasPrefix(marker, "rates-tokens") {
			spent += cost
		}
	}
	if spent > projectBudget {
		c.figures.violate("the project has spent %d of %d", spent, projectBudget)
	}
	c.figures.note("%d requests and %d of the other key reached the provider; the project spent %d of %d nano-USD; up to %d requests were open",
		len(paced), len(tokens), spent, projectBudget, mostOpen(paced))
	return nil
}

// servedTo is what the provider has served of a load.
func (c *cluster) servedTo(prefix string) (served []sandbox.Served) {
	for _, s := range c.provider.Served() {
		if strings.HasPrefix(s.ScriptID, prefix) {
			served = append(served, s)
		}
	}
	return served
}

// checkMinutes compares what arrived at the provider with a limit per minute:
// within each minute but for its beginning, and in all of them together.
func (c *cluster) checkMinutes(what string, served []sandbox.Served, limit int64, amount func(sandbox.Served) int64) {
	within, minutes := make(map[time.Time]int64), make(map[time.Time]bool)
	var all int64
	for _, s := range served {
		minute := s.Started.Truncate(time.Minute)
		minutes[minute] = true
		all += amount(s)
		if s.Started.Sub(minute) >= onTheWay {
			within[minute] += amount(s)
		}
	}
	for minute, n := range within {
		if n > limit {
			c.figures.violate("%d %s reached the provider in the minute of %s, at most %d may", n, what, minute.Format("15:04"), limit)
		}
	}
	if most := limit * int64(len(minutes)); all > most {
		c.figures.violate("%d %s reached the provider in %d minutes, at most %d may", all, what, len(minutes), most)
	}
	if all == 0 {
		c.figures.violate("no %s reached the provider", what)
	}
}

// mostOpen is how many requests were open at the provider at a time.
func mostOpen(served []sandbox.Served) (most int) {
	type step struct {
		at time.Time
		by int
	}
	var steps []step
	for _, s := range served {
		if end := s.Finished.Add(-unseen); end.After(s.Started) {
			steps = append(steps, step{s.Started, 1}, step{end, -1})
		}
	}
	slices.SortFunc(steps, func(a, b step) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	open := 0
	for _, s := range steps {
		open += s.by
		most = max(most, open)
	}
	return most
}
