package caddymodule

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// keyReaders is how many statements read keys at a time: a second one for
	// when the connection of the first hangs.
	keyReaders = 2
	// keyBatch is how many secrets one of them looks up at most.
	keyBatch = 128
)

// keyReads gathers secrets that are not in memory, and looks up together what
// has gathered while others were read. So neither many requests with one key,
// nor many with secrets that somebody made up, are many statements.
type keyReads struct {
	// wanted is 1 deep: something waits.
	wanted chan struct{}

	mu      sync.Mutex
	waiting map[billing.KeyHash]*keyRead
}

// keyRead is one secret that is looked up, for all requests that have come with
// it before that began.
type keyRead struct {
	done chan struct{} // closed when the rest is set
	key  *proxyKey
	err  error
}

func newKeyReads() *keyReads {
	return &keyReads{wanted: make(chan struct{}, 1), waiting: make(map[billing.KeyHash]*keyRead)}
}

// join returns a read of the secret that has not begun: it will see what has
// changed up to now.
func (r *keyReads) join(hash billing.KeyHash) *keyRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	read := r.waiting[hash]
	if read == nil {
		read = &keyRead{done: make(chan struct{})}
		r.waiting[hash] = read
		r.wake()
	}
	return read
}

// take returns what waits, up to a batch of it, which is about to begin.
func (r *keyReads) take() map[billing.KeyHash]*keyRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) <= keyBatch {
		taken := r.waiting
		r.waiting = make(map[billing.KeyHash]*keyRead)
		return taken
	}
	taken := make(map[billing.KeyHash]*keyRead, keyBatch)
	for hash, read := range r.waiting {
		if len(taken) == keyBatch {
			break
		}
		taken[hash] = read
		delete(r.waiting, hash)
	}
	r.wake()
	return taken
}

func (r *keyReads) wake() {
	select {
	case r.wanted <- struct{}{}:
	default:
	}
}

// lookUp reads a key that is not in memory.
func (c *keyCache) lookUp(ctx context.Context, hash billing.KeyHash) (*proxyKey, error) {
	// A client would rather wait a moment than fail while a database restarts.
	return backoff.Retry(ctx, func() (*proxyKey, error) {
		read := c.reads.join(hash)
		select {
		case <-read.done:
		case <-ctx.Done():
			return nil, backoff.Permanent(ctx.Err())
		}
		if errors.Is(read.err, billing.ErrNotFound) {
			return nil, backoff.Permanent(read.err)
		}
		return read.key, read.err
	}, backoff.WithMaxElapsedTime(billing.DefaultPatience))
}

// serve reads what requests wait for, until ctx ends.
func (c *keyCache) serve(ctx context.Context) {
	var readers sync.WaitGroup
	for range keyReaders {
		readers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-c.reads.wanted:
				}
				c.readBatch(ctx, c.reads.take())
			}
		})
	}
	readers.Wait()
}

// readBatch answers reads, and caches the keys that nothing is known to have
// happened to meanwhile.
func (c *keyCache) readBatch(ctx context.Context, batch map[billing.KeyHash]*keyRead) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	changes := c.watchChanges()
	defer c.unwatchChanges(changes)

	hashes := make([]billing.KeyHash, 0, len(batch))
	for hash := range batch {
		hashes = append(hashes, hash)
	}
	found, err := c.store.KeysByHash(ctx, hashes)
	settings := keySettings{store: c.store, orgs: make(map[string]billing.Organization), projects: make(map[billing.KeyRef]billing.Project)}
	for hash, read := range batch {
		k, ok := found[hash]
		switch {
		case err != nil:
			read.err = err
		case !ok:
			read.err = billing.ErrNotFound
		default:
			read.key, read.err = settings.of(ctx, k)
		}
		if read.err == nil {
			c.keep(hash, read.key, changes)
		}
		close(read.done)
	}
}

// keySettings reads the organizations and projects of keys, each once.
type keySettings struct {
	store    keyStore
	orgs     map[string]billing.Organization
	projects map[billing.KeyRef]billing.Project // by their names
}

func (s keySettings) of(ctx context.Context, k billing.Key) (*proxyKey, error) {
	var err error
	org, ok := s.orgs[k.OrganizationID]
	if !ok {
		if org, err = s.store.Organization(ctx, k.OrganizationID); err != nil {
			return nil, err
		}
		s.orgs[k.OrganizationID] = org
	}
	key := newProxyKey(k, org)
	if k.Project == "" {
		return key, nil
	}
	name := billing.KeyRef{OrganizationID: org.ID, ID: k.Project}
	project, ok := s.projects[name]
	if !ok {
		if project, err = s.store.Project(ctx, org.ID, k.Project); err != nil && !errors.Is(err, billing.ErrNotFound) {
			return nil, err
		}
		s.projects[name] = project
	}
	key.project = project
	return key, nil
}

// keyChanges are what has changed while keys are read.
type keyChanges struct {
	all     bool
	changes []billing.Changes
}

func (c *keyChanges) include(k *proxyKey) bool {
	return c.all || slices.ContainsFunc(c.changes, func(changed billing.Changes) bool {
		return slices.Contains(changed.Organizations, k.OrganizationID) ||
			slices.ContainsFunc(changed.Keys, func(ref billing.KeyRef) bool { return ref.ID == k.ID })
	})
}

func (c *keyCache) watchChanges() *keyChanges {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := new(keyChanges)
	c.watching[changes] = true
	return changes
}

func (c *keyCache) unwatchChanges(changes *keyChanges) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watching, changes)
}

// keep caches a key that has been read, unless it has changed since.
func (c *keyCache) keep(hash billing.KeyHash, key *proxyKey, changes *keyChanges) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes.include(key) {
		return
	}
	if c.keys[hash] == nil {
		c.hashes[key.ID] = append(c.hashes[key.ID], hash)
	}
	c.keys[hash] = key
}
