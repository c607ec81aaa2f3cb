//go:build unix

package postgres_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const defaultOrg = "org"

// hears calls Listen as a node does, and returns a channel that gets an element
// for each time that something has changed, and how to end it.
func hears(t *testing.T, s billing.Store) (changed chan struct{}, lost chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	changed, lost = make(chan struct{}, 100), make(chan error, 1)
	go func() {
		lost <- s.Listen(ctx, "node_2", billing.Listener{
			Asked:   func([]billing.Allowance) {},
			Changed: func() { changed <- struct{}{} },
		})
	}()
	t.Cleanup(func() {
		stop()
		<-lost
	})
	return changed, lost
}

func await[T any](t *testing.T, what string, events <-chan T) T {
	t.Helper()
	select {
	case v := <-events:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s in 10 s", what)
		panic("unreachable")
	}
}

func TestChangesAreHeardElsewhere(t *testing.T) {
	t.Parallel()
	here, elsewhere := open(t), open(t)
	defer here.Close()
	defer elsewhere.Close()
	ctx := t.Context()
	if err := here.EnsureOrganization(ctx, billing.Organization{ID: defaultOrg, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	changed, _ := hears(t, elsewhere)
	await(t, "call when it begins to listen", changed)

	secret := billing.NewSecret()
	for _, step := range []struct {
		name   string
		change func() error
	}{
		{"a new key", func() error {
			return here.CreateKey(ctx, billing.Key{ID: "key", OrganizationID: defaultOrg, Hash: billing.HashSecret(secret), CreatedAt: time.Now()})
		}},
		{"a revocation", func() error {
			_, err := here.UpdateKey(ctx, defaultOrg, "key", func(k *billing.Key) error {
				k.RateLimitRPM = 1
				return nil
			})
			return err
		}},
		{"a rotation", func() error {
			_, _, err := here.RotateKey(ctx, defaultOrg, "key", billing.Rotation{Hash: billing.HashSecret(billing.NewSecret()), At: time.Now()})
			return err
		}},
		{"an organization's settings", func() error {
			_, err := here.UpdateOrganization(ctx, defaultOrg, func(*billing.Organization) error { return nil })
			return err
		}},
	} {
		before, err := elsewhere.Changes(ctx, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		await(t, "notice of "+step.name, changed)
		after, err := elsewhere.Changes(ctx, before.Version)
		if err != nil || len(after.Keys)+len(after.Organizations) != 1 {
			t.Errorf("when it is told of %s, there is %+v, %v to be read", step.name, after, err)
		}
	}
}

// A listener whose connection is lost says so, and looks for changes as soon
// as it listens again.
func TestListenerThatLostItsConnectionLooksAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	changed, lost := hears(t, s)
	await(t, "call when it begins to listen", changed)
	_, err := raw(t).ExecContext(t.Context(), `
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, "end of the listener", lost); err == nil {
		t.Error("a lost connection is no error")
	}
	lost <- nil // for the clean-up

	changed, _ = hears(t, s)
	await(t, "call when it listens again", changed)
}
