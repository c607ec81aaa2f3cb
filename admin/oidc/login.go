package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// AuthURL is where to send a browser that begins a login. The state comes back
// with it to redirectURL.
func (p *Provider) AuthURL(ctx context.Context, l billing.Login, state, redirectURL string) (string, error) {
	d, err := p.discovery.get(ctx, p.now())
	if err != nil {
		return "", err
	}
	return p.oauth(d, redirectURL).AuthCodeURL(state, gooidc.Nonce(l.Nonce), oauth2.S256ChallengeOption(l.Verifier)), nil
}

// Finish returns who has logged in, for the code that has come back. An error is
// a Refusal, or ErrAway.
func (p *Provider) Finish(ctx context.Context, l billing.Login, code, redirectURL string) (billing.Identity, error) {
	d, err := p.discovery.get(ctx, p.now())
	if err != nil {
		return billing.Identity{}, err
	}
	ctx = p.clientContext(ctx)
	tokens, err := p.oauth(d, redirectURL).Exchange(ctx, code, oauth2.VerifierOption(l.Verifier))
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.ErrorCode == "invalid_grant" {
		return billing.Identity{}, refuse("the identity provider does not accept the login's code: log in again")
	}
	if err != nil {
		return billing.Identity{}, fmt.Errorf("%w: exchange the login's code: %w", ErrAway, err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return billing.Identity{}, fmt.Errorf("%w as it should: there is no ID token: does oidc have the scope openid?", ErrAway)
	}
	token, c, err := p.verify(ctx, raw)
	if err != nil {
		return billing.Identity{}, err
	}
	if err := p.checkLogin(token, c, l); err != nil {
		return billing.Identity{}, err
	}
	if c[p.config.EmailClaim] == nil && d.provider.UserInfoEndpoint() != "" {
		if err := p.ask(ctx, d, tokens, token.Subject, c); err != nil {
			return billing.Identity{}, err
		}
	}
	return p.identity(token.Subject, c)
}

// checkLogin checks that the token is for this client, and for this login.
func (p *Provider) checkLogin(token *gooidc.IDToken, c claims, l billing.Login) error {
	switch {
	case !slices.Contains(token.Audience, p.config.ClientID):
		return refuse("the token is for another audience than this gateway")
	case (len(token.Audience) > 1 || c["azp"] != nil) && c.text("azp") != p.config.ClientID:
		return refuse("the token was issued to another client than this gateway")
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(l.Nonce)) != 1:
		return refuse("the token is of another login: log in again")
	}
	return nil
}

// ask adds what the userinfo endpoint tells: many providers leave the e-mail
// address out of the token.
func (p *Provider) ask(ctx context.Context, d discovery, tokens *oauth2.Token, subject string, c claims) error {
	info, err := d.provider.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	if err != nil {
		return fmt.Errorf("%w: ask who has logged in: %w", ErrAway, err)
	}
	if info.Subject != subject {
		return refuse("the identity provider tells of another user than the one who has logged in")
	}
	var more claims
	if err := info.Claims(&more); err != nil {
		return fmt.Errorf("%w: read who has logged in: %w", ErrAway, err)
	}
	// All of it counts, so that no address is taken for verified by what the
	// token says of another.
	maps.Copy(c, more)
	return nil
}
