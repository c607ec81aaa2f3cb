package billing_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// endless grants each lease.
type endless struct {
	billing.SpendStore
	mu      sync.Mutex
	granted []billing.Lease
	work    time.Duration
}

func (l *endless) Lease(_ context.Context, _ string, want []billing.Want) ([]billing.Grant, error) {
	time.Sleep(l.work)
	l.mu.Lock()
	defer l.mu.Unlock()
	grants := make([]billing.Grant, len(want))
	for i, w := range want {
		grants[i].Lease = billing.Lease{Allowance: w.Allowance, Amount: w.Need + w.Ahead}
		l.granted = append(l.granted, grants[i].Lease)
	}
	return grants, nil
}

func (l *endless) Return(context.Context, string, []billing.Lease) error { return nil }

// Listen hears nothing.
func (l *endless) Listen(ctx context.Context, _ string, _ billing.Listener) error {
	<-ctx.Done()
	return nil
}

func (l *endless) LeasesOf(context.Context, string) ([]billing.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.granted), nil
}

// A node that comes back from an outage has a long queue to post, and needs
// leases at the same time: those must not wait for the whole queue.
func TestRefillsTakeTurnsWithALongQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const queued, clients = 50_000, 16
		work := 20 * time.Millisecond
		ledger, j := &scripted{err: errDown, work: work}, &memory{}
		leases := &endless{work: time.Millisecond}
		poster := billing.NewPoster(ledger, j, "node", silent{})
		authorizer := billing.NewAuthorizer(leases, j, poster, billing.Options{})
		defer authorizer.Close()
		for range queued {
			poster.Post(settlement(cent), 1)
		}
		time.Sleep(time.Minute)
		ledger.fail(nil)
		for booked := 0; booked == 0; _, booked = ledger.posts() { // wait until it is noticed
			time.Sleep(time.Millisecond)
		}
		var group sync.WaitGroup
		for client := range clients {
			group.Go(func() {
				s := settlement(cent)
				credits := billing.CreditsOf(string(rune('a' + client)))
				asked := time.Now()
				_, err := authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{credits}, Amount: cent}, &s)
				if err != nil {
					t.Error(err)
				}
				// One batch is under way, and the others are before it at most.
				if waited, most := time.Since(asked), 2*work+clients*leases.work; waited > most {
					t.Errorf("a lease took %s beside a queue, want at most %s", waited, most)
				}
			})
		}
		group.Wait()
		if left := poster.Pending(); left < queued/2 {
			t.Errorf("%d of %d are left: the leases came too late to tell", left, queued)
		}
		if err := poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(ledger.has) != queued {
			t.Errorf("posted %d of %d", len(ledger.has), queued)
		}
	})
}

func TestQueueIsPostedSoonAfterALongOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger, j := &scripted{err: errDown}, &memory{}
		poster := billing.NewPoster(ledger, j, "node", silent{})
		const queued = 20_000
		for range queued {
			poster.Post(settlement(cent), 1)
			time.Sleep(10 * time.Millisecond)
		}
		if n, oldest := poster.Lag(); n != queued || oldest != queued*10*time.Millisecond {
			t.Errorf("%d settlements wait for %s", n, oldest)
		}
		attempts, _ := ledger.posts()
		ledger.fail(nil)
		back := time.Now()
		if err := poster.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(back); took > 2*time.Second {
			t.Errorf("the store was noticed after %s", took)
		}
		if asked, _ := ledger.posts(); asked-attempts > queued/1000+2 {
			t.Errorf("%d settlements were posted in %d batches", queued, asked-attempts)
		}
		if n, oldest := poster.Lag(); n != 0 || oldest != 0 {
			t.Errorf("%d settlements still wait for %s", n, oldest)
		}
		if err := poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLagIsTheAgeOfTheOldest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ledger := &scripted{err: errDown}
		poster := billing.NewPoster(ledger, &memory{}, "node", silent{})
		for i := range 3 {
			if n, oldest := poster.Lag(); n != i || oldest != time.Duration(i)*time.Minute {
				t.Errorf("%d settlements wait for %s, want %d for %d minutes", n, oldest, i, i)
			}
			poster.Post(settlement(cent), 1)
			time.Sleep(time.Minute)
		}
		ledger.fail(nil)
		time.Sleep(2 * time.Second)
		poster.Post(settlement(cent), 1)
		if n, oldest := poster.Lag(); n != 1 || oldest != 0 {
			t.Errorf("after the outage %d settlements wait for %s", n, oldest)
		}
		if err := poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkQueue is what an outage costs for each settlement, in time on the
// request path and in memory.
func BenchmarkQueue(b *testing.B) {
	ledger := &scripted{err: errDown}
	poster := billing.NewPoster(ledger, &memory{}, "node", silent{})
	s := settlement(cent)
	b.ReportAllocs()
	for b.Loop() {
		poster.Post(s)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	poster.Close(stopped)
}
