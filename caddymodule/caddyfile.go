package caddymodule

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("llm_gateway", parseApp)
	httpcaddyfile.RegisterHandlerDirective("llm_gateway", parseHandler)
	httpcaddyfile.RegisterDirectiveOrder("llm_gateway", httpcaddyfile.Before, "reverse_proxy")
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	llm_gateway [<matcher>]
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	return noMore(d)
}

func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("llm_gateway is already configured")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "llm_gateway", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	llm_gateway {
//	    storage sqlite <path> | postgres <connection string>
//	    journal <directory> {
//	        sync interval|always|off
//	    }
//	    admin_token <token>
//	    oidc {
//	        issuer <url>
//	        client_id|client_secret <text>
//	        audience <audience>...
//	        scopes <scope>...
//	        email_claim <claim>
//	        redirect_url|logout_redirect_url <url>
//	        clock_skew <duration>
//	        allow_unverified_email
//	    }
//	    unpriced refuse|ceiling|record
//	    discount <percent>
//	    billing development|stripe {
//	        package <name> <price in USD> <credits in USD>
//	        secret_key|webhook_secret <secret>
//	        success_url|cancel_url|api_base <url>
//	    }
//	    provider <name> {
//	        protocol openai|anthropic|gemini
//	        base_url <url>
//	        api_key <key>
//	        credential <label> <api key> [<weight>]
//	        retries|connect_timeout|first_byte_timeout|idle_timeout|total_timeout <as below>
//	        free_route <pattern>...
//	        transport <module> { ... }
//	    }
//	    price <provider> <model> {
//	        input <USD per million tokens>
//	        output <USD per million tokens>
//	        cache_read|cache_write|cache_write_long <USD per million tokens>
//	        input_audio|input_image|cache_read_audio|output_audio|output_image <USD per million tokens>
//	        web_search_per_1k <USD>
//	    }
//	    route <name> {
//	        <provider>/<model>
//	    }
//	    retries <number>
//	    connect_timeout|first_byte_timeout|idle_timeout|total_timeout <duration>
//	    error_format gateway|provider
//	    max_body <size>
//	    low_balance <USD>
//	    retention <duration>|off
//	    drain <duration>
//	    lease_ahead <duration>
//	    lease_ttl <duration>|off
//	    default_max_tokens <number>
//	    max_output_tokens <number>
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume option name
	if err := noMore(d); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		parse, ok := appOptions[option]
		if !ok {
			return d.Errf("unrecognized llm_gateway option %q: there are %s", option, namesOf(appOptions))
		}
		if seen[option] && !repeatable[option] {
			return d.Errf("llm_gateway option %q is given twice", option)
		}
		seen[option] = true
		if err := parse(a, d); err != nil {
			return err
		}
	}
	return a.checkRouteTargets()
}

var appOptions = map[string]func(*App, *caddyfile.Dispenser) error{
	"storage":            (*App).parseStorage,
	"journal":            (*App).parseJournal,
	"admin_token":        func(a *App, d *caddyfile.Dispenser) error { return oneArg(d, &a.AdminToken) },
	"oidc":               (*App).parseOIDC,
	"unpriced":           (*App).parseUnpriced,
	"discount":           (*App).parseDiscount,
	"billing":            (*App).parseBilling,
	"provider":           (*App).parseProvider,
	"price":              (*App).parsePrice,
	"route":              (*App).parseRoute,
	"max_body":           (*App).parseMaxBody,
	"error_format":       (*App).parseErrorFormat,
	"low_balance":        (*App).parseLowBalance,
	"week_start":         (*App).parseWeekStart,
	"retries":            (*App).parsePatience,
	"connect_timeout":    (*App).parsePatience,
	"first_byte_timeout": (*App).parsePatience,
	"idle_timeout":       (*App).parsePatience,
	"total_timeout":      (*App).parsePatience,
	"drain": func(a *App, d *caddyfile.Dispenser) error {
		return duration(d, &a.Drain, time.Millisecond, time.Hour)
	},
	"lease_ahead": func(a *App, d *caddyfile.Dispenser) error {
		return duration(d, &a.LeaseAhead, time.Second, 24*time.Hour)
	},
	"retention": (*App).parseRetention,
	"lease_ttl": (*App).parseLeaseTTL,
	"default_max_tokens": func(a *App, d *caddyfile.Dispenser) error {
		return positive(d, &a.DefaultMaxTokens)
	},
	"max_output_tokens": func(a *App, d *caddyfile.Dispenser) error {
		return positive(d, &a.MaxOutputTokens)
	},
}

var repeatable = map[string]bool{"provider": true, "price": true, "route": true}

