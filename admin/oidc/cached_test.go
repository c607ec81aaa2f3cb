package oidc

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestOldDocumentIsUsedWhileTheProviderHangs(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan error)
	c := cached[int]{fetch: func(context.Context) (int, error) { return 1, nil }}
	start := time.Now()
	if _, err := c.get(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	c.fetch = func(context.Context) (int, error) {
		close(asked)
		return 2, <-answer
	}
	old := start.Add(refreshAfter)
	first := make(chan int)
	go func() {
		n, err := c.get(t.Context(), old)
		if err != nil {
			t.Error(err)
		}
		first <- n
	}()
	<-asked // and hangs
	for range 3 {
		if n, err := c.get(t.Context(), old); n != 1 || err != nil {
			t.Errorf("while the provider hangs: %d, %v", n, err)
		}
	}
	answer <- nil
	if n := <-first; n != 2 {
		t.Errorf("who has asked has %d", n)
	}
	c.fetch = func(context.Context) (int, error) { return 0, errors.New("away") }
	if n, err := c.get(t.Context(), old.Add(staleAfter)); !errors.Is(err, ErrAway) {
		t.Errorf("too old: %d, %v", n, err)
	}
}
