package caddymodule

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// The collectors live as long as the process: each configuration has a
// registry of its own, and counts must not start anew with each reload.
// Labels come from the configuration, never from clients.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_requests_total",
		Help: "Proxy requests answered, by provider and status code; no provider if neither path nor model led to one.",
	}, []string{"provider", "code"})
	refusalsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_refusals_total",
		Help: "Proxy requests answered with an error of the gateway's own, by provider and error; no provider if neither path nor model led to one.",
	}, []string{"provider", "error"})
	eventsDroppedTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_events_dropped_total",
		Help: "Events that reached no subscriber: too many waited, or the configuration was about to end.",
	})
	requestSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "caddy_llm_gateway_request_duration_seconds",
		Help:    "Time from a proxy request's arrival to the end of its answer.",
		Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
	}, []string{"provider"})
	tokensTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_tokens_total",
		Help: "Tokens in posted settlements, by provider and kind: prompt, completion, cached (part of prompt).",
	}, []string{"provider", "kind"})
	costTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_cost_nanos_total",
		Help: "Cost in posted settlements in nano-USD, by provider and rate: yours, market.",
	}, []string{"provider", "rate"})
	settlementsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_settlements_total",
		Help: "Posted settlements, by provider and where their usage came from.",
	}, []string{"provider", "source"})
	mismatchesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_usage_mismatches_total",
		Help: "Responses whose token counts do not add up to the provider's own total, or with text after its last word on them.",
	}, []string{"provider"})
	attemptsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_attempts_total",
		Help: "Requests sent to providers, retries included, by provider and outcome.",
	}, []string{"provider", "outcome"})
	restsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_credential_rests_total",
		Help: "Times that a credential began to rest because the provider refused it, by provider, credential and reason.",
	}, []string{"provider", "credential", "reason"})
	conflictsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_settlement_conflicts_total",
		Help: "Settlements that the store already has with other content. It keeps what it has.",
	})
	rejectedTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "caddy_llm_gateway_settlements_rejected_total",
		Help: "Settlements that the store cannot book, set aside in the journal's rejected.jsonl.",
	})
	unposted = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "caddy_llm_gateway_unposted_settlements",
		Help: "Settlements that are in the journal and not in the store yet.",
	}, func() float64 {
		settlements, _ := lag()
		return float64(settlements)
	})
	unpostedOldest = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "caddy_llm_gateway_unposted_oldest_seconds",
		Help: "How long the oldest of these has waited.",
	}, func() float64 {
		_, oldest := lag()
		return oldest.Seconds()
	})
	imbalanceNanos = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "caddy_llm_gateway_ledger_imbalance_nanos",
		Help: "Sum of the differences that this node's last verification of the books found; 0 if they balance.",
	})
	verifiedTimestamp = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "caddy_llm_gateway_ledger_verified_timestamp_seconds",
		Help: "When this node last verified the books, in seconds since 1970; 0 if it did not yet.",
	})
)

// breakerStates are read when they are asked for: a breaker that is open may
// be tried again some time later, without anything that would tell so.
type breakerStates struct{}

var breakerState = prometheus.NewDesc("caddy_llm_gateway_breaker_state",
	"State of a provider's circuit breaker: 0 closed, 1 half open (the next request is a probe, or one is under way), 2 open.",
	[]string{"provider"}, nil)

// Describe implements prometheus.Collector.
func (breakerStates) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- breakerState }

// Collect implements prometheus.Collector.
func (breakerStates) Collect(metrics chan<- prometheus.Metric) {
	app := Running()
	if app == nil {
		return
	}
	for name, p := range app.Providers {
		state := float64(p.state.Breaker.Status().State)
		metrics <- prometheus.MustNewConstMetric(breakerState, prometheus.GaugeValue, state, name)
	}
}

// lag is how far the stores of all open engines are behind.
func lag() (settlements int, oldest time.Duration) {
	engines.Range(func(_, value any) bool {
		e := value.(*engine)
		select {
		case <-e.opened:
			n, waited := e.poster.Lag()
			settlements, oldest = settlements+n, max(oldest, waited)
		default:
		}
		return true
	})
	return settlements, oldest
}

func registerMetrics(registry *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{
		requestsTotal, refusalsTotal, requestSeconds, tokensTotal, costTotal, settlementsTotal, mismatchesTotal,
		attemptsTotal, breakerStates{}, restsTotal,
		conflictsTotal, rejectedTotal, eventsDroppedTotal, unposted, unpostedOldest,
		imbalanceNanos, verifiedTimestamp,
	} {
		if err := registry.Register(c); err != nil {
			if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); !again {
				return err
			}
		}
	}
	return nil
}

// requestMetrics are a provider's collectors with the label already applied.
type requestMetrics struct {
	duration prometheus.Observer
	ok       prometheus.Counter
	attempts [upstream.Abandoned + 1]prometheus.Counter // by class
}

func newRequestMetrics(provider string) requestMetrics {
	m := requestMetrics{
		duration: requestSeconds.WithLabelValues(provider),
		ok:       requestsTotal.WithLabelValues(provider, "200"),
	}
	for class := range m.attempts {
		m.attempts[class] = attemptsTotal.WithLabelValues(provider, upstream.Class(class).String())
	}
	return m
}

// observeRest counts that a credential began to rest.
func observeRest(provider, credential string, reason upstream.Class) {
	restsTotal.WithLabelValues(provider, credential, reason.String()).Inc()
}

func observeRequest(c *call) {
	if c.provider == nil {
		requestSeconds.WithLabelValues(c.row.Provider).Observe(c.elapsed().Seconds())
		requestsTotal.WithLabelValues(c.row.Provider, strconv.Itoa(c.row.Status)).Inc()
		return
	}
	m := c.provider.metrics
	m.duration.Observe(c.elapsed().Seconds())
	if c.row.Status == 200 {
		m.ok.Inc()
		return
	}
	requestsTotal.WithLabelValues(c.provider.name, strconv.Itoa(c.row.Status)).Inc()
}

// observePosted sums a batch first: a label look-up costs more than an
// addition.
func observePosted(batch []billing.Settlement) {
	type group struct {
		provider string
		source   metering.Source
	}
	type sums struct {
		settlements, mismatches    int
		prompt, completion, cached int64
		yours, market              billing.Money
	}
	groups := make(map[group]*sums)
	for i := range batch {
		s := &batch[i]
		g := groups[group{s.Provider, s.UsageSource}]
		if g == nil {
			g = new(sums)
			groups[group{s.Provider, s.UsageSource}] = g
		}
		g.settlements++
		g.prompt += s.Usage.Prompt()
		g.completion += s.Usage.Completion()
		g.cached += s.Usage.Cached()
		g.yours += s.Cost
		g.market += s.MarketCost
		if s.UsageMismatch {
			g.mismatches++
		}
	}
	for key, g := range groups {
		settlementsTotal.WithLabelValues(key.provider, string(key.source)).Add(float64(g.settlements))
		mismatchesTotal.WithLabelValues(key.provider).Add(float64(g.mismatches))
		tokensTotal.WithLabelValues(key.provider, "prompt").Add(float64(g.prompt))
		tokensTotal.WithLabelValues(key.provider, "completion").Add(float64(g.completion))
		tokensTotal.WithLabelValues(key.provider, "cached").Add(float64(g.cached))
		costTotal.WithLabelValues(key.provider, "yours").Add(float64(g.yours))
		costTotal.WithLabelValues(key.provider, "market").Add(float64(g.market))
	}
}
