package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/postgres"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
)

// engines holds the engine of each storage, so that it survives reloads of
// the configuration with its leases, holds and unposted settlements.
var engines = caddy.NewUsagePool()

const (
	// openTimeout bounds how long a start waits for a store that does not
	// answer: it may be starting, too.
	openTimeout = 45 * time.Second
	// closeTimeout bounds how long the last reference waits for requests and
	// for the store. What is not posted by then is in the journal.
	closeTimeout = 10 * time.Second
)

// errStopped: the engine is closed; a request came too late.
var errStopped = errors.New("gateway is stopping")

// engine is the part of the gateway that has state: the store, the journal,
// the leases, the caches. It outlives the configuration that opened it.
type engine struct {
	config     engineConfig
	log        *zap.Logger
	requestLog *zap.Logger // for what each request may have to say
	outageLog  *zap.Logger // for what goes wrong while the store is away
	store      billing.Store
	journal    *journal.Journal
	poster     *billing.Poster
	authorizer *billing.Authorizer
	heartbeats *billing.Heartbeats
	node       billing.Node // what stays the same of it
	leaseTTL   atomic.Int64 // a time.Duration, as are the next
	leaseAhead atomic.Int64
	retention  atomic.Int64 // 0 keeps all
	keys       *keyCache
	limiter    *billing.Limiter
	refused    perMinute // audit rows of refused requests, by key
	verifier   *verifier
	events     *events
	balances   *balances
	upstreams  *upstream.Registry // how the providers and their credentials do
	// clock is what requests arrive by: it decides their periods. Tests set it;
	// nil is the machine's.
	clock atomic.Pointer[func() time.Time]

	opening sync.Mutex
	opened  chan struct{} // closed when all of the above is set
	stop    context.CancelFunc
	tasks   sync.WaitGroup

	requests atomic.Int64
	idle     chan struct{} // signalled when requests returns to 0
	closing  atomic.Bool
}

// engineConfig is what identifies an engine: configurations that agree on it
// share one.
type engineConfig struct {
	storage     Storage
	journalDir  string
	journalSync journal.Sync
}

// loadEngine returns the engine for a configuration without opening it, as
// provisioning must not touch databases. Each call needs one engines.Delete.
//
// A reload cannot take half of a running engine: two that share a journal, or
// a database that each believes to be its own, would spend the same money.
func loadEngine(config engineConfig) (*engine, error) {
	var shared error
	engines.Range(func(key, _ any) bool {
		other := key.(engineConfig)
		if other != config && (other.journalDir == config.journalDir || other.storage == config.storage) {
			shared = errors.New("storage and journal cannot be changed apart from each other, or journal sync at all, " +
				"while the gateway runs: restart it")
		}
		return shared == nil
	})
	if shared != nil {
		return nil, shared
	}
	e, _, err := engines.LoadOrNew(config, func() (caddy.Destructor, error) {
		log := caddy.Log().Named("llm_gateway")
		e := &engine{
			config:     config,
			log:        log,
			requestLog: perRequest(log),
			outageLog:  perAttempt(log),
			opened:     make(chan struct{}),
			idle:       make(chan struct{}, 1),
			verifier:   newVerifier(),
			events:     newEvents(log),
			balances:   newBalances(),
		}
		e.upstreams = upstream.NewRegistry(e.now, e.breakerChanged)
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	return e.(*engine), nil
}

// now is the time by the engine's clock.
func (e *engine) now() time.Time {
	if clock := e.clock.Load(); clock != nil {
		return (*clock)()
	}
	return time.Now()
}

// breakerChanged tells that requests to a provider are no longer sent, or
// again.
func (e *engine) breakerChanged(provider string, c upstream.Change) {
	if c.To != upstream.Open {
		e.log.Info("a provider's circuit breaker has changed", zap.String("provider", provider),
			zap.Stringer("from", c.From), zap.Stringer("to", c.To))
		return
	}
	e.log.Warn("a provider's circuit breaker has opened: nothing is sent to it", zap.String("provider", provider),
		zap.String("reason", c.Reason), zap.Time("retry_at", c.RetryAt))
	e.events.breakerOpen(provider, c.Reason, c.RetryAt)
}

// perRequest returns a logger for messages that every request may cause: with
// a full disk, thousands a second. It passes ten of each in a second.
func perRequest(log *zap.Logger) *zap.Logger { return sampled(log, time.Second, 10) }

// perAttempt returns a logger for failures of what is tried again and again
// while the store is away. It passes one of each in ten seconds.
func perAttempt(log *zap.Logger) *zap.Logger { return sampled(log, 10*time.Second, 1) }

func sampled(log *zap.Logger, tick time.Duration, each int) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, tick, each, 0)
	}))
}

