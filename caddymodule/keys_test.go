package caddymodule

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
)

// watchedStore remembers which keys were read for requests.
type watchedStore struct {
	billing.Store
	mu         sync.Mutex
	read       []string
	statements int
	asked      int // secrets in them
	// reading runs before keys that were read are returned.
	reading func()
}

func (s *watchedStore) KeysByHash(ctx context.Context, hashes []billing.KeyHash) (map[billing.KeyHash]billing.Key, error) {
	found, err := s.Store.KeysByHash(ctx, hashes)
	s.mu.Lock()
	s.statements++
	s.asked += len(hashes)
	for _, k := range found {
		s.read = append(s.read, k.ID)
	}
	s.mu.Unlock()
	if s.reading != nil {
		s.reading()
	}
	return found, err
}

func (s *watchedStore) askedFor() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// waiting is how many secrets wait to be looked up.
func (c *keyCache) waiting() int {
	c.reads.mu.Lock()
	defer c.reads.mu.Unlock()
	return len(c.reads.waiting)
}

// reads returns the keys that were read since the last call, sorted.
func (s *watchedStore) reads() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	read := s.read
	s.read = nil
	slices.Sort(read)
	return read
}

// newWatchedCache returns a cache of four keys, two in each of the
// organizations a and b, whose secrets it returns too.
func newWatchedCache(t *testing.T) (*keyCache, *watchedStore, map[string]string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	secrets := make(map[string]string)
	for _, org := range []string{"a", "b"} {
		if err := store.EnsureOrganization(t.Context(), billing.Organization{ID: org, CreatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{org + "1", org + "2"} {
			secret := billing.NewSecret()
			k := billing.Key{ID: id, OrganizationID: org, Hash: billing.HashSecret(secret), CreatedAt: time.Now()}
			if err := store.CreateKey(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			secrets[id] = secret
		}
	}
	watched := &watchedStore{Store: store}
	cache, err := newKeyCache(t.Context(), watched)
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { cache.serve(serving) })
	t.Cleanup(func() {
		stop()
		served.Wait()
	})
	return cache, watched, secrets
}

func TestKeyCacheForgetsWhatHasChanged(t *testing.T) {
	t.Parallel()
	cache, store, secrets := newWatchedCache(t)
	ctx := t.Context()
	rename := func(org, id string) error {
		_, err := store.UpdateKey(ctx, org, id, func(k *billing.Key) error {
			k.Name += "'"
			return nil
		})
		return err
	}
	advance := func(by int64) func() error { // as if the versions were another database's
		return func() error {
			cache.version -= by
			return nil
		}
	}
	for _, step := range []struct {
		name   string
		change func() error
		want   []string
	}{
		{"at first", func() error { return nil }, []string{"a1", "a2", "b1", "b2"}},
		{"nothing has changed", func() error { return nil }, nil},
		{"one key", func() error { return rename("a", "a1") }, []string{"a1"}},
		{"two keys", func() error { return errors.Join(rename("b", "b1"), rename("a", "a2"), rename("b", "b1")) }, []string{"a2", "b1"}},
		{"an organization", func() error {
			_, err := store.UpdateOrganization(ctx, "b", func(*billing.Organization) error { return nil })
			return err
		}, []string{"b1", "b2"}},
		{"versions that went back", advance(-1), []string{"a1", "a2", "b1", "b2"}},
		{"nothing has changed since", func() error { return nil }, nil},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := cache.refresh(ctx); err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if _, err := cache.find(ctx, secret, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(step.want, store.reads()); diff != "" {
			t.Errorf("%s: keys that were read anew (-want +got):\n%s", step.name, diff)
		}
	}
}

func TestKeyThatChangesWhileItIsReadIsNotCached(t *testing.T) {
	t.Parallel()
	cache, store, secrets := newWatchedCache(t)
	ctx := t.Context()
	store.reading = func() {
		store.reading = nil
		_, err := store.UpdateKey(ctx, "a", "a1", func(k *billing.Key) error {
			k.RevokedAt = time.Now()
			return nil
		})
		if _, _, refreshed := cache.refresh(ctx); err != nil || refreshed != nil {
			t.Error(err, refreshed)
		}
	}
	for _, want := range []billing.KeyStatus{billing.KeyActive, billing.KeyRevoked} {
		k, err := cache.find(ctx, secrets["a1"], time.Now())
		if err != nil || k.Status(time.Now()) != want {
			t.Errorf("found %v, %v, want it %s", k, err, want)
		}
	}
}

// A key that stays as it is is cached, however much else changes at the time.
func TestKeyIsCachedWhileOthersChange(t *testing.T) {
	t.Parallel()
	cache, store, secrets := newWatchedCache(t)
	store.reading = func() {
		cache.forget(billing.Changes{Keys: []billing.KeyRef{{OrganizationID: "a", ID: "a2"}}, Organizations: []string{"b"}})
	}
	for _, id := range []string{"a1", "a2", "b1"} {
		for range 2 {
			if _, err := cache.find(t.Context(), secrets[id], time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff([]string{"a1", "a2", "a2", "b1", "b1"}, store.reads()); diff != "" {
		t.Errorf("keys that were read (-want +got):\n%s", diff)
	}
}

// However many requests come at once, with a key that is not in memory or with
// secrets that are nobody's, they are few statements.
func TestRequestsAtOnceAreFewStatements(t *testing.T) {
	t.Parallel()
	const requests = 300
	for name, test := range map[string]struct {
		known    bool
		want     error
		gathered int // secrets that are looked up, or wait for it
	}{
		"of one key":   {true, nil, 2},
		"of strangers": {false, billing.ErrNotFound, requests},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache, store, known := newWatchedCache(t)
			release := make(chan struct{})
			store.reading = func() { <-release } // while the others gather
			var group sync.WaitGroup
			for range requests {
				secret := known["a1"]
				if !test.known {
					secret = billing.NewSecret()
				}
				group.Go(func() {
					if _, err := cache.find(t.Context(), secret, time.Now()); !errors.Is(err, test.want) {
						t.Error(err)
					}
				})
			}
			for cache.waiting()+store.askedFor() < test.gathered {
				time.Sleep(time.Millisecond)
			}
			close(release)
			group.Wait()
			if most := keyReaders + 1 + requests/keyBatch; store.statements > most {
				t.Errorf("%d statements, want at most %d", store.statements, most)
			}
		})
	}
}

func TestReplacedSecretStopsAtItsEnd(t *testing.T) {
	t.Parallel()
	cache, store, secrets := newWatchedCache(t)
	ctx := t.Context()
	now := time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)
	find := func(secret string, at time.Time) string {
		k, err := cache.find(ctx, secret, at)
		if errors.Is(err, billing.ErrNotFound) {
			return "invalid"
		}
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	find(secrets["a1"], now) // so that it is cached as the current secret
	next := billing.NewSecret()
	_, _, err := store.RotateKey(ctx, "a", "a1", billing.Rotation{
		Hash: billing.HashSecret(next), At: now, Overlap: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cache.refresh(ctx); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		secret string
		at     time.Time
		want   string
	}{
		{secrets["a1"], now, "a1"},
		{next, now, "a1"},
		{secrets["a1"], now.Add(time.Hour - 1), "a1"},
		{secrets["a1"], now.Add(time.Hour), "invalid"},
		{next, now.Add(time.Hour), "a1"},
		{secrets["a1"], now.Add(time.Hour + 1), "invalid"},
	} {
		if got := find(step.secret, step.at); got != step.want {
			t.Errorf("after %s: %s, want %s", step.at.Sub(now), got, step.want)
		}
	}
	store.reads()
	cache.forget(billing.Changes{Keys: []billing.KeyRef{{OrganizationID: "a", ID: "a1"}}})
	find(secrets["a1"], now)
	find(next, now)
	if diff := cmp.Diff([]string{"a1", "a1"}, store.reads()); diff != "" {
		t.Errorf("both secrets are forgotten with their key (-want +got):\n%s", diff)
	}
}

func TestAddressesOfClients(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		allowed, client string
		want            bool
	}{
		{"192.0.2.7", "192.0.2.7", true},
		{"192.0.2.7", "192.0.2.8", false},
		{"192.0.2.7", "::ffff:192.0.2.7", true},
		{"::ffff:192.0.2.7", "192.0.2.7", true},
		{"::ffff:192.0.2.7", "::ffff:c000:207", true},
		{"192.0.2.0/24", "192.0.2.255", true},
		{"192.0.2.0/24", "::ffff:192.0.2.255", true},
		{"192.0.2.77/24", "192.0.2.1", true}, // a key from before host bits were dropped
		{"192.0.2.0/24", "192.0.3.0", false},
		{"::ffff:10.0.0.0/104", "10.9.8.7", true},
		{"::ffff:10.0.0.0/104", "11.0.0.0", false},
		{"0.0.0.0/0", "203.0.113.9", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "2001:db8::1", true},
		{"::/0", "203.0.113.9", false},
		{"2001:db8::/32", "2001:db8:ffff::1", true},
		{"2001:db8::/32", "2001:db9::", false},
		{"fe80::/10", "fe80::1%eth0", true},
		{"2001:DB8:0::1", "2001:db8::1", true},
		{"not an address", "192.0.2.7", false},
		{"192.0.2.7", "", false},
		{"0.0.0.0/0", "not an address", false},
	} {
		k := newProxyKey(billing.Key{AllowedIPs: []string{test.allowed}}, billing.Organization{})
		if got := k.allowsIP(test.client); got != test.want {
			t.Errorf("%s allows %q: %v", test.allowed, test.client, got)
		}
	}
	if k := newProxyKey(billing.Key{}, billing.Organization{}); !k.allowsIP("") {
		t.Error("a key without a list refuses a client")
	}
}

func TestModelsAreAllowedByAnyOfTheirNames(t *testing.T) {
	n := start(t, "")
	n.buy(t, 10e9)
	for _, test := range []struct {
		allowed []string
		want    string
	}{
		{[]string{"gpt-4o*"}, ""},
		{[]string{"gpt-4o"}, ""},
		{[]string{"openai/*"}, ""},
		{[]string{"openai/gpt-4o*"}, ""},
		{[]string{"*/gpt-4o"}, ""},
		{[]string{"*"}, ""},
		{[]string{"claude-*", "*4o"}, ""},
		{[]string{"anthropic/*"}, "model_not_allowed"},
		{[]string{"GPT-4o"}, "model_not_allowed"},
		{[]string{"gpt-4"}, "model_not_allowed"},
		{[]string{"openai"}, "model_not_allowed"},
	} {
		key := n.key(t, func(k *billing.Key) { k.AllowedModels = test.allowed })
		if status, refused := n.ask(t, key, hello); refused != test.want || (status == 200) != (test.want == "") {
			t.Errorf("%q: %d %q, want %q", test.allowed, status, refused, test.want)
		}
	}
}
