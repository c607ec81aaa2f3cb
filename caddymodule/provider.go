package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // the transports

	"github.com/caddy-llm-gateway/gateway/internal/glob"
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

	name      string
	base      *url.URL
	transport http.RoundTripper
	metrics   requestMetrics
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
var defaultTransport = json.RawMessage(`{"protocol":"http","keep_alive":{"max_idle_conns_per_host":1024,"idle_timeout":"90s"}}`)

func (p *Provider) provision(ctx caddy.Context, name string) error {
	p.name = name
	p.metrics = newRequestMetrics(name)
	if err := checkProviderName(name); err != nil {
		return err
	}
	if p.Protocol == "" {
		p.Protocol = known[name].protocol
	}
	switch p.Protocol {
	case metering.OpenAI, metering.Anthropic, metering.Gemini:
	case "":
		return errors.New("protocol is required: openai, anthropic or gemini")
	default:
		return fmt.Errorf("unknown protocol %q: use openai, anthropic or gemini", p.Protocol)
	}
	repl := caddy.NewReplacer()
	p.BaseURL = repl.ReplaceAll(p.BaseURL, "")
	p.APIKey = strings.TrimSpace(repl.ReplaceAll(p.APIKey, ""))
	if strings.ContainsAny(p.APIKey, "\r\n") {
		return errors.New("api_key contains a line break")
	}
	if p.BaseURL == "" && known[name].protocol == p.Protocol {
		p.BaseURL = known[name].baseURL
	}
	base, err := parseBaseURL(p.BaseURL)
	if err != nil {
		return err
	}
	p.base = base
	if len(p.TransportRaw) == 0 {
		p.TransportRaw = defaultTransport
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

func checkProviderName(name string) error {
	if name == "" || reserved[name] {
		return fmt.Errorf("%q cannot name a provider", name)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return errors.New("a provider's name has lower-case letters, digits, - and _ only")
		}
	}
	return nil
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

// isOriginal tells whether the provider is the one whose API its protocol is,
// so that what is known to be free there is free here.
func (p *Provider) isOriginal() bool { return known[p.name].protocol == p.Protocol }

// configured tells whether the provider has a credential.
func (p *Provider) configured() bool { return p.APIKey != "" }

// authorize sets the provider's credential in the protocol's own header.
func (p *Provider) authorize(h http.Header) {
	switch p.Protocol {
	case metering.Anthropic:
		h.Set("X-Api-Key", p.APIKey)
	case metering.Gemini:
		h.Set("X-Goog-Api-Key", p.APIKey)
	default:
		h.Set("Authorization", "Bearer "+p.APIKey)
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
