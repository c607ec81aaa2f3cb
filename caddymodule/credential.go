package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-llm-gateway/gateway/internal/upstream"
)

// Credential is one of several that requests to a provider are sent with.
type Credential struct {
	// Label names the credential in audit rows, metrics and logs: lower-case
	// letters, digits, - and _.
	Label string `json:"label"`
	// APIKey is the secret, or a placeholder for it as in the provider's
	// api_key. A credential without one is left out.
	APIKey string `json:"api_key"`
	// Weight is its share of the requests, relative to the other credentials',
	// from 1 to 1000. Default: 1.
	Weight int `json:"weight,omitempty"`
}

const (
	// defaultCredential is the label of a provider's api_key.
	defaultCredential = "default"
	maxWeight         = 1000
)

// resolveCredentials returns what requests can be sent with.
func (p *Provider) resolveCredentials(repl *caddy.Replacer) ([]upstream.Credential, error) {
	configured := slices.Clone(p.Credentials)
	if p.APIKey != "" {
		configured = slices.Insert(configured, 0, &Credential{Label: defaultCredential, APIKey: p.APIKey})
	}
	var list []upstream.Credential
	for i, c := range configured {
		if slices.ContainsFunc(configured[:i], func(other *Credential) bool { return other.Label == c.Label }) {
			return nil, fmt.Errorf("credential %q is configured twice", c.Label)
		}
		if err := c.validate(); err != nil {
			return nil, err
		}
		secret := strings.TrimSpace(repl.ReplaceAll(c.APIKey, ""))
		switch {
		case strings.ContainsAny(secret, "\r\n"):
			return nil, fmt.Errorf("the api key of credential %q contains a line break", c.Label)
		case secret == "" && len(configured) > 1:
			p.log.Warn("credential is empty and left out", zap.String("provider", p.name), zap.String("credential", c.Label))
		case secret != "":
			list = append(list, upstream.Credential{Label: c.Label, Secret: secret, Weight: max(1, c.Weight)})
		}
	}
	return list, nil
}

func (c *Credential) validate() error {
	if !isName(c.Label) {
		return errors.New("a credential's label has lower-case letters, digits, - and _ only")
	}
	if c.Weight < 0 || c.Weight > maxWeight {
		return fmt.Errorf("the weight of credential %q must be from 1 to %d", c.Label, maxWeight)
	}
	return nil
}

func (p *Provider) parseCredential(d *caddyfile.Dispenser) error {
	c := new(Credential)
	if !d.Args(&c.Label, &c.APIKey) {
		return d.Err("want: credential <label> <api key> [<weight>]")
	}
	if d.NextArg() {
		weight, err := strconv.Atoi(d.Val())
		if err != nil || weight < 1 || weight > maxWeight {
			return d.Errf("weight %q: want a number from 1 to %d", d.Val(), maxWeight)
		}
		c.Weight = weight
	}
	if err := noMore(d); err != nil {
		return err
	}
	if err := c.validate(); err != nil {
		return d.WrapErr(err)
	}
	taken := c.Label == defaultCredential && p.APIKey != ""
	if taken || slices.ContainsFunc(p.Credentials, func(other *Credential) bool { return other.Label == c.Label }) {
		return d.Errf("credential %q is configured twice", c.Label)
	}
	p.Credentials = append(p.Credentials, c)
	return nil
}
