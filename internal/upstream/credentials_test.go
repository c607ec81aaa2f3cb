package upstream

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newTestPool(c *clock, credentials ...Credential) *Pool {
	registry := NewRegistry(c.now, func(string, Change) {})
	return registry.Provider("openai", "https://api.example.com").NewPool(credentials)
}

func picks(p *Pool, n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(p.Pick().Label)
	}
	return b.String()
}

func TestCredentialsTakeTurnsByWeight(t *testing.T) {
	t.Parallel()
	for want, weights := range map[string][]int{
		"aaaa": {1}, "abab": {1, 1}, "aabaaaba": {3, 1}, "aabacaaaabacaa": {5, 1, 1},
	} {
		var list []Credential
		for i, w := range weights {
			list = append(list, Credential{Label: string(rune('a' + i)), Secret: string(rune('A' + i)), Weight: w})
		}
		if got := picks(newTestPool(newClock(), list...), len(want)); got != want {
			t.Errorf("weights %v: %s, want %s", weights, got, want)
		}
	}
}

func TestCredentialsRest(t *testing.T) {
	t.Parallel()
	type refusal struct {
		class      Class
		retryAfter time.Duration
	}
	limited, denied := refusal{class: RateLimited}, refusal{class: Unauthorized}
	for _, test := range []struct {
		name     string
		refusals []refusal
		want     []time.Duration
	}{
		{"rate limited", []refusal{limited, limited, limited}, []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute}},
		{"denied, up to ten minutes", []refusal{denied, denied, denied, denied, denied, denied},
			[]time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute}},
		{"as the provider says", []refusal{{RateLimited, 7 * time.Second}, {RateLimited, 7 * time.Second}},
			[]time.Duration{7 * time.Second, 7 * time.Second}},
		{"not for hours", []refusal{{RateLimited, 5 * time.Hour}}, []time.Duration{10 * time.Minute}},
		{"success in between", []refusal{limited, {class: OK}, limited}, []time.Duration{30 * time.Second, 0, 30 * time.Second}},
		{"neither served nor refused", []refusal{limited, {class: ServerError}, {class: Rejected}, {class: Abandoned}, limited},
			[]time.Duration{30 * time.Second, 0, 0, 0, time.Minute}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			pool := newTestPool(c, Credential{Label: "a", Secret: "A", Weight: 1})
			var got []time.Duration
			for _, r := range test.refusals {
				rested := pool.Pick().Report(r.class, r.retryAfter)
				rest := time.Duration(0)
				if status := pool.Status()[0]; !status.RestingUntil.IsZero() {
					if rest = status.RestingUntil.Sub(c.now()); status.Reason != r.class {
						t.Errorf("rests because %s", status.Reason)
					}
				}
				if rested != (rest > 0) || pool.Ready() == rested {
					t.Errorf("rested %v, ready %v, for %s", rested, pool.Ready(), rest)
				}
				got = append(got, rest)
				c.advance(rest)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("rests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRestingCredentialsAreUsedLast(t *testing.T) {
	t.Parallel()
	c := newClock()
	pool := newTestPool(c, Credential{Label: "a", Secret: "A", Weight: 1}, Credential{Label: "b", Secret: "B", Weight: 1})
	if u := pool.Pick(); u.Label != "a" || !u.Report(Unauthorized, 0) {
		t.Fatal("the first does not rest")
	}
	if got := picks(pool, 4); got != "bbbb" || !pool.Ready() {
		t.Errorf("used %s while a rests", got)
	}
	pool.Pick().Report(RateLimited, 10*time.Second)
	if got := picks(pool, 3); got != "bbb" || pool.Ready() {
		t.Errorf("used %s, ready %v, while both rest and b wakes first", got, pool.Ready())
	}
	c.advance(10 * time.Second)
	if got := picks(pool, 2); got != "bb" {
		t.Errorf("used %s when b is awake", got)
	}
	c.advance(50 * time.Second)
	if got := picks(pool, 4); strings.Count(got, "a") != 2 {
		t.Errorf("used %s when both are awake", got)
	}
}

func TestRefusalsAtOnceAreOneRefusal(t *testing.T) {
	t.Parallel()
	c := newClock()
	pool := newTestPool(c, Credential{Label: "a", Secret: "A", Weight: 1})
	uses := []Use{pool.Pick(), pool.Pick(), pool.Pick()}
	started := 0
	for _, u := range uses[:2] {
		if u.Report(RateLimited, 0) {
			started++
		}
	}
	uses[2].Report(OK, 0) // it had begun before the refusals
	status := pool.Status()[0]
	if started != 1 || !status.RestingUntil.Equal(c.now().Add(restRateLimited)) || status.Requests != 3 || status.Failures != 2 {
		t.Errorf("%d rests, status %+v", started, status)
	}
}

func TestHealthOutlivesThePool(t *testing.T) {
	t.Parallel()
	c := newClock()
	var changes []string
	registry := NewRegistry(c.now, func(provider string, c Change) { changes = append(changes, provider+" "+c.To.String()) })
	before := registry.Provider("openai", "https://a.example.com")
	before.NewPool([]Credential{{Label: "old", Secret: "A", Weight: 1}}).Pick().Report(Unauthorized, 0)
	for range maxConsecutive {
		pass, _, _ := before.Breaker.Allow()
		before.Breaker.Record(pass, TimedOut)
	}
	same := registry.Provider("openai", "https://a.example.com")
	if _, _, ok := same.Breaker.Allow(); ok {
		t.Error("the breaker has forgotten")
	}
	if same.NewPool([]Credential{{Label: "new", Secret: "A", Weight: 7}}).Ready() {
		t.Error("the credential has forgotten its rest")
	}
	if !same.NewPool([]Credential{{Label: "old", Secret: "B", Weight: 1}}).Ready() {
		t.Error("another credential of the same label rests")
	}
	other := registry.Provider("openai", "https://b.example.com")
	if _, _, ok := other.Breaker.Allow(); !ok || !other.NewPool([]Credential{{Label: "old", Secret: "A", Weight: 1}}).Ready() {
		t.Error("another address is taken for the same provider")
	}
	if diff := cmp.Diff([]string{"openai open"}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestPoolIsSharedByManyRequests(t *testing.T) {
	t.Parallel()
	c := newClock()
	pool := newTestPool(c, Credential{Label: "a", Secret: "A", Weight: 3}, Credential{Label: "b", Secret: "B", Weight: 1})
	used := make(map[string]int)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			own := make(map[string]int)
			for range 500 {
				u := pool.Pick()
				own[u.Label]++
				u.Report(OK, 0)
			}
			mu.Lock()
			defer mu.Unlock()
			for label, n := range own {
				used[label] += n
			}
		})
	}
	group.Wait()
	want := map[string]int{"a": 3000, "b": 1000}
	if !maps.Equal(used, want) {
		t.Errorf("used %v, want %v", used, want)
	}
	for _, s := range pool.Status() {
		if int(s.Requests) != want[s.Label] || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
	}
}
