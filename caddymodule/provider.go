package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // the transports

	"github.com/caddy-llm-gateway/gateway/internal/glob"
	"github.com/caddy-llm-gateway/gateway/internal/upstream"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// Provider is an LLM provider that requests are forwarded to.
type Provider struct {
	// Protocol is the provider's wire format: "openai", "anthropic" or
	// "gemini". It is known for the providers of these names and required for
	// all others.
	Protocol metering.Protocol `json:"protocol,omitempty"`

	// BaseURL is what the provider's own SDK takes as its base URL: OpenAI's
	// ends in /v1, Anthropic's and Gemini's do not. Default: the provider's
	// public API, for the three known providers. Placeholders are resolved
	// when the configuration is loaded.
	BaseURL string `json:"base_url,omitempty"`

	// APIKey is the credential that requests are sent with, in the protocol's
	// own header. It is usually a placeholder such as {env.OPENAI_API_KEY} or
	// {file./run/secrets/openai}, resolved when the configuration is loaded.
	// Without one, requests for this provider are refused with
	// "provider not configured".
	APIKey string `json:"api_key,omitempty"`

	// Credentials are further ones. Requests are shared among all by weight; one
	// that the provider refuses rests for a while, and others are used. The
	// api_key is the credential "default" of weight 1.
	Credentials []*Credential `json:"credentials,omitempty"`

	// Patience is how often and how long the provider is tried. Default: what
	// the app says.
	Patience

	// TransportRaw is the transport to reach the provider with: any of
	// Caddy's reverse proxy transport modules. Default: {"protocol": "http"}
	// with enough idle connections for a busy gateway.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// FreeRoutes are path patterns, without version, of endpoints that cost
	// nothing, though the gateway does not know it: requests to them are
	// forwarded without a price. A * stands for any characters. The three
	// known providers' own free endpoints need no mention; those of others
	// do, unless they only read or delete.
	FreeRoutes []string `json:"free_routes,omitempty"`

	name        string
	log         *zap.Logger
	base        *url.URL
	transport   http.RoundTripper
	metrics     requestMetrics
	secrets     []upstream.Credential
	state       *upstream.Provider // outlives the configuration
	credentials *upstream.Pool     // nil if there are none
}

// known are the providers that need no protocol and no base URL.
var known = map[string]struct {
	protocol metering.Protocol
	baseURL  string
}{
	"openai":    {metering.OpenAI, "https://api.openai.com/v1"},
	"anthropic": {metering.Anthropic, "https://api.anthropic.com"},
	"gemini":    {metering.Gemini, "https://generativelanguage.googleapis.com"},
}

// reserved are path segments that cannot name a provider.
var reserved = map[string]bool{"v1": true, "v1beta": true, "api": true, "assets": true}

// defaultTransport keeps connections for many concurrent requests to one
// host; Go's default of a few would open and close one for each request.
func defaultTransport(connectTimeout caddy.Duration) json.RawMessage {
	const format = `{"protocol":"http","dial_timeout":%q,"keep_alive":{"max_idle_conns_per_host":1024,"idle_timeout":"90s"}}`
	return fmt.Appendf(nil, format, time.Duration(connectTimeout))
}

func (p *Provider) provision(ctx caddy.Context, name string, defaults Patience) error {
	p.name, p.log = name, ctx.Logger()
	p.metrics = newRequestMetrics(name)
	if err := checkProviderName(name); err != nil {
		return err
	}
	p.Protocol = p.protocol(name)
	switch p.Protocol {
	case metering.OpenAI, metering.Anthropic, metering.Gemini:
	case "":
		return errors.New("protocol is required: openai, anthropic or gemini")
	default:
		return fmt.Errorf("unknown protocol %q: use openai, anthropic or gemini", p.Protocol)
	}
	repl := caddy.NewReplacer()
	p.BaseURL = repl.ReplaceAll(p.BaseURL, "")
	var err error
	if p.secrets, err = p.resolveCredentials(repl); err != nil {
		return err
	}
	if p.BaseURL == "" && known[name].protocol == p.Protocol {
		p.BaseURL = known[name].baseURL
	}
	if p.base, err = parseBaseURL(p.BaseURL); err != nil {
		return err
	}
	if err := p.Patience.validate(); err != nil {
		return err
	}
	return p.provisionTransport(ctx, defaults)
}

func (p *Provider) provisionTransport(ctx caddy.Context, defaults Patience) error {
	if len(p.TransportRaw) > 0 && p.ConnectTimeout != 0 {
		return errConnectTimeout
	}
	p.inherit(defaults)
	if len(p.TransportRaw) == 0 {
		p.TransportRaw = defaultTransport(p.ConnectTimeout)
	}
	module, err := ctx.LoadModule(p, "TransportRaw")
	if err != nil {
		return fmt.Errorf("load transport: %w", err)
	}
	transport, ok := module.(http.RoundTripper)
	if !ok {
		return fmt.Errorf("transport %T does not round-trip requests", module)
	}
	p.transport = transport
	return nil
}

var errConnectTimeout = errors.New("connect_timeout is of the default transport: give your transport a dial_timeout")

// connect finds what is known about the provider from earlier configurations.
func (p *Provider) connect(registry *upstream.Registry) {
	p.state = registry.Provider(p.name, p.base.String())
	if len(p.secrets) > 0 {
		p.credentials = p.state.NewPool(p.secrets)
	}
}

func checkProviderName(name string) error {
	if name == "" || reserved[name] {
		return fmt.Errorf("%q cannot name a provider", name)
	}
	if !isName(name) {
		return errors.New("a provider's name has lower-case letters, digits, - and _ only")
	}
	return nil
}

// isName tells whether a text is fit for a name in URLs, metrics and logs.
func isName(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}

func parseBaseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("base_url is required")
	}
	base, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("base_url: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("base_url %q: want http://host or https://host", base.Redacted())
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("base_url: user, query and fragment are not allowed")
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), ""
	return base, nil
}

// protocol is the one configured, or that of the known provider of the name.
func (p *Provider) protocol(name string) metering.Protocol {
	if p.Protocol == "" {
		return known[name].protocol
	}
	return p.Protocol
}

// isOriginal tells whether the provider is the one whose API its protocol is,
// so that what is known to be free there is free here.
func (p *Provider) isOriginal() bool { return known[p.name].protocol == p.Protocol }

// configured tells whether the provider has a credential.
func (p *Provider) configured() bool { return len(p.secrets) > 0 }

// authorize sets a credential of the provider in the protocol's own header.
func (p *Provider) authorize(h http.Header, secret string) {
	switch p.Protocol {
	case metering.Anthropic:
		h.Set("X-Api-Key", secret)
	case metering.Gemini:
		h.Set("X-Goog-Api-Key", secret)
	default:
		h.Set("Authorization", "Bearer "+secret)
	}
}

// target returns the URL at the provider for the path and query that follow
// the provider's name in the gateway's URL. The escaped form of the path is
// kept byte for byte.
func (p *Provider) target(path, escaped, query string) *url.URL {
	u := *p.base
	u.Path = p.base.Path + path
	u.RawPath = p.base.EscapedPath() + escaped
	u.RawQuery = query
	return &u
}

// free tells whether the operator has declared a path to cost nothing.
func (p *Provider) free(path string) bool {
	return slices.ContainsFunc(p.FreeRoutes, func(pattern string) bool { return glob.Match(pattern, path) })
}