// open connects to the store, recovers the journal and starts the background
// tasks. Only the first call does anything, unless it fails.
func (e *engine) open(ctx context.Context) error {
	e.opening.Lock()
	defer e.opening.Unlock()
	select {
	case <-e.opened:
		return nil
	default:
	}
	store, err := backoff.Retry(ctx, func() (billing.Store, error) { return openStore(ctx, e.config.storage) },
		backoff.WithMaxElapsedTime(openTimeout), backoff.WithNotify(e.storeAway))
	if err != nil {
		return fmt.Errorf("open storage: %w", err)
	}
	if err := e.openBooks(ctx, store); err != nil {
		return errors.Join(err, store.Close())
	}
	return nil
}

// openStore opens the store. That it does not answer may pass; all else is
// permanent.
func openStore(ctx context.Context, s Storage) (store billing.Store, err error) {
	if s.Driver == driverPostgres {
		store, err = postgres.Open(ctx, s.DSN)
	} else {
		store, err = sqlite.Open(ctx, s.DSN)
	}
	if err != nil && !errors.Is(err, billing.ErrAway) {
		return nil, backoff.Permanent(err)
	}
	return store, err
}

// storeAway tells that the start waits for the store.
func (e *engine) storeAway(err error, _ time.Duration) {
	e.outageLog.Warn("the start waits for the database", zap.Duration("seconds_at_most", openTimeout), zap.Error(err))
}

func (e *engine) openBooks(ctx context.Context, store billing.Store) error {
	org := billing.Organization{ID: billing.DefaultOrganization, Name: billing.DefaultOrganization, CreatedAt: time.Now()}
	if err := store.EnsureOrganization(ctx, org); err != nil {
		return fmt.Errorf("create organization %s: %w", org.ID, err)
	}
	if err := e.checkRole(ctx, store); err != nil {
		return err
	}
	e.prepareRequests(ctx, store)
	database, err := store.Identity(ctx)
	if err != nil {
		return err
	}
	j, recovered, err := journal.Open(e.config.journalDir, journal.Options{Database: database, Sync: e.config.journalSync})
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	if err := e.recover(ctx, store, j, recovered); err != nil {
		return errors.Join(err, j.Close())
	}
	if e.keys, err = newKeyCache(ctx, store); err != nil {
		return errors.Join(err, j.Close())
	}
	e.node = newNode(j)
	joined := time.Now()
	if err := store.Join(ctx, e.status()); err != nil {
		return errors.Join(err, j.Close())
	}
	e.store, e.journal = store, j
	e.poster = billing.NewPoster(store, j, e.node.Holder(), e)
	e.authorizer = billing.NewAuthorizer(store, j, e.poster, billing.Options{
		Sole:   e.config.storage.Driver != driverPostgres,
		Ahead:  func() time.Duration { return time.Duration(e.leaseAhead.Load()) },
		Failed: e.leasesFailed, Changed: e.keys.wake,
	})
	e.authorizer.Beat(joined, e.status().LeaseTTL, false)
	e.heartbeats = &billing.Heartbeats{
		Store: store, Authorizer: e.authorizer,
		Node: e.status, Expired: e.nodeExpired, Failed: e.heartbeatFailed,
	}
	e.limiter = billing.NewLimiter(store, e.node.Holder(), billing.LimiterOptions{
		Sole:   e.config.storage.Driver != driverPostgres,
		Now:    func() time.Time { return e.now() },
		Ahead:  func() time.Duration { return time.Duration(e.leaseAhead.Load()) },
		TTL:    func() time.Duration { return time.Duration(e.leaseTTL.Load()) },
		Nodes:  e.heartbeats.Live,
		Failed: e.quotasFailed,
	})
	e.verifier.nodeLeases = e.authorizer.CheckLeases
	e.startTasks()
	close(e.opened)
	e.log.Info("the books are open", zap.String("storage", e.config.storage.Driver),
		zap.String("journal", e.config.journalDir), zap.String("node", j.Node()))
	return nil
}

// startTasks begins all that a node does beside its requests.
func (e *engine) startTasks() {
	background, stop := context.WithCancel(context.Background())
	e.stop = stop
	for _, task := range []func(context.Context){
		e.keys.serve, e.watchKeys, e.sweep, e.keepRequests, e.heartbeats.Run, e.watchBooks, e.watchBalances,
	} {
		e.tasks.Go(func() { task(background) })
	}
	go e.events.run(background)
}

