// Package oidc asks an OpenID Connect provider who somebody is: by a token that
// they bring, or by sending their browser there.
package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"
)

// Config says which provider, and what to accept of it.
type Config struct {
	// Issuer is the provider's URL, exactly as its tokens have it.
	Issuer string
	// ClientID and ClientSecret are the gateway's at the provider. Without an id
	// there is no browser login; a client without a secret is a public one.
	ClientID, ClientSecret string
	// Audiences are those whose tokens are accepted as bearer tokens.
	Audiences []string
	Scopes    []string
	// EmailClaim is the claim that holds the e-mail address. It counts if the
	// provider says that it has verified it, or with AllowUnverifiedEmail.
	EmailClaim           string
	AllowUnverifiedEmail bool
	// LogoutRedirectURL is where the provider sends the browser after a logout.
	LogoutRedirectURL string
	// ClockSkew is how far the provider's clock and this one may differ.
	ClockSkew time.Duration
}

// Provider is an OpenID Connect provider. It is asked for nothing before it is
// needed, and what it says of itself is kept.
type Provider struct {
	config    Config
	client    *http.Client
	now       func() time.Time
	discovery cached[discovery]
	keys      cached[keySet]
	// unknownKeys bounds how often tokens with keys that nobody knows make the
	// gateway ask for the provider's keys.
	unknownKeys *rate.Limiter
}

// ErrAway says that the provider does not answer, or not as it should. Nobody is
// let in on its word until it does.
var ErrAway = errors.New("the identity provider does not answer")

// Refusal says why a token or a login is not accepted, for its bearer to read.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

func refuse(reason string) error { return &Refusal{Reason: reason} }

// ErrExpired is the Refusal of a token whose time is over.
var ErrExpired = refuse("the token has expired: sign in again")

const (
	// fetchTimeout bounds how long the provider is waited for.
	fetchTimeout = 10 * time.Second
	// maxDocument is how much of an answer of the provider's is read, in bytes.
	maxDocument = 1 << 20
)

// New returns a provider. It connects to nothing.
func New(c Config) *Provider {
	p := &Provider{
		config:      c,
		client:      &http.Client{Timeout: fetchTimeout, Transport: bounded{http.DefaultTransport}},
		now:         time.Now,
		unknownKeys: rate.NewLimiter(rate.Every(10*time.Second), 5),
	}
	p.discovery.fetch, p.keys.fetch = p.discover, p.fetchKeys
	return p
}

// discovery is what the provider says of itself.
type discovery struct {
	provider *gooidc.Provider

	KeysURL       string   `json:"jwks_uri"`
	EndSessionURL string   `json:"end_session_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
}

func (p *Provider) discover(ctx context.Context) (discovery, error) {
	provider, err := gooidc.NewProvider(p.clientContext(ctx), p.config.Issuer)
	if err != nil {
		return discovery{}, fmt.Errorf("discover the identity provider: %w", err)
	}
	d := discovery{provider: provider}
	if err := provider.Claims(&d); err != nil {
		return discovery{}, fmt.Errorf("read the identity provider's configuration: %w", err)
	}
	if d.KeysURL == "" {
		return discovery{}, errors.New("the identity provider's configuration has no jwks_uri")
	}
	return d, nil
}

// clientContext makes both libraries use the provider's client.
func (p *Provider) clientContext(ctx context.Context) context.Context {
	return gooidc.ClientContext(ctx, p.client)
}

// LogoutURL is where a browser ends its session at the provider, "" if there is
// no such place.
func (p *Provider) LogoutURL(ctx context.Context) (string, error) {
	d, err := p.discovery.get(ctx, p.now())
	if err != nil || d.EndSessionURL == "" {
		return "", err
	}
	u, err := url.Parse(d.EndSessionURL)
	if err != nil {
		return "", fmt.Errorf("%w as it should: its end_session_endpoint: %w", ErrAway, err)
	}
	q := u.Query()
	q.Set("client_id", p.config.ClientID)
	if p.config.LogoutRedirectURL != "" {
		q.Set("post_logout_redirect_uri", p.config.LogoutRedirectURL)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (p *Provider) oauth(d discovery, redirectURL string) *oauth2.Config {
	endpoint := d.provider.Endpoint()
	// Trying out which one the provider takes would cost the code, which works
	// once.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.config.ClientSecret == "" || !takesBasic(d.AuthMethods) {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID:     p.config.ClientID,
		ClientSecret: p.config.ClientSecret,
		Endpoint:     endpoint,
		RedirectURL:  redirectURL,
		Scopes:       p.config.Scopes,
	}
}

// takesBasic tells whether a client may authenticate by HTTP Basic, as it may
// where the provider does not say.
func takesBasic(methods []string) bool {
	return len(methods) == 0 || slices.Contains(methods, "client_secret_basic")
}

// claims are the parts of a token, or of what the provider's userinfo endpoint
// tells, that say who somebody is.
type claims map[string]json.RawMessage

func (c claims) text(name string) string {
	var s string
	if json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// isTrue also takes the text "true", which some providers send.
func (c claims) isTrue(name string) bool {
	var b bool
	return json.Unmarshal(c[name], &b) == nil && b || c.text(name) == "true"
}

var errUnclear = errors.New("a claim is there twice, or in other letters")

// UnmarshalJSON refuses claims that do not mean the same to whoever reads them.
// Of two of one name some take the first, and others the last.
func (c *claims) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(errors.New("the claims are not an object"), err)
	}
	*c = make(claims)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return fmt.Errorf("read the name of a claim: %w", err)
		}
		name, _ := token.(string) // a decoder takes no other for a name
		if _, twice := (*c)[name]; twice || isLikeStandard(name) {
			return errUnclear
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("read the claim %s: %w", name, err)
		}
		(*c)[name] = value
	}
	return nil
}

// standard are the claims that the library reads, which takes others for them
// that differ in the case of letters.
var standard = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "at_hash", "email", "email_verified", "profile"}

// isLikeStandard tells whether a name may be taken for a standard one: where
// users may choose claims of their own, SUB must not be taken for sub.
func isLikeStandard(name string) bool {
	return slices.ContainsFunc(standard, func(s string) bool { return s != name && strings.EqualFold(s, name) })
}

// seconds is a time since 1970; ok is false if there is none.
func (c claims) seconds(name string) (at float64, ok bool) {
	err := json.Unmarshal(c[name], &at)
	return at, err == nil && c[name] != nil
}
