package billingtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testKeys(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"all fields are kept":                          keepsAllFieldsOfKeys,
		"a key is found by its hash":                   findsKeysByHash,
		"keys are listed page by page, newest first":   listsKeys,
		"keys are selected by what they are":           filtersKeys,
		"pages stay where they are":                    pagesOverChanges,
		"an update writes what may change":             updatesKeys,
		"a failed update changes nothing":              refusesUpdates,
		"a revoked key stays revoked":                  keepsRevokedKeys,
		"updates at the same time all count":           serializesUpdates,
		"a key needs an organization and its own hash": refusesKeys,
		"posting tells when a key was last used":       touchesKeys,
	})
}

func fullKey() billing.Key {
	k := newKey("key_full", org, pointer(25*usd), billing.Weekly)
	k.AllowedProviders = []string{"openai", "anthropic"}
	k.AllowedModels = []string{"gpt-*", `quote"d`}
	k.AllowedIPs = []string{"10.0.0.0/8"}
	k.Owner = "mem_1"
	k.RateLimitRPM = 60
	k.ExpiresAt = noon.Add(time.Hour)
	k.LastUsedAt = noon.Add(time.Minute)
	return k
}

func keepsAllFieldsOfKeys(t *testing.T, s billing.Store) {
	want := fullKey()
	check(t, s.CreateKey(t.Context(), want))
	got, err := s.Key(t.Context(), org, want.ID)
	check(t, err)
	equal(t, "key", got, want)

	bare := newKey("key_bare", org, nil, "")
	check(t, s.CreateKey(t.Context(), bare))
	got, err = s.Key(t.Context(), org, bare.ID)
	check(t, err)
	equal(t, "key without options", got, bare)
}

// keyByHash returns the key that a secret finds, or ErrNotFound.
func keyByHash(t *testing.T, s billing.Store, hash billing.KeyHash) (billing.Key, error) {
	t.Helper()
	found, err := s.KeysByHash(t.Context(), []billing.KeyHash{hash})
	check(t, err)
	k, ok := found[hash]
	if !ok {
		return billing.Key{}, billing.ErrNotFound
	}
	return k, nil
}

func findsKeysByHash(t *testing.T, s billing.Store) {
	theirs, ours := newKey("key_other", other, nil, ""), newKey("key_ours", org, nil, "")
	check(t, s.CreateKey(t.Context(), theirs))
	check(t, s.CreateKey(t.Context(), ours))
	next := billing.HashSecret("next")
	_, _, err := s.RotateKey(t.Context(), org, ours.ID, billing.Rotation{Hash: next, At: noon, Overlap: time.Hour})
	check(t, err)
	rotated, err := s.Key(t.Context(), org, ours.ID)
	check(t, err)
	old := rotated
	old.SecretExpiresAt = noon.Add(time.Hour)

	unknown := billing.HashSecret("another")
	got, err := s.KeysByHash(t.Context(), []billing.KeyHash{unknown, next, theirs.Hash, ours.Hash, next})
	check(t, err)
	equal(t, "keys", got, map[billing.KeyHash]billing.Key{theirs.Hash: theirs, next: rotated, ours.Hash: old})
	for _, hashes := range [][]billing.KeyHash{nil, {unknown}} {
		got, err = s.KeysByHash(t.Context(), hashes)
		check(t, err)
		equal(t, "keys", got, map[billing.KeyHash]billing.Key{})
	}
	_, err = s.Key(t.Context(), org, theirs.ID)
	equal(t, "error for another organization's key", err, billing.ErrNotFound)
}

func listsKeys(t *testing.T, s billing.Store) {
	// Ids do not follow the order of creation; two are of one moment.
	for i, id := range []string{"key_z", "key_b", "key_y", "key_x"} {
		k := newKey(id, org, nil, "")
		k.CreatedAt = noon.Add(time.Duration(min(i+1, 3)) * time.Minute)
		check(t, s.CreateKey(t.Context(), k))
	}
	check(t, s.CreateKey(t.Context(), newKey("key_other", other, nil, "")))

	got := pages(t, 2, func(page billing.Page) ([]billing.Key, error) {
		return s.ListKeys(t.Context(), org, billing.KeyFilter{}, page)
	}, func(k billing.Key) string { return k.ID })
	equal(t, "keys", got, []string{"key_y", "key_x", "key_b", "key_z", key})
}

