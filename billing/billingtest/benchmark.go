package billingtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Benchmark measures how long a settlement takes to post, alone and in batches of
// one key and of ten with four models, out of leases as on a gateway's node, and
// what that costs this process in processor time.
func Benchmark(b *testing.B, s billing.Store) {
	err := s.EnsureOrganization(b.Context(), billing.Organization{ID: org, CreatedAt: noon})
	if err == nil {
		err = s.CreateKey(b.Context(), newKey(key, org, pointer(1_000_000_000*usd), billing.Monthly))
	}
	if err == nil {
		_, err = s.Append(b.Context(), purchase(1_000_000_000*usd, "purchase"))
	}
	if err == nil {
		_, err = s.Lease(b.Context(), node, needs(
			credits(900_000_000*usd), keySpend(key, billing.Monthly, 900_000_000*usd),
		))
	}
	if err != nil {
		b.Fatal(err)
	}
	at := noon
	for _, test := range []struct{ size, keys int }{{1, 1}, {32, 1}, {256, 1}, {32, 10}, {256, 10}} {
		size := test.size
		b.Run(fmt.Sprintf("batch=%d/keys=%d", size, test.keys), func(b *testing.B) {
			batch := make([]billing.Settlement, size)
			for i := range batch {
				batch[i] = settlement(i, usd/1000)
				batch[i].Changes = nil
				if n := i % test.keys; n > 0 {
					batch[i].KeyID, batch[i].Model = fmt.Sprint("key_", n), fmt.Sprint("model_", i%4)
				}
			}
			used := cpuTime()
			for b.Loop() {
				for i := range batch {
					at = at.Add(100 * time.Microsecond)
					batch[i].RequestID, batch[i].At = billing.NewID(billing.RequestIDPrefix, at), at
				}
				if _, err := s.Post(b.Context(), node, batch); err != nil {
					b.Fatal(err)
				}
			}
			settlements := float64(b.N * size)
			b.ReportMetric(float64(b.Elapsed().Microseconds())/settlements, "µs/settlement")
			b.ReportMetric(float64((cpuTime()-used).Microseconds())/settlements, "cpu-µs/settlement")
		})
	}
}

// verifiedRows is how many requests BenchmarkVerify posts first.
const verifiedRows = 200_000

// BenchmarkVerify measures verifications of 200,000 requests of ten keys in
// a year: all of it, what is new after another thousand, and how long a
// settlement waits to be posted while a full verification runs.
func BenchmarkVerify(b *testing.B, s billing.Store) {
	const size = 1000
	at := noon
	batch := make([]billing.Settlement, size)
	more := func(size int, step time.Duration) {
		for i := range size {
			at = at.Add(step)
			batch[i] = settlement(i, usd/1000*billing.Money(min(i%10, 1))) // every tenth is free
			batch[i].KeyID = fmt.Sprintf("key_%d", i%10)
			batch[i].RequestID, batch[i].At = billing.NewID(billing.RequestIDPrefix, at), at
		}
		if _, err := s.Post(b.Context(), node, batch[:size]); err != nil {
			b.Fatal(err)
		}
	}
	for range verifiedRows / size {
		more(size, 365*24*time.Hour/verifiedRows)
	}
	verify := func(b *testing.B, mode billing.VerifyMode) {
		v, err := s.Verify(b.Context(), billing.VerifyOptions{Mode: mode})
		if err != nil || v.Imbalance() != 0 {
			b.Errorf("failed checks %+v, %v", v.Failed(), err)
		}
	}
	b.Run("first", func(b *testing.B) { verify(b, billing.Incremental) })
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			verify(b, billing.Full)
		}
	})
	b.Run("nothing new", func(b *testing.B) {
		for b.Loop() {
			verify(b, billing.Incremental)
		}
	})
	b.Run("1000 new", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			more(size, time.Millisecond)
			b.StartTimer()
			verify(b, billing.Incremental)
		}
	})
	b.Run("post alone", func(b *testing.B) { postLatency(b, more, func() {}) })
	b.Run("post while verifying", func(b *testing.B) {
		postLatency(b, more, func() { verify(b, billing.Full) })
	})
}

// postLatency posts settlements one by one while f runs, at least for a second.
func postLatency(b *testing.B, more func(size int, step time.Duration), f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	var took []time.Duration
	for begun := time.Now(); ; {
		start := time.Now()
		more(1, time.Millisecond)
		took = append(took, time.Since(start))
		select {
		case <-done:
			if time.Since(begun) < time.Second {
				continue
			}
		default:
			continue
		}
		break
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs/post")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs/post")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs/post")
}
