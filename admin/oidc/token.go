package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// maxToken is the size of the largest token that is looked at, in bytes.
	maxToken = 16 << 10
	// maxName is how many bytes of a person's name, or of an e-mail address, are
	// taken.
	maxName = 320
	// maxSubject is how long OpenID Connect lets a subject be.
	maxSubject = 255
)

// IsToken tells whether a credential has the form of a token: three parts.
func IsToken(credential string) bool { return strings.Count(credential, ".") == 2 }

// Identify returns who the bearer of a token is, and until when it is accepted.
// An error is a Refusal, or ErrAway.
func (p *Provider) Identify(ctx context.Context, raw string) (who billing.Identity, until time.Time, err error) {
	token, c, err := p.verify(ctx, raw)
	if err != nil {
		return billing.Identity{}, time.Time{}, err
	}
	if !slices.ContainsFunc(p.config.Audiences, func(a string) bool { return slices.Contains(token.Audience, a) }) {
		return billing.Identity{}, time.Time{}, refuse("the token is for another audience than this gateway")
	}
	who, err = p.identity(token.Subject, c)
	return who, p.end(c), err
}

// verify checks all of a token but its audience.
func (p *Provider) verify(ctx context.Context, raw string) (*gooidc.IDToken, claims, error) {
	if err := p.inspect(raw); err != nil {
		return nil, nil, err
	}
	s := &signature{provider: p}
	supported := make([]string, len(algorithms))
	for i, a := range algorithms {
		supported[i] = string(a)
	}
	verifier := gooidc.NewVerifier(p.config.Issuer, s, &gooidc.Config{
		SupportedSigningAlgs: supported,
		SkipClientIDCheck:    true, // there may be several audiences
		SkipExpiryCheck:      true, // it knows no clock skew: see checkTimes
	})
	token, err := verifier.Verify(ctx, raw)
	if s.err != nil {
		return nil, nil, s.err
	}
	if err != nil {
		return nil, nil, refuse("the token is malformed, or of another issuer")
	}
	var c claims
	if err := token.Claims(&c); err != nil {
		return nil, nil, refuse("the token is malformed")
	}
	return token, c, p.checkTimes(c)
}

// inspect refuses what is not worth a look at its signature, and knows better
// than that look what is wrong. Nothing that it reads is believed.
func (p *Provider) inspect(raw string) error {
	if len(raw) > maxToken {
		return refuse("the token is larger than 16 KiB")
	}
	head, rest, _ := strings.Cut(raw, ".")
	body, sign, _ := strings.Cut(rest, ".")
	header, headerErr := decodePart(head)
	payload, err := decodePart(body)
	switch err := errors.Join(headerErr, err); {
	case errors.Is(err, errUnclear):
		return refuse("the token is malformed: " + errUnclear.Error())
	case err != nil || strings.Contains(sign, "."):
		return refuse("the token is not a signed JWT")
	}
	algorithm := header.text("alg")
	switch {
	case sign == "" || strings.EqualFold(algorithm, "none"):
		return refuse("the token is not signed")
	case !slices.Contains(algorithms, jose.SignatureAlgorithm(algorithm)):
		return refuse("the token is signed with an algorithm that is not accepted: RS256, PS256, ES256 and EdDSA are")
	case !isTokenType(header.text("typ")) || payload["events"] != nil:
		return refuse("the token is neither an ID token nor an access token")
	case payload.text("iss") != p.config.Issuer:
		return refuse("the token is of another issuer than the one configured")
	}
	return nil
}

func decodePart(part string) (c claims, err error) {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil, fmt.Errorf("decode a part of a token: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("read a part of a token: %w", err)
	}
	return c, nil
}

// isTokenType tells tokens from what else a provider signs, such as the notice
// that somebody has logged out. That one may come without a type of its own, but
// has a claim of what happened, events.
func isTokenType(typ string) bool {
	switch strings.ToLower(typ) {
	case "", "jwt", "at+jwt", "application/at+jwt":
		return true
	}
	return false
}

func (p *Provider) checkTimes(c claims) error {
	now, skew := float64(p.now().UnixMicro())/1e6, p.config.ClockSkew.Seconds()
	expires, ok := c.seconds("exp")
	if !ok {
		return refuse("the token does not say when it expires")
	}
	if now >= expires+skew {
		return ErrExpired
	}
	for _, name := range []string{"nbf", "iat"} {
		switch from, ok := c.seconds(name); {
		case !ok && c[name] != nil:
			return refuse("the token is malformed")
		case from > now+skew:
			return refuse("the token is not valid yet: are the clocks right?")
		}
	}
	return nil
}

// lastSecond is the last of the year 9999, in which tokens end that claim to
// last longer.
var lastSecond = float64(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix())

// end is when a token that has not expired does.
func (p *Provider) end(c claims) time.Time {
	expires, _ := c.seconds("exp")
	return time.UnixMicro(int64(math.Min(expires, lastSecond) * 1e6)).Add(p.config.ClockSkew)
}

func (p *Provider) identity(subject string, c claims) (billing.Identity, error) {
	if subject == "" || len(subject) > maxSubject || !billing.IsPlainText(subject) {
		return billing.Identity{}, refuse("the token names no subject")
	}
	who := billing.Identity{Issuer: p.config.Issuer, Subject: subject}
	if name := strings.TrimSpace(c.text("name")); len(name) <= maxName && billing.IsPlainText(name) {
		who.Name = name
	}
	// No more is alike than ASCII letters and spaces around them: what Unicode
	// takes for the same letter, or for a space, may be in another's address.
	email := billing.NormalizeEmail(strings.Trim(c.text(p.config.EmailClaim), " "))
	if len(email) <= maxName && billing.IsPlainText(email) && strings.Contains(email, "@") && p.verifies(c) {
		who.Email = email
	}
	return who, nil
}

// verifies tells whether the e-mail address counts. What the provider has
// verified is the claim email, and no other.
func (p *Provider) verifies(c claims) bool {
	return p.config.AllowUnverifiedEmail || p.config.EmailClaim == "email" && c.isTrue("email_verified")
}