func filtersKeys(t *testing.T, s billing.Store) {
	for i, set := range []func(*billing.Key){
		func(k *billing.Key) { k.Owner, k.Name = "mem_1", "CI 100% \\_'\"" },
		func(k *billing.Key) { k.Owner, k.Project = "mem_1", "web" },
		func(k *billing.Key) { k.Owner, k.ExpiresAt = "mem_2", noon.Add(time.Hour) },
		func(k *billing.Key) { k.Owner, k.Name, k.RevokedAt = "mem_1", "ÄRGER", noon },
		func(k *billing.Key) { k.OrganizationID, k.Owner = other, "mem_1" },
		func(k *billing.Key) { k.ExpiresAt, k.RevokedAt = noon, noon },
	} {
		k := newKey(fmt.Sprintf("key_f%d", i), org, nil, "")
		k.CreatedAt = noon.Add(time.Duration(i+1) * time.Minute)
		set(&k)
		check(t, s.CreateKey(t.Context(), k))
	}
	hour := noon.Add(time.Hour)
	for _, x := range []struct {
		filter billing.KeyFilter
		want   []string
	}{
		{billing.KeyFilter{}, []string{"key_f5", "key_f3", "key_f2", "key_f1", "key_f0", key}},
		{billing.KeyFilter{Owner: "mem_1"}, []string{"key_f3", "key_f1", "key_f0"}},
		{billing.KeyFilter{Owner: "mem_1' OR '1'='1"}, nil},
		{billing.KeyFilter{Project: "web"}, []string{"key_f1"}},
		{billing.KeyFilter{Owner: "mem_2", Project: "web"}, nil},
		{billing.KeyFilter{Name: "cI 1"}, []string{"key_f0"}},
		{billing.KeyFilter{Name: "%"}, []string{"key_f0"}},
		{billing.KeyFilter{Name: "_'\""}, []string{"key_f0"}},
		{billing.KeyFilter{Name: "Är"}, []string{"key_f3"}},
		{billing.KeyFilter{Name: "är"}, nil},
		{billing.KeyFilter{Name: "NAME OF"}, []string{"key_f5", "key_f2", "key_f1", key}},
		{billing.KeyFilter{Status: billing.KeyRevoked, At: noon}, []string{"key_f5", "key_f3"}},
		{billing.KeyFilter{Status: billing.KeyExpired, At: hour.Add(-time.Microsecond)}, nil},
		{billing.KeyFilter{Status: billing.KeyExpired, At: hour}, []string{"key_f2"}},
		{billing.KeyFilter{Status: billing.KeyActive, At: hour, Owner: "mem_1"}, []string{"key_f1", "key_f0"}},
		{billing.KeyFilter{Status: "lost", At: hour}, nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			got := pages(t, limit, func(page billing.Page) ([]billing.Key, error) {
				return s.ListKeys(t.Context(), org, x.filter, page)
			}, func(k billing.Key) string { return k.ID })
			equal(t, fmt.Sprintf("keys by %+v", x.filter), got, x.want)
		}
	}
}

// A cursor stays where it is when its key is not among the selected any more.
func pagesOverChanges(t *testing.T, s billing.Store) {
	for i := range 4 {
		k := newKey(fmt.Sprintf("key_p%d", i), org, nil, "")
		k.Owner, k.CreatedAt = "mem_1", noon.Add(time.Duration(i+1)*time.Minute)
		check(t, s.CreateKey(t.Context(), k))
	}
	_, err := s.UpdateKey(t.Context(), org, "key_p2", func(k *billing.Key) error { k.Owner, k.RevokedAt = "mem_2", noon; return nil })
	check(t, err)
	check(t, s.CreateKey(t.Context(), newKey("key_new", org, nil, "")))
	f := billing.KeyFilter{Owner: "mem_1", Status: billing.KeyActive, At: noon}
	keys, err := s.ListKeys(t.Context(), org, f, billing.Page{After: "key_p2", Limit: 2})
	check(t, err)
	if len(keys) != 2 || keys[0].ID != "key_p1" || keys[1].ID != "key_p0" {
		t.Errorf("after a key that has left the list: %+v", keys)
	}
	for _, cursor := range []string{"key_of_nobody", "' OR 1=1 --"} {
		keys, err = s.ListKeys(t.Context(), org, f, billing.Page{After: cursor})
		check(t, err)
		equal(t, "keys after "+cursor, keys, nil)
	}
}

