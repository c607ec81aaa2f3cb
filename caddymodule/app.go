// Package caddymodule is the gateway as Caddy sees it: the app llm_gateway
// with its configuration, and the handler that takes a request from a
// client's key to the provider's answer and the debit for it. A reader may
// start at Handler.ServeHTTP.
package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func init() {
	caddy.RegisterModule(App{})
}

// App is the LLM gateway: its books, its providers and its prices. The
// handlers `llm_gateway` and `llm_gateway_admin` serve it.
type App struct {
	// Storage is where the books are kept.
	// Default: SQLite in Caddy's data directory.
	Storage *Storage `json:"storage,omitempty"`

	// Journal is this node's write-ahead journal.
	// Default: a directory in Caddy's data directory.
	Journal *Journal `json:"journal,omitempty"`

	// AdminToken is the operator's credential for the management API. It is
	// usually a placeholder such as {env.GATEWAY_ADMIN_TOKEN}, resolved when
	// the configuration is loaded. Empty: nobody is let in.
	AdminToken string `json:"admin_token,omitempty"`

	// OIDC lets members of organizations in, with bearer tokens and by a login in
	// a browser. Default: nobody but operators is let in.
	OIDC *OIDC `json:"oidc,omitempty"`

	// Unpriced says what to do with requests for models, or to endpoints,
	// that have no price: "refuse" them (default), charge them at the
	// "ceiling" of the provider's price list, or "record" them at no cost.
	Unpriced string `json:"unpriced,omitempty"`

	// Discount is how much lower than the market rate your rate is, as a
	// percentage such as "20%". Default: "0%".
	Discount string `json:"discount,omitempty"`

	// Prices are prices of models that the built-in catalogue does not know,
	// or knows otherwise. They win over the catalogue.
	Prices []*Price `json:"prices,omitempty"`

	// Billing is how organizations buy credits. Default: they cannot.
	Billing *Billing `json:"billing,omitempty"`

	// Providers by name. A request to /<name>/... goes to that provider.
	Providers map[string]*Provider `json:"providers,omitempty"`

	// Routes are names that POST /v1/chat/completions takes for a model, each
	// with the targets that are asked in this order: "<provider>/<model>". A
	// name has lower-case letters, digits, ., - and _.
	Routes map[string][]string `json:"routes,omitempty"`

	// Patience is how often and how long providers are tried that have no such
	// options of their own.
	Patience

	// MaxBody is the largest request body in bytes, other than of uploads,
	// which are streamed. Default: 33554432 (32 MiB).
	MaxBody int64 `json:"max_body,omitempty"`

	// LeaseAhead is how long the credits that a node has leased last at the
	// pace of its recent spend, if there are that many: so long it serves on
	// while the database is away. For several nodes. Default: 2m.
	LeaseAhead caddy.Duration `json:"lease_ahead,omitempty"`

	// LeaseTTL is how long after a node's last heartbeat its leases are given
	// back for it. Until then credits that a dead node has leased cannot be
	// spent; after that the node refuses requests until it reaches the
	// database again. Negative: never. Default: 10m.
	LeaseTTL caddy.Duration `json:"lease_ttl,omitempty"`

	// LowBalance is an amount of credits in USD, as a decimal such as "5.00".
	// When an organization that uses this node falls below it, the event
	// llm_gateway.low_balance is emitted. Default: none.
	LowBalance string `json:"low_balance,omitempty"`

	// WeekStart is the day that weekly periods of limits begin on, at 00:00 UTC,
	// in organizations that have not chosen one: "sunday" (default), "monday" or
	// "saturday". All nodes that share the books need the same.
	WeekStart billing.WeekStart `json:"week_start,omitempty"`

	// Retention is how long rows of requests are kept: at least 35 days. Older
	// ones are dropped, on PostgreSQL by whole months; the ledger, limits and
	// sums of usage by hour stay. Default: all are kept.
	Retention caddy.Duration `json:"retention,omitempty"`

	// Drain is how long a provider's response is read on after the client has
	// left, to learn what it cost. Default: 30s.
	Drain caddy.Duration `json:"drain,omitempty"`

	// DefaultMaxTokens is how many generated tokens to hold credits for when a
	// request does not limit them itself. Such a hold is a guess: a stream
	// that is longer extends it, any other answer is charged in full, so a
	// balance can go below zero by what those in flight cost above their
	// holds. Default: 4096.
	DefaultMaxTokens int64 `json:"default_max_tokens,omitempty"`

	// MaxOutputTokens is how many generated tokens are held for when a request
	// of an organization with strict holds does not limit them itself: more
	// than any model of yours generates for one answer. Default: 131072.
	MaxOutputTokens int64 `json:"max_output_tokens,omitempty"`

	// ErrorFormat is the shape of the gateway's own errors on proxy routes:
	// "gateway" for {"error": "<text>"} (default), or "provider" for what the
	// SDKs of the route's protocol parse into their typed errors, with the
	// text as the code.
	ErrorFormat string `json:"error_format,omitempty"`

	engine       *engine
	engineConfig *engineConfig
	book         *metering.Book
	discount     metering.Discount
	lowBalance   metering.Money
	log          *zap.Logger
	requestLog   *zap.Logger // for what each request may have to say
	replaced     *App        // the one before, should this one fail to start
	routeTargets []routeTarget
}