// recover posts what an earlier process of this node left in the journal, out of
// what that had leased.
func (e *engine) recover(ctx context.Context, store billing.Store, j *journal.Journal, r *journal.Recovered) error {
	for _, torn := range r.Torn {
		e.log.Warn("journal segment has damage", zap.String("detail", torn))
	}
	nodes, err := store.ListNodes(ctx)
	if err != nil {
		return err
	}
	holder := j.Node()
	for _, n := range nodes {
		if n.ID == j.Node() {
			holder = n.Holder()
		}
	}
	recovery := billing.Recovery{Store: store, Journal: j, Node: holder, Observer: e}
	if err := recovery.Post(ctx, r.Settlements); err != nil {
		return err
	}
	if len(r.Settlements) > 0 {
		e.log.Info("replayed the journal: what was not posted is now", zap.Int("settlements", len(r.Settlements)))
	}
	j.Forget(r)
	return nil
}

// acquire counts a request that uses the engine, which stays open until
// release. At a cold start it waits for the engine to open.
func (e *engine) acquire(ctx context.Context) error {
	e.requests.Add(1)
	if e.closing.Load() {
		e.release()
		return errStopped
	}
	select {
	case <-e.opened:
		return nil
	case <-ctx.Done():
		e.release()
		return ctx.Err()
	}
}

func (e *engine) release() {
	if e.requests.Add(-1) == 0 && e.closing.Load() {
		select {
		case e.idle <- struct{}{}:
		default:
		}
	}
}

// Destruct closes the engine when no configuration uses it any more.
// It waits for open requests and posts what they settled.
func (e *engine) Destruct() error {
	e.opening.Lock()
	defer e.opening.Unlock()
	select {
	case <-e.opened:
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	e.closing.Store(true)
	if e.requests.Load() > 0 {
		select {
		case <-e.idle:
		case <-ctx.Done():
			e.log.Warn("closing with open requests", zap.Int64("requests", e.requests.Load()))
		}
	}
	e.stop()
	e.tasks.Wait()
	e.authorizer.Close()
	if err := e.limiter.Close(ctx); err != nil {
		e.log.Warn("what limits have left in this minute is lost", zap.Error(err))
	}
	if err := e.poster.Close(ctx); err != nil {
		e.log.Warn("closing with unposted settlements; the journal keeps them", zap.Int("settlements", e.poster.Pending()))
	} else if e.requests.Load() > 0 {
		e.log.Warn("leases stay with this node for its open requests until it starts again, or lease_ttl ends")
	} else if err := e.store.Leave(ctx, e.node); err != nil {
		e.log.Warn("leases stay with this node until it starts again, or lease_ttl ends", zap.Error(err))
	}
	err := errors.Join(e.journal.Close(), e.store.Close())
	e.events.wait(ctx) // last: a subscriber that hangs must not cost the rest its time
	return err
}

// record settles a request that was refused. Its record is a begin: a full
// disk has room left for the outcomes of requests that were sent, alone.
func (e *engine) record(s *billing.Settlement) {
	segment, err := e.journal.Append(billing.RecordBegin, s)
	if err != nil {
		e.requestLog.Error("journal does not take a record", zap.String("request_id", s.RequestID), zap.Error(err))
	}
	e.poster.Post(*s, segment)
}

// Posted implements billing.PostObserver.
func (e *engine) Posted(batch []billing.Settlement) {
	observePosted(batch)
	e.balances.use(batch)
}

// PostFailed implements billing.PostObserver.
func (e *engine) PostFailed(err error) {
	e.outageLog.Error("cannot post to the store; will try again", zap.Int("unposted", e.poster.Pending()), zap.Error(err))
}

// PostConflict implements billing.PostObserver.
func (e *engine) PostConflict(ids []string) {
	conflictsTotal.Add(float64(len(ids)))
	e.log.Error("the store has other content for these requests; it keeps what it has", zap.Strings("request_ids", ids))
}

// PostRejected implements billing.PostObserver.
func (e *engine) PostRejected(s *billing.Settlement, reason error, file string) {
	rejectedTotal.Inc()
	e.log.Error("the store cannot book a settlement; it is set aside and not charged",
		zap.String("request_id", s.RequestID), zap.String("file", file), zap.Error(reason))
}

// Interface guards
var (
	_ caddy.Destructor     = (*engine)(nil)
	_ billing.PostObserver = (*engine)(nil)
)
