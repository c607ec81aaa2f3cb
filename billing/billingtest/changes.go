package billingtest

import (
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testChanges(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"what has changed is listed once":          listsChanges,
		"changes at the same time are all listed":  listsAllChanges,
		"what is refused is no change":             refusalsAreNoChanges,
		"use of a key is no change":                useIsNoChange,
		"the version grows and nothing is skipped": advancesVersion,
	})
	t.Run("another connection sees them at once", func(t *testing.T) {
		t.Parallel()
		s, elsewhere := start(t, open), reopen(t, open)
		since := version(t, elsewhere)
		rename(t, s, key)
		equal(t, "changes", changes(t, elsewhere, since).Keys, []billing.KeyRef{{OrganizationID: org, ID: key}})
	})
}

// version is the newest version there is.
func version(t *testing.T, s billing.Store) int64 {
	t.Helper()
	c := changes(t, s, math.MaxInt64)
	if len(c.Keys)+len(c.Organizations) > 0 {
		t.Errorf("changes after the last version there can be: %+v", c)
	}
	return c.Version
}

// changes returns what has changed, in the order of the ids.
func changes(t *testing.T, s billing.Store, since int64) billing.Changes {
	t.Helper()
	c, err := s.Changes(t.Context(), since)
	check(t, err)
	slices.SortFunc(c.Keys, func(a, b billing.KeyRef) int { return strings.Compare(a.ID, b.ID) })
	slices.Sort(c.Organizations)
	return c
}

func rename(t *testing.T, s billing.Store, id string) {
	t.Helper()
	k, err := s.Key(t.Context(), org, id)
	check(t, err)
	_, err = s.UpdateKey(t.Context(), org, id, func(change *billing.Key) error {
		change.Name = k.Name + "'"
		return nil
	})
	check(t, err)
}

func listsChanges(t *testing.T, s billing.Store) {
	before := version(t, s)
	check(t, s.CreateKey(t.Context(), newKey("key_2", other, nil, "")))
	rename(t, s, key)
	rename(t, s, key)
	setBudget(t, s, pointer(usd), billing.Daily)
	_, _, err := s.RotateKey(t.Context(), other, "key_2", rotation(billing.NewSecret(), 0))
	check(t, err)

	got := changes(t, s, before)
	equal(t, "changed keys", got.Keys, []billing.KeyRef{{OrganizationID: org, ID: key}, {OrganizationID: other, ID: "key_2"}})
	equal(t, "changed organizations", got.Organizations, []string{org})
	equal(t, "changes since", changes(t, s, got.Version), billing.Changes{Version: got.Version})

	rename(t, s, key)
	equal(t, "the next change", changes(t, s, got.Version).Keys, []billing.KeyRef{{OrganizationID: org, ID: key}})
}

// listsAllChanges: whoever reads while others write must not see a version
// before what it stands for.
func listsAllChanges(t *testing.T, s billing.Store) {
	const writers, writes = 4, 10
	since := version(t, s)
	ids := make([]string, writers)
	for i := range ids {
		ids[i] = "key_" + string(rune('a'+i))
		check(t, s.CreateKey(t.Context(), newKey(ids[i], org, nil, "")))
	}
	var group sync.WaitGroup
	for _, id := range ids {
		group.Go(func() {
			for range writes {
				_, err := s.UpdateKey(t.Context(), org, id, func(k *billing.Key) error {
					k.RateLimitRPM++
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		group.Wait()
	}()
	// A cache that reads again what is listed has what is stored.
	cache := make(map[string]int64)
	for last := false; ; {
		select {
		case <-done:
			last = true
		default:
		}
		c := changes(t, s, since)
		for _, ref := range c.Keys {
			k, err := s.Key(t.Context(), ref.OrganizationID, ref.ID)
			check(t, err)
			cache[ref.ID] = k.RateLimitRPM
		}
		since = c.Version
		if last {
			break
		}
	}
	for _, id := range ids {
		equal(t, "cached value of "+id, cache[id], writes)
	}
}

func refusalsAreNoChanges(t *testing.T, s billing.Store) {
	before := version(t, s)
	_, err := s.UpdateKey(t.Context(), org, key, func(*billing.Key) error { return billing.ErrConflict })
	equal(t, "error", err, billing.ErrConflict)
	_, _, err = s.RotateKey(t.Context(), org, "nobody", rotation(billing.NewSecret(), 0))
	equal(t, "error", err, billing.ErrNotFound)
	if s.CreateKey(t.Context(), newKey(key, org, nil, "")) == nil {
		t.Error("a key was created twice")
	}
	equal(t, "changes", changes(t, s, before), billing.Changes{Version: before})
}

func useIsNoChange(t *testing.T, s billing.Store) {
	before := version(t, s)
	post(t, s, node, settlement(1, usd))
	equal(t, "changes", changes(t, s, before), billing.Changes{Version: before})
}

func advancesVersion(t *testing.T, s billing.Store) {
	for _, change := range []func(){
		func() { check(t, s.CreateKey(t.Context(), newKey("key_2", org, nil, ""))) },
		func() { rename(t, s, "key_2") },
		func() { setBudget(t, s, pointer(usd), billing.Daily) },
	} {
		before := version(t, s)
		change()
		equal(t, "version", version(t, s), before+1)
	}
}
