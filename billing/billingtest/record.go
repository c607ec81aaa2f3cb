package billingtest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func testChangeLog(t *testing.T, open Open) {
	cases(t, open, map[string]func(*testing.T, billing.Store){
		"keys are recorded":                          recordsKeys,
		"a rotation is recorded once":                recordsRotations,
		"organizations are recorded":                 recordsOrganizations,
		"projects are recorded":                      recordsProjects,
		"members are recorded":                       recordsMembers,
		"operator tokens are recorded":               recordsTokens,
		"entries are recorded, usage is not":         recordsEntries,
		"what fails or changes nothing leaves none":  recordsNoFailures,
		"changes at the same time have one each":     recordsConcurrentChanges,
		"changes are listed page by page":            listsRecords,
		"filters select changes":                     filtersRecords,
		"who did it is kept as far as a store can":   keepsActors,
		"whoever follows misses no change":           followsRecords,
		"no secret is recorded, nor the hash of one": recordsNoSecrets,
	})
}

var ada = billing.Actor{
	Kind: billing.ActorMember, ID: "mem_1", Name: "Ada", ClientIP: "2001:db8::1", UserAgent: `curl/8 <"&>`,
}

// by is the test's context, in which changes are the actor's.
func by(t *testing.T, a billing.Actor) context.Context {
	t.Helper()
	return billing.WithActor(t.Context(), a)
}

// records are an organization's changes, newest first.
func records(t *testing.T, s billing.Store, org string, f billing.ChangeFilter) []billing.ChangeRecord {
	t.Helper()
	all, err := s.ListChanges(t.Context(), org, f, billing.Page{Limit: 1000})
	check(t, err)
	return all
}

// record is the newest change of a subject, of which there are so many.
func record(t *testing.T, s billing.Store, id string, changes int) billing.ChangeRecord {
	t.Helper()
	all := records(t, s, org, billing.ChangeFilter{SubjectID: id})
	if len(all) != changes {
		t.Fatalf("%d changes of %s, want %d: %+v", len(all), id, changes, all)
	}
	return all[0]
}

// recorded compares a change but for its id and time.
func recorded(t *testing.T, got, want billing.ChangeRecord) {
	t.Helper()
	if !strings.HasPrefix(got.ID, "chg_") || time.Since(got.At).Abs() > time.Hour {
		t.Errorf("change %s at %s", got.ID, got.At)
	}
	got.ID, got.At = "", time.Time{}
	equal(t, want.Action, got, want)
}

func subject(kind billing.SubjectKind, id string) billing.ChangeSubject {
	return billing.ChangeSubject{OrganizationID: org, Kind: kind, ID: id}
}

func recordsNoFailures(t *testing.T, s billing.Store) {
	before := records(t, s, org, billing.ChangeFilter{})
	failed := errors.New("no")
	_, err := s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error { k.Name = "x"; return failed })
	equal(t, "error", err, failed)
	_, err = s.UpdateKey(t.Context(), org, key, func(k *billing.Key) error { k.RateLimitRPM = -1; return nil })
	if err == nil {
		t.Error("a negative limit was set")
	}
	_, err = s.UpdateOrganization(t.Context(), org, func(o *billing.Organization) error { o.Name = "x"; return failed })
	equal(t, "error", err, failed)
	_, err = s.PutProject(t.Context(), org, "x", func(*billing.Project) error { return failed })
	equal(t, "error", err, failed)
	equal(t, "error", s.DeleteProject(t.Context(), org, "x", anyProject), billing.ErrNotFound)
	if s.CreateKey(t.Context(), newKey(key, org, nil, "")) == nil {
		t.Error("a key was created twice")
	}
	_, err = s.UpdateKey(t.Context(), org, key, func(*billing.Key) error { return nil })
	check(t, err)
	_, err = s.UpdateOrganization(t.Context(), org, func(*billing.Organization) error { return nil })
	check(t, err)
	check(t, s.EnsureOrganization(t.Context(), billing.Organization{ID: org}))
	equal(t, "changes", records(t, s, org, billing.ChangeFilter{}), before)
}

