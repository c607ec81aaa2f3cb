package caddymodule

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/internal/glob"
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
	store keyStore
	// version is the newest change that was looked at; refresh alone uses it.
	version int64
	// woken is 1 deep: something has changed, or may have.
	woken chan struct{}
	reads *keyReads

	mu   sync.RWMutex
	keys map[billing.KeyHash]*proxyKey
	// hashes are those of the secrets in keys, by the key's id.
	hashes map[string][]billing.KeyHash
	// watching learn of what is forgotten while they read.
	watching map[*keyChanges]bool
}

// proxyKey is a key with its conditions ready to be checked.
type proxyKey struct {
	billing.Key
	organization billing.Organization
	project      billing.Project // without settings if there are none
	ips          []netip.Prefix
}

// newKeyCache returns an empty cache, which follows what changes from now on.
func newKeyCache(ctx context.Context, store keyStore) (*keyCache, error) {
	newest, err := store.Changes(ctx, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	return &keyCache{
		store: store, version: newest.Version, woken: make(chan struct{}, 1), reads: newKeyReads(),
		keys: make(map[billing.KeyHash]*proxyKey), hashes: make(map[string][]billing.KeyHash),
		watching: make(map[*keyChanges]bool),
	}, nil
}

// find returns the key with this secret at the given time, or
// billing.ErrNotFound.
func (c *keyCache) find(ctx context.Context, secret string, now time.Time) (*proxyKey, error) {
	hash := billing.HashSecret(secret)
	c.mu.RLock()
	key := c.keys[hash]
	c.mu.RUnlock()
	if key == nil {
		var err error
		if key, err = c.lookUp(ctx, hash); err != nil {
			return nil, err
		}
	}
	if key.SecretEnded(now) {
		return nil, billing.ErrNotFound
	}
	return key, nil
}

// forget makes the next requests read these keys and organizations anew.
func (c *keyCache) forget(changed billing.Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for reading := range c.watching {
		reading.changes = append(reading.changes, changed)
	}
	for _, ref := range changed.Keys {
		c.drop(ref.ID)
	}
	if len(changed.Organizations) == 0 {
		return
	}
	orgs := make(map[string]bool, len(changed.Organizations))
	for _, org := range changed.Organizations {
		orgs[org] = true
	}
	for _, k := range c.keys {
		if orgs[k.OrganizationID] {
			c.drop(k.ID)
		}
	}
}

// drop drops a key under all of its secrets. The caller holds mu.
func (c *keyCache) drop(id string) {
	for _, hash := range c.hashes[id] {
		delete(c.keys, hash)
	}
	delete(c.hashes, id)
}

// forgetAll makes the next requests read everything anew.
func (c *keyCache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for reading := range c.watching {
		reading.all = true
	}
	clear(c.keys)
	clear(c.hashes)
}

// wake says that something may have changed. It does not block.
func (c *keyCache) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// refresh forgets what has changed since the last call and returns it. Where
// the versions do not say what has changed, all may have: in a database that was
// restored from a backup, or whose version was advanced by hand.
func (c *keyCache) refresh(ctx context.Context) (changed billing.Changes, all bool, err error) {
	changed, err = c.store.Changes(ctx, c.version)
	if err != nil || changed.Version == c.version {
		return billing.Changes{}, false, err
	}
	all = changed.Version < c.version || len(changed.Keys)+len(changed.Organizations) == 0
	c.version = changed.Version
	if all {
		c.forgetAll()
	} else {
		c.forget(changed)
	}
	return changed, all, nil
}

func newProxyKey(k billing.Key, org billing.Organization) *proxyKey {
	if org.BudgetPeriod == "" {
		org.BudgetPeriod = billing.Never
	}
	key := &proxyKey{Key: k, organization: org}
	for _, text := range k.AllowedIPs {
		if prefix, err := billing.ParseAddresses(text); err == nil {
			key.ips = append(key.ips, prefix)
		}
	}
	return key
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

// allowsModel tells whether the key may use a model that goes by these names.
func (k *proxyKey) allowsModel(names ...string) bool {
	return len(k.AllowedModels) == 0 || slices.ContainsFunc(k.AllowedModels, func(pattern string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return glob.Match(pattern, name) })
	})
}
