package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// OIDC lets people in who sign in with an OpenID Connect provider, as the
// members of organizations that they are.
type OIDC struct {
	// Issuer is the provider's URL, exactly as its tokens have it in `iss`. It
	// must be https, but on this machine. Its configuration and keys are fetched
	// when they are first needed.
	Issuer string `json:"issuer"`

	// ClientID is what the gateway is registered as at the provider. Empty: there
	// is no login in a browser, and only bearer tokens are accepted.
	ClientID string `json:"client_id,omitempty"`

	// ClientSecret is usually a placeholder such as {env.OIDC_CLIENT_SECRET}.
	// Empty: the gateway is a public client.
	ClientSecret string `json:"client_secret,omitempty"`

	// Audience lists those of which one must be in `aud` of a bearer token.
	// Default: the client_id.
	Audience []string `json:"audience,omitempty"`

	// Scopes are asked for at a login. Default: openid, email and profile.
	Scopes []string `json:"scopes,omitempty"`

	// EmailClaim is the claim with the e-mail address that invitations are
	// accepted by. Only `email` has a claim that says whether it is verified.
	// Default: email.
	EmailClaim string `json:"email_claim,omitempty"`

	// RedirectURL is where the provider sends the browser back to:
	// https://<gateway>/v1/auth/callback, as it is registered there.
	// Default: that path at the address that the login was asked of.
	RedirectURL string `json:"redirect_url,omitempty"`

	// LogoutRedirectURL is where the provider sends the browser after a logout,
	// as it is registered there. Default: where the provider likes.
	LogoutRedirectURL string `json:"logout_redirect_url,omitempty"`

	// ClockSkew is how far the provider's clock and this one may differ.
	// Default: 1m.
	ClockSkew caddy.Duration `json:"clock_skew,omitempty"`

	// AllowUnverifiedEmail accepts e-mail addresses that the provider does not
	// say it has verified. Whoever can have any address at the provider can then
	// accept any invitation. Default: false.
	AllowUnverifiedEmail bool `json:"allow_unverified_email,omitempty"`
}

// maxClockSkew is the most that clocks may differ by.
const maxClockSkew = 10 * time.Minute

// provision resolves placeholders. It does not connect to the provider.
func (o *OIDC) provision(repl *caddy.Replacer) error {
	for _, text := range []*string{&o.Issuer, &o.ClientID, &o.ClientSecret, &o.RedirectURL, &o.LogoutRedirectURL} {
		*text = repl.ReplaceAll(*text, "")
	}
	o.Audience = slices.Clone(o.Audience)
	for i := range o.Audience {
		o.Audience[i] = repl.ReplaceAll(o.Audience[i], "")
	}
	if len(o.Audience) == 0 && o.ClientID != "" {
		o.Audience = []string{o.ClientID}
	}
	if len(o.Scopes) == 0 {
		o.Scopes = []string{"openid", "email", "profile"}
	}
	if o.EmailClaim == "" {
		o.EmailClaim = "email"
	}
	if o.ClockSkew == 0 {
		o.ClockSkew = caddy.Duration(time.Minute)
	}
	return o.validate()
}

func (o *OIDC) validate() error {
	if err := checkSecureURL(o.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	for name, address := range map[string]string{"redirect_url": o.RedirectURL, "logout_redirect_url": o.LogoutRedirectURL} {
		if address == "" {
			continue
		}
		if err := checkSecureURL(address); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case len(o.Audience) == 0 || slices.Contains(o.Audience, ""):
		return errors.New("client_id or audience is needed, or is empty: is its environment variable set?")
	case !slices.Contains(o.Scopes, "openid"):
		return errors.New("scopes: openid is needed")
	case o.ClockSkew < 0 || o.ClockSkew > caddy.Duration(maxClockSkew):
		return fmt.Errorf("clock_skew must be from 0 to %s", maxClockSkew)
	}
	return nil
}

// checkSecureURL refuses an address that others on the way could answer for.
func checkSecureURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q is not a URL", address)
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return fmt.Errorf("%q is not an https URL", address)
	}
	return nil
}

func (a *App) parseOIDC(d *caddyfile.Dispenser) error {
	if err := noMore(d); err != nil {
		return err
	}
	a.OIDC = new(OIDC)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		parse, ok := oidcOptions[option]
		if !ok {
			return d.Errf("unrecognized oidc option %q: there are %s", option, namesOf(oidcOptions))
		}
		if seen[option] {
			return d.Errf("oidc option %q is given twice", option)
		}
		seen[option] = true
		if err := parse(a.OIDC, d); err != nil {
			return err
		}
	}
	if !seen["issuer"] {
		return d.Err("oidc needs an issuer")
	}
	if !seen["client_id"] && !seen["audience"] {
		return d.Err("oidc needs a client_id, or an audience where bearer tokens are all that is accepted")
	}
	return nil
}

var oidcOptions = map[string]func(*OIDC, *caddyfile.Dispenser) error{
	"issuer":              func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.Issuer) },
	"client_id":           func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.ClientID) },
	"client_secret":       func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.ClientSecret) },
	"audience":            func(o *OIDC, d *caddyfile.Dispenser) error { return someArgs(d, &o.Audience) },
	"scopes":              func(o *OIDC, d *caddyfile.Dispenser) error { return someArgs(d, &o.Scopes) },
	"email_claim":         func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.EmailClaim) },
	"redirect_url":        func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.RedirectURL) },
	"logout_redirect_url": func(o *OIDC, d *caddyfile.Dispenser) error { return oneArg(d, &o.LogoutRedirectURL) },
	"clock_skew": func(o *OIDC, d *caddyfile.Dispenser) error {
		return duration(d, &o.ClockSkew, time.Second, maxClockSkew)
	},
	"allow_unverified_email": func(o *OIDC, d *caddyfile.Dispenser) error {
		o.AllowUnverifiedEmail = true
		return noMore(d)
	},
}

// someArgs reads an option's arguments, of which there is at least one.
func someArgs(d *caddyfile.Dispenser, values *[]string) error {
	if *values = d.RemainingArgs(); len(*values) == 0 {
		return d.ArgErr()
	}
	return nil
}