func recordsConcurrentChanges(t *testing.T, s billing.Store) {
	const writers = 8
	setBudget(t, s, pointer(billing.Money(0)), billing.Daily)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			actor := billing.Actor{Kind: billing.ActorMember, ID: fmt.Sprintf("mem_%d", i)}
			_, err := s.UpdateOrganization(billing.WithActor(t.Context(), actor), org, func(o *billing.Organization) error {
				*o.Budget += usd
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all := records(t, s, org, billing.ChangeFilter{SubjectID: org})[:writers]
	actors := make(map[string]bool)
	for i, c := range all { // each begins where the one before has ended
		sum := billing.Money(writers-i) * usd
		equal(t, "before", string(c.Before), fmt.Sprintf(`{"max_nanos":%d}`, sum-usd))
		equal(t, "after", string(c.After), fmt.Sprintf(`{"max_nanos":%d}`, sum))
		actors[c.Actor.ID] = true
	}
	equal(t, "actors", len(actors), writers)
}

func listsRecords(t *testing.T, s billing.Store) {
	for range 10 {
		rename(t, s, key)
	}
	all := records(t, s, org, billing.ChangeFilter{})
	var got []billing.ChangeRecord
	for page := (billing.Page{Limit: 3}); ; {
		part, err := s.ListChanges(t.Context(), org, billing.ChangeFilter{}, page)
		check(t, err)
		got = append(got, part...)
		if len(part) < page.Limit {
			break
		}
		page.After = part[len(part)-1].ID
		rename(t, s, key) // what is new does not move a page
	}
	equal(t, "pages", got, all)
	if len(all) != 12 || all[0].Action != "key.update" || all[11].Action != "organization.create" {
		t.Errorf("not newest first: %+v", all)
	}
	foreign := records(t, s, other, billing.ChangeFilter{})[0].ID
	for _, after := range []string{"x", foreign} {
		_, err := s.ListChanges(t.Context(), org, billing.ChangeFilter{}, billing.Page{After: after})
		equal(t, "error for a page after "+after, err, billing.ErrNotFound)
	}
	equal(t, "the gateway's own", len(records(t, s, "", billing.ChangeFilter{})), 0)
}

func filtersRecords(t *testing.T, s billing.Store) {
	_, err := s.UpdateKey(by(t, ada), org, key, func(k *billing.Key) error { k.Name = "x"; return nil })
	check(t, err)
	putProject(t, s, key, nil, "") // of the same id
	all := records(t, s, org, billing.ChangeFilter{})
	slices.Reverse(all)
	const organization, created, updated, project = 0, 1, 2, 3
	for name, test := range map[string]struct {
		filter billing.ChangeFilter
		want   []int
	}{
		"all":               {billing.ChangeFilter{}, []int{project, updated, created, organization}},
		"action":            {billing.ChangeFilter{Action: "key.update"}, []int{updated}},
		"part of an action": {billing.ChangeFilter{Action: "key"}, nil},
		"subject":           {billing.ChangeFilter{SubjectID: key}, []int{project, updated, created}},
		"subject and kind":  {billing.ChangeFilter{SubjectID: key, SubjectKind: billing.SubjectKey}, []int{updated, created}},
		"kind":              {billing.ChangeFilter{SubjectKind: billing.SubjectOrganization}, []int{organization}},
		"actor's id":        {billing.ChangeFilter{Actor: ada.ID}, []int{updated}},
		"actor's name":      {billing.ChangeFilter{Actor: ada.Name}, []int{updated}},
		"id":                {billing.ChangeFilter{ID: all[updated].ID}, []int{updated}},
		"id of another":     {billing.ChangeFilter{ID: all[updated].ID, Action: "key.create"}, nil},
		"another actor":     {billing.ChangeFilter{Actor: "' OR 1=1 --"}, nil},
		"from":              {billing.ChangeFilter{From: all[project].At, SubjectKind: billing.SubjectProject}, []int{project}},
		"after":             {billing.ChangeFilter{From: all[project].At.Add(time.Nanosecond)}, nil},
		"to":                {billing.ChangeFilter{To: all[organization].At}, nil},
		"until":             {billing.ChangeFilter{To: all[organization].At.Add(time.Nanosecond), SubjectID: org}, []int{organization}},
	} {
		want := make([]billing.ChangeRecord, len(test.want))
		for i, n := range test.want {
			want[i] = all[n]
		}
		equal(t, name, records(t, s, org, test.filter), want)
	}
}

func keepsActors(t *testing.T, s billing.Store) {
	hostile := billing.Actor{
		Kind: billing.ActorOperator, ID: "\x00", Name: "a\xff", ClientIP: "'; DROP TABLE changes --",
		UserAgent: strings.Repeat("ä", 1<<20),
	}
	_, err := s.UpdateKey(by(t, hostile), org, key, func(k *billing.Key) error { k.Name = "\x00\xff"; return nil })
	check(t, err)
	got := record(t, s, key, 2)
	equal(t, "actor", got.Actor, billing.Actor{
		Kind: billing.ActorOperator, ID: "\uFFFD", Name: "a\uFFFD", ClientIP: hostile.ClientIP,
		UserAgent: strings.Repeat("ä", 256),
	})
	equal(t, "name", string(got.After), "{\"name\":\"\uFFFD\uFFFD\"}")
}

func recordsNoSecrets(t *testing.T, s billing.Store) {
	secrets := make([]string, 3)
	for i := range secrets {
		secrets[i] = billing.NewSecret()
	}
	k := newKey("key_2", org, nil, "")
	k.Hash, k.Prefix = billing.HashSecret(secrets[0]), billing.DisplayPrefix(secrets[0])
	check(t, s.CreateKey(t.Context(), k))
	for i, overlap := range []time.Duration{time.Hour, 0} {
		next := secrets[i+1]
		_, _, err := s.RotateKey(t.Context(), org, k.ID, billing.Rotation{
			Hash: billing.HashSecret(next), Prefix: billing.DisplayPrefix(next), At: noon, Overlap: overlap,
		})
		check(t, err)
	}
	all := fmt.Sprintf("%s", records(t, s, org, billing.ChangeFilter{}))
	equal(t, "prefix is recorded", strings.Contains(all, k.Prefix), true)
	for _, secret := range secrets {
		hash := billing.HashSecret(secret)
		numbers, err := json.Marshal(hash)
		check(t, err)
		for _, canary := range []string{
			secret, secret[len(k.Prefix):], string(hash[:]), string(numbers), hex.EncodeToString(hash[:]),
			base64.StdEncoding.EncodeToString(hash[:]), base64.RawURLEncoding.EncodeToString(hash[:]),
		} {
			if strings.Contains(all, canary) {
				t.Errorf("%q is in a record", canary)
			}
		}
	}
}