// running is the app of the configuration that is in force. Modules that
// Caddy provisions before any app find it here.
var running atomic.Pointer[App]

// Storage is a database for the books.
type Storage struct {
	// Driver is "sqlite" for a file on this machine, or "postgres" for a
	// database that several gateways share.
	Driver string `json:"driver"`
	// DSN is the file's path, or a PostgreSQL connection string. Placeholders
	// are resolved when the configuration is loaded.
	DSN string `json:"dsn"`
}

const (
	driverSQLite   = "sqlite"
	driverPostgres = "postgres"
)

// Journal configures the write-ahead journal.
type Journal struct {
	// Path is the journal's directory. It belongs to one gateway process.
	Path string `json:"path,omitempty"`
	// Sync is when records are forced to the disk: every 50 milliseconds
	// ("interval", default), each before it takes effect ("always"), or when
	// the operating system likes ("off"). None of them loses a record when
	// the gateway crashes; they differ in what a power cut can lose.
	Sync journal.Sync `json:"sync,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "llm_gateway",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision sets up the app. It opens no database: Start does.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = ctx.Logger()
	a.requestLog = perRequest(a.log)
	a.setDefaults()
	repl := caddy.NewReplacer()
	a.AdminToken = repl.ReplaceAll(a.AdminToken, "")
	if a.AdminToken == "" {
		a.log.Warn("no admin_token: without an operator token that was made before, nobody runs the management API")
	}
	if a.OIDC != nil {
		if err := a.OIDC.provision(repl); err != nil {
			return fmt.Errorf("oidc: %w", err)
		}
	}
	if err := a.provisionPrices(); err != nil {
		return err
	}
	if _, err := a.Packages(); err != nil {
		return err
	}
	if a.LowBalance != "" {
		var err error
		if a.lowBalance, err = parseLowBalance(a.LowBalance); err != nil {
			return err
		}
	}
	if a.Billing != nil {
		if err := a.Billing.provision(repl); err != nil {
			return err
		}
	}
	for name, p := range a.Providers {
		if err := p.provision(ctx, name, a.Patience); err != nil {
			return fmt.Errorf("provider %s: %w", name, err)
		}
		if !p.configured() {
			a.log.Warn("provider has no credential: requests for it are refused", zap.String("provider", name))
		}
	}
	if err := a.validateRoutes(); err != nil {
		return err
	}
	a.warnOfUnpricedTargets()
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if err := a.provisionEngine(repl); err != nil {
		return err
	}
	return a.provisionEvents(ctx)
}

func (a *App) provisionEngine(repl *caddy.Replacer) error {
	config := engineConfig{
		storage:     Storage{Driver: a.Storage.Driver, DSN: repl.ReplaceAll(a.Storage.DSN, "")},
		journalDir:  repl.ReplaceAll(a.Journal.Path, ""),
		journalSync: a.Journal.Sync,
	}
	if config.storage.DSN == "" {
		return fmt.Errorf("storage %s: the location is empty; is its environment variable set?", config.storage.Driver)
	}
	engine, err := loadEngine(config)
	if err != nil {
		return err
	}
	a.engine, a.engineConfig = engine, &config
	for _, p := range a.Providers {
		p.connect(engine.upstreams)
	}
	return nil
}

func (a *App) setDefaults() {
	data := filepath.Join(caddy.AppDataDir(), "llm_gateway")
	if a.Storage == nil {
		a.Storage = &Storage{Driver: driverSQLite, DSN: filepath.Join(data, "gateway.db")}
	}
	if a.Journal == nil {
		a.Journal = &Journal{}
	}
	if a.Journal.Path == "" {
		a.Journal.Path = filepath.Join(data, "journal")
	}
	if a.Journal.Sync == "" {
		a.Journal.Sync = journal.SyncInterval
	}
	if a.Unpriced == "" {
		a.Unpriced = unpricedRefuse
	}
	if a.ErrorFormat == "" {
		a.ErrorFormat = errorFormatGateway
	}
	if a.MaxBody == 0 {
		a.MaxBody = 32 << 20
	}
	a.Patience.inherit(defaultPatience())
	if a.LeaseAhead == 0 {
		a.LeaseAhead = caddy.Duration(billing.DefaultLeaseAhead)
	}
	if a.LeaseTTL == 0 {
		a.LeaseTTL = caddy.Duration(10 * time.Minute)
	}
	if a.WeekStart == "" {
		a.WeekStart = billing.Sunday
	}
	if a.Drain == 0 {
		a.Drain = caddy.Duration(30 * time.Second)
	}
	if a.DefaultMaxTokens == 0 {
		a.DefaultMaxTokens = 4096
	}
	if a.MaxOutputTokens == 0 {
		a.MaxOutputTokens = 131072
	}
}

// Validate checks what the configuration says.
func (a *App) Validate() error {
	switch a.Storage.Driver {
	case driverSQLite, driverPostgres:
	default:
		return fmt.Errorf("unknown storage %q: use sqlite or postgres", a.Storage.Driver)
	}
	switch a.Journal.Sync {
	case journal.SyncInterval, journal.SyncAlways, journal.SyncOff:
	default:
		return fmt.Errorf("unknown journal sync %q: use interval, always or off", a.Journal.Sync)
	}
	switch a.Unpriced {
	case unpricedRefuse, unpricedCeiling, unpricedRecord:
	default:
		return fmt.Errorf("unknown policy for unpriced models %q: use refuse, ceiling or record", a.Unpriced)
	}
	switch a.ErrorFormat {
	case errorFormatGateway, errorFormatProvider:
	default:
		return fmt.Errorf("unknown error format %q: use gateway or provider", a.ErrorFormat)
	}
	if a.Billing != nil && a.Billing.Mode != billingDevelopment && a.Billing.Mode != billingStripe {
		return fmt.Errorf("unknown billing mode %q: use development or stripe", a.Billing.Mode)
	}
	if err := a.Patience.validate(); err != nil {
		return err
	}
	if _, err := billing.ParseWeekStart(string(a.WeekStart)); err != nil {
		return err
	}
	if a.LeaseTTL > 0 && a.LeaseTTL < caddy.Duration(minLeaseTTL) {
		return fmt.Errorf("lease_ttl must be at least %s, five heartbeats", minLeaseTTL)
	}
	if a.Retention != 0 && a.Retention < caddy.Duration(billing.MinRetention) {
		return fmt.Errorf("retention must be at least %.0f days", billing.MinRetention.Hours()/24)
	}
	if a.MaxBody < 0 || a.Drain < 0 || a.LeaseAhead < 0 {
		return errors.New("max_body, drain and lease_ahead must not be negative")
	}
	// A request may ask for many answers of this length.
	if most := int64(1_000_000_000); min(a.DefaultMaxTokens, a.MaxOutputTokens) < 0 || max(a.DefaultMaxTokens, a.MaxOutputTokens) > most {
		return fmt.Errorf("default_max_tokens and max_output_tokens must be from 1 to %d", most)
	}
	return nil
}

// Start opens the books.
func (a *App) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a.engine.apply(a)
	if err := a.engine.open(ctx); err != nil {
		return err
	}
	a.replaced = running.Swap(a)
	return nil
}

// Stop leaves the books open: requests of this configuration may still be
// running. Cleanup lets go of them.
func (a *App) Stop() error {
	// Only an app whose configuration fails to load is still the running one.
	if running.CompareAndSwap(a, a.replaced) && a.replaced != nil {
		a.replaced.engine.apply(a.replaced)
	}
	a.replaced = nil
	return nil
}

// Cleanup lets go of what Provision took.
func (a *App) Cleanup() error {
	if a.engineConfig == nil {
		return nil
	}
	_, err := engines.Delete(*a.engineConfig)
	return err
}

const minLeaseTTL = 5 * billing.HeartbeatEvery

// The policies for requests without a price.
const (
	unpricedRefuse  = "refuse"
	unpricedCeiling = "ceiling"
	unpricedRecord  = "record"
)

// The choices of the error format.
const (
	errorFormatGateway  = "gateway"
	errorFormatProvider = "provider"
)

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
