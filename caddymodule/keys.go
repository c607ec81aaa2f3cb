package caddymodule

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// keyStore is where keys come from, with the settings of their organizations.
type keyStore interface {
	billing.Keys
	billing.Organizations
	billing.Projects
}

// keyCache keeps proxy keys in memory in the form in which requests are
// checked against them.
type keyCache struct {
	store   keyStore
	version int64

	mu   sync.RWMutex
	keys map[billing.KeyHash]*proxyKey
	// generation counts invalidations, so that a key which was read before
	// one is not cached after it.
	generation uint64
}

// proxyKey is a key with its conditions ready to be checked.
type proxyKey struct {
	billing.Key
	organization billing.Organization
	project      billing.Project // without settings if there are none
	ips          []netip.Prefix
}

func newKeyCache(store keyStore) *keyCache {
	return &keyCache{store: store, version: -1, keys: make(map[billing.KeyHash]*proxyKey)}
}

// find returns the key with this secret, or billing.ErrNotFound.
func (c *keyCache) find(ctx context.Context, secret string) (*proxyKey, error) {
	hash := billing.HashSecret(secret)
	c.mu.RLock()
	key, generation := c.keys[hash], c.generation
	c.mu.RUnlock()
	if key != nil {
		return key, nil
	}
	// A client would rather wait a moment than fail while a database restarts.
	key, err := backoff.Retry(ctx, func() (*proxyKey, error) { return c.read(ctx, hash) },
		backoff.WithMaxElapsedTime(billing.DefaultPatience))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.generation == generation {
		c.keys[hash] = key
	}
	c.mu.Unlock()
	return key, nil
}

// read returns a key from the store.
func (c *keyCache) read(ctx context.Context, hash billing.KeyHash) (*proxyKey, error) {
	key, err := c.store.KeyByHash(ctx, hash)
	if errors.Is(err, billing.ErrNotFound) {
		return nil, backoff.Permanent(err)
	}
	if err != nil {
		return nil, err
	}
	org, err := c.store.Organization(ctx, key.OrganizationID)
	if err != nil {
		return nil, err
	}
	found := newProxyKey(key, org)
	if key.Project != "" {
		found.project, err = c.store.Project(ctx, org.ID, key.Project)
		if err != nil && !errors.Is(err, billing.ErrNotFound) {
			return nil, err
		}
	}
	return found, nil
}

// forget makes the next request read the key anew.
func (c *keyCache) forget(hash billing.KeyHash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, hash)
	c.generation++
}

// forgetOrganization makes the next request read the organization anew.
func (c *keyCache) forgetOrganization(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.keys, func(_ billing.KeyHash, k *proxyKey) bool { return k.OrganizationID == id })
	c.generation++
}

// refresh forgets all keys if any, or the settings of any organization, has
// changed since the last call.
func (c *keyCache) refresh(ctx context.Context) (changed bool, err error) {
	version, err := c.store.KeysVersion(ctx)
	if err != nil || version == c.version {
		return false, err
	}
	c.version = version
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.keys)
	c.generation++
	return true, nil
}

func newProxyKey(k billing.Key, org billing.Organization) *proxyKey {
	if org.BudgetPeriod == "" {
		org.BudgetPeriod = billing.Never
	}
	key := &proxyKey{Key: k, organization: org}
	for _, text := range k.AllowedIPs {
		if prefix, err := parsePrefix(text); err == nil {
			key.ips = append(key.ips, prefix)
		}
	}
	return key
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// allowsIP tells whether a client may use the key. A list of which nothing
// can be read allows nobody.
func (k *proxyKey) allowsIP(client string) bool {
	if len(k.AllowedIPs) == 0 {
		return true
	}
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(k.ips, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (k *proxyKey) allowsProvider(name string) bool {
	return len(k.AllowedProviders) == 0 || slices.Contains(k.AllowedProviders, name)
}

func (k *proxyKey) allowsModel(model string) bool {
	return len(k.AllowedModels) == 0 ||
		slices.ContainsFunc(k.AllowedModels, func(glob string) bool { return matchGlob(glob, model) })
}

// matchGlob matches a whole text; * stands for any characters, also none. It
// takes time in proportion to len(glob) * len(text) at worst.
func matchGlob(glob, text string) bool {
	star, resume := -1, 0
	g, t := 0, 0
	for t < len(text) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, resume = g, t
			g++
		case g < len(glob) && glob[g] == text[t]:
			g++
			t++
		case star >= 0:
			resume++
			g, t = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}
