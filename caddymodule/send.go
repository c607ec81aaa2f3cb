package caddymodule

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
)

// send gets an answer from a provider, whatever its status: that of the first
// attempt, or of one that follows because those before it failed. All are made
// under the one hold, and the customer pays for the one that answered. Nothing
// of an attempt that failed reaches the client, unless it is the last and the
// provider itself said so.
func (c *call) send() *refusal {
	for {
		wait, next := c.ask()
		switch {
		case next:
			c.aim(c.targets.at + 1)
			c.app.requestLog.Warn("asking the next target", zap.String("request_id", c.row.RequestID),
				zap.String("provider", c.provider.name), zap.String("model", c.row.Model))
		case c.response.upstream == nil:
			return c.unavailable(wait)
		default:
			return c.outcomeOf(c.response.upstream)
		}
	}
}

// ask tries one provider, and again where that makes sense. It returns how long
// the provider must be left alone, if it is not to be asked at all, and whether
// to try the next one.
func (c *call) ask() (wait time.Duration, next bool) {
	retries := upstream.NewRetries(*c.provider.Retries)
	for {
		pass, wait, ok := c.provider.state.Breaker.Allow()
		if !ok {
			return wait, c.hasNextTarget()
		}
		if c.response.upstream != nil {
			c.response.upstream.discard()
		}
		a := c.newAttempt(pass)
		a.open()
		c.report(a)
		pause, again := c.again(a, &retries)
		if !again {
			return 0, c.fallsBack(a)
		}
		c.app.requestLog.Warn("trying again", zap.String("request_id", c.row.RequestID), zap.String("provider", c.provider.name),
			zap.String("credential", a.credential.Label), zap.Int("status", a.status()), zap.Duration("pause", pause), zap.Error(a.failure))
		if !c.pause(pause) {
			return 0, false
		}
	}
}

// fallsBack tells whether the next target is asked after this attempt, which
// may have used up the time.
func (c *call) fallsBack(a *attempt) bool {
	if !c.hasNextTarget() || a.gone() || !a.class.Failure() && a.class != upstream.RateLimited {
		return false
	}
	next := c.targets.list[c.targets.at+1].provider
	return c.elapsed() < time.Duration(next.TotalTimeout)
}

var errBreakerOpen = errors.New("the provider's circuit breaker is open")

// unavailable refuses a request whose provider must not be asked. Like other
// refusals it has an audit row within bounds.
func (c *call) unavailable(wait time.Duration) *refusal {
	refused := refuseUnavailable.because(errBreakerOpen)
	refused.retryAfter = wait
	c.row.Status, c.row.Error = refused.status, refused.text
	if !c.engine.refused.take(c.key.ID, maxRefusedRows, c.engine.now()) {
		c.void()
	}
	return refused
}

// outcomeOf is what the last attempt comes to: nil if there is an answer to
// relay.
func (c *call) outcomeOf(a *attempt) *refusal {
	c.aim(a.target)
	switch {
	case a.failure == nil:
		return nil
	case errors.Is(a.failure, errUpload):
		c.row.Status, c.row.Error = refuseInvalidBody.status, refuseInvalidBody.text
		return refuseInvalidBody.because(a.failure)
	case a.class != upstream.Abandoned:
		c.row.Status, c.row.Error = refuseUpstream.status, refuseUpstream.text
	case a.answer != nil:
		return nil // the client has left in the middle of it
	default:
		c.row.Error = "client disconnected"
	}
	return refuseUpstream.because(a.failure)
}

// closeUpstream lets go of the last attempt.
func (c *call) closeUpstream() {
	if c.response.upstream != nil {
		c.response.upstream.close()
	}
}

// report tells all that keep account of attempts what became of one.
func (c *call) report(a *attempt) {
	p := c.provider
	p.state.Breaker.Record(a.pass, a.class)
	if a.credential.Report(a.class, a.retryAfter) {
		observeRest(p.name, a.credential.Label, a.class)
		c.app.requestLog.Warn("a credential rests", zap.String("provider", p.name),
			zap.String("credential", a.credential.Label), zap.Stringer("reason", a.class))
	}
	p.metrics.attempts[a.class].Inc()
	c.row.Attempts++
	c.row.AttemptLog = append(c.row.AttemptLog, billing.Attempt{
		Provider:   p.name,
		Model:      c.row.Model,
		Credential: a.credential.Label,
		Status:     a.status(),
		Error:      textOf(a.failure),
		Duration:   c.elapsed() - a.began,
	})
}

// again decides whether to try again, and after which pause: not for a client
// that has left, and not with an upload, which has gone through.
func (c *call) again(a *attempt, retries *upstream.Retries) (pause time.Duration, again bool) {
	if a.gone() || c.uploading() {
		return 0, false
	}
	switch a.class {
	case upstream.RateLimited, upstream.Unauthorized:
		if c.provider.credentials.Ready() {
			return 0, retries.NextAtOnce() // with one that was not refused
		}
		if a.class == upstream.Unauthorized {
			return 0, false
		}
	case upstream.OK, upstream.Rejected, upstream.Abandoned:
		return 0, false
	}
	if c.hasNextTarget() {
		return 0, false // which is asked at once
	}
	pause, again = retries.Next(a.retryAfter)
	return pause, again && c.elapsed()+pause < time.Duration(c.provider.TotalTimeout)
}

// pause waits before the next attempt. It returns false if the client leaves.
func (c *call) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.r.Context().Done():
		return false
	}
}

// status is what the attempt was answered with; 0 without an answer.
func (a *attempt) status() int {
	if a.answer == nil {
		return 0
	}
	return a.answer.StatusCode
}

// succeeded tells whether the provider has accepted the request.
func (a *attempt) succeeded() bool { return a.status() < http.StatusMultipleChoices }