func (a *App) parseStorage(d *caddyfile.Dispenser) error {
	a.Storage = new(Storage)
	if !d.Args(&a.Storage.Driver, &a.Storage.DSN) {
		return d.Err("want: storage sqlite <path> or storage postgres <connection string>")
	}
	if a.Storage.Driver != driverSQLite && a.Storage.Driver != driverPostgres {
		return d.Errf("unknown storage %q: use sqlite or postgres", a.Storage.Driver)
	}
	return noMore(d)
}

func (a *App) parseJournal(d *caddyfile.Dispenser) error {
	a.Journal = new(Journal)
	if !d.Args(&a.Journal.Path) {
		return d.ArgErr()
	}
	if err := noMore(d); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "sync" {
			return d.Errf("unrecognized journal option %q: there is sync", d.Val())
		}
		var sync string
		if err := oneArg(d, &sync); err != nil {
			return err
		}
		switch a.Journal.Sync = journal.Sync(sync); a.Journal.Sync {
		case journal.SyncInterval, journal.SyncAlways, journal.SyncOff:
		default:
			return d.Errf("unknown journal sync %q: use interval, always or off", sync)
		}
	}
	return nil
}

func (a *App) parseUnpriced(d *caddyfile.Dispenser) error {
	if err := oneArg(d, &a.Unpriced); err != nil {
		return err
	}
	switch a.Unpriced {
	case unpricedRefuse, unpricedCeiling, unpricedRecord:
		return nil
	}
	return d.Errf("unknown policy %q: use refuse, ceiling or record", a.Unpriced)
}

func (a *App) parseDiscount(d *caddyfile.Dispenser) error {
	if err := oneArg(d, &a.Discount); err != nil {
		return err
	}
	if _, err := metering.ParseDiscount(a.Discount); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// providerOptions are the options of a provider, but for its timeouts.
const providerOptions = "protocol, base_url, api_key, credential, free_route, transport, retries"

// namesOf lists the options that are keys of a map, for errors.
func namesOf[V any](options map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(options)), ", ")
}

func (a *App) parsePatience(d *caddyfile.Dispenser) error {
	_, err := a.Patience.parseOption(d)
	return err
}

func (a *App) parseErrorFormat(d *caddyfile.Dispenser) error {
	if err := oneArg(d, &a.ErrorFormat); err != nil {
		return err
	}
	switch a.ErrorFormat {
	case errorFormatGateway, errorFormatProvider:
		return nil
	}
	return d.Errf("unknown error format %q: use gateway or provider", a.ErrorFormat)
}

func (a *App) parseWeekStart(d *caddyfile.Dispenser) error {
	var day string
	if err := oneArg(d, &day); err != nil {
		return err
	}
	var err error
	if a.WeekStart, err = billing.ParseWeekStart(day); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (a *App) parseMaxBody(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > 1<<40 {
		return d.Errf("max_body %q: want a size such as 32MiB", text)
	}
	a.MaxBody = int64(size)
	return nil
}

func (a *App) parseLowBalance(d *caddyfile.Dispenser) error {
	if err := oneArg(d, &a.LowBalance); err != nil {
		return err
	}
	if _, err := parseLowBalance(a.LowBalance); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (a *App) parseLeaseTTL(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() == 1 && d.NextArg() && d.Val() == "off" {
		a.LeaseTTL = -1
		return nil
	}
	d.Prev()
	return duration(d, &a.LeaseTTL, minLeaseTTL, 24*time.Hour)
}

func (a *App) parseRetention(d *caddyfile.Dispenser) error {
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	if text == "off" {
		a.Retention = 0
		return nil
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v < billing.MinRetention || v > mostRetention {
		return d.Errf("retention %q: want days such as 400d, from 35d to 36500d, or off", text)
	}
	a.Retention = caddy.Duration(v)
	return nil
}

// duration reads an option's only argument.
func duration(d *caddyfile.Dispenser, value *caddy.Duration, least, most time.Duration) error {
	option := d.Val()
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v < least || v > most {
		return d.Errf("%s %q: want a duration such as 30s, from %s to %s", option, text, least, most)
	}
	*value = caddy.Duration(v)
	return nil
}

func positive(d *caddyfile.Dispenser, n *int64) error {
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v <= 0 {
		return d.Errf("%q is not a number above 0", text)
	}
	*n = v
	return nil
}

// oneArg reads an option's only argument.
func oneArg(d *caddyfile.Dispenser, value *string) error {
	if !d.Args(value) {
		return d.ArgErr()
	}
	return noMore(d)
}

func noMore(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*App)(nil)
)
