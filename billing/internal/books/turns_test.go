package books

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestTurnsAreSharedAmongOrganizations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(8) // 4, of which 2 are the most for one
		var done []func()
		taken := make(chan func(), 100)
		for range 10 {
			go func() {
				d, err := turns.Take(t.Context(), "greedy")
				if err != nil {
					t.Error(err)
				}
				taken <- d
			}()
		}
		synctest.Wait()
		if len(taken) != 2 {
			t.Fatalf("one organization has %d turns", len(taken))
		}
		for _, org := range []string{"a", "b"} {
			d, err := turns.Take(t.Context(), org)
			if err != nil {
				t.Fatal(err)
			}
			done = append(done, d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := turns.Take(ctx, "c"); !errors.Is(err, context.Canceled) {
			t.Errorf("a fifth turn: %v", err)
		}
		if _, err := turns.Take(ctx, "greedy"); !errors.Is(err, context.Canceled) {
			t.Errorf("a third turn: %v", err)
		}
		for _, d := range done {
			d()
		}
		for range 10 {
			(<-taken)()
		}
		if len(turns.orgs) != 0 || len(turns.all) != 0 {
			t.Errorf("%d organizations are remembered, %d turns taken", len(turns.orgs), len(turns.all))
		}
	})
}
