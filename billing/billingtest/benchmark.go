package billingtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Benchmark measures how long a settlement takes to post, alone and in batches,
// out of leases as on a gateway's node, and what that costs this process in
// processor time.
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
	for _, size := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			batch := make([]billing.Settlement, size)
			for i := range batch {
				batch[i] = settlement(i, usd/1000)
				batch[i].Changes = nil
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