func updatesKeys(t *testing.T, s billing.Store) {
	before := fullKey()
	check(t, s.CreateKey(t.Context(), before))
	want := before
	want.Name, want.RateLimitRPM, want.Owner = "renamed", 5, "mem_2"
	want.AllowedModels, want.ExpiresAt = nil, time.Time{}
	want.UsageLimit, want.UsageLimitReset = nil, ""

	got, err := s.UpdateKey(t.Context(), org, before.ID, func(k *billing.Key) error {
		equal(t, "key before", *k, before)
		*k = want
		// These do not change, whatever is tried.
		k.ID, k.OrganizationID, k.Hash, k.CreatedAt, k.LastUsedAt = "x", other, billing.KeyHash{}, time.Time{}, time.Time{}
		return nil
	})
	check(t, err)
	equal(t, "returned key", got, want)
	got, err = s.Key(t.Context(), org, before.ID)
	check(t, err)
	equal(t, "stored key", got, want)
}

func refusesUpdates(t *testing.T, s billing.Store) {
	before := fullKey()
	check(t, s.CreateKey(t.Context(), before))
	unchanged := version(t, s)

	refusal := errors.New("refused")
	_, err := s.UpdateKey(t.Context(), org, before.ID, func(k *billing.Key) error {
		k.Name = "changed"
		return refusal
	})
	equal(t, "error of change", err, refusal)
	_, err = s.UpdateKey(t.Context(), org, before.ID, func(k *billing.Key) error {
		k.UsageLimitReset = "hourly"
		return nil
	})
	if err == nil {
		t.Error("unknown period was stored")
	}
	_, err = s.UpdateKey(t.Context(), other, before.ID, func(*billing.Key) error { return nil })
	equal(t, "error for another organization's key", err, billing.ErrNotFound)

	got, err := s.Key(t.Context(), org, before.ID)
	check(t, err)
	equal(t, "key", got, before)
	equal(t, "version", version(t, s), unchanged)
}

func keepsRevokedKeys(t *testing.T, s billing.Store) {
	revoked := noon.Add(time.Hour)
	_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
		k.RevokedAt = revoked
		return nil
	})
	check(t, err)
	for _, at := range []time.Time{{}, revoked.Add(time.Hour)} {
		_, err = s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
			k.RevokedAt = at
			return nil
		})
		equal(t, "error", err, billing.ErrRevoked)
	}
	renamed, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
		k.Name = "old key"
		return nil
	})
	check(t, err)
	equal(t, "revocation", renamed.RevokedAt, revoked)
}

func serializesUpdates(t *testing.T, s billing.Store) {
	const writers = 8
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error {
				k.RateLimitRPM++
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	k, err := s.Key(t.Context(), org, key)
	check(t, err)
	equal(t, "increments", k.RateLimitRPM, writers)
}

func refusesKeys(t *testing.T, s billing.Store) {
	existing, err := s.Key(t.Context(), org, key)
	check(t, err)
	sameHash := newKey("key_2", org, nil, "")
	sameHash.Hash = existing.Hash
	for name, k := range map[string]billing.Key{
		"no id":         newKey("", org, nil, ""),
		"same id":       newKey(key, other, nil, ""),
		"same hash":     sameHash,
		"negative":      newKey("key_2", org, pointer(-usd), billing.Daily),
		"unknown reset": newKey("key_2", org, pointer(usd), "hourly"),
	} {
		if s.CreateKey(t.Context(), k) == nil {
			t.Errorf("%s: was created", name)
		}
	}
	equal(t, "error", s.CreateKey(t.Context(), newKey("key_2", "nobody", nil, "")), billing.ErrNotFound)
	keys, err := s.ListKeys(t.Context(), org, billing.KeyFilter{}, billing.Page{})
	check(t, err)
	equal(t, "keys", len(keys), 1)
}

func touchesKeys(t *testing.T, s billing.Store) {
	for i, n := range []int{5, 9, 7} {
		post(t, s, node, settlement(n, usd))
		k, err := s.Key(t.Context(), org, key)
		check(t, err)
		want := settlement(max(n, 5+4*min(i, 1)), 0).At
		equal(t, fmt.Sprintf("last use after request %d", n), k.LastUsedAt, want)
	}
}
