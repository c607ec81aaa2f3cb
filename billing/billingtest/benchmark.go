package billingtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Benchmark measures how long a settlement takes to post, alone and in batches,
// out of leases as on a gateway's node.
func Benchmark(b *testing.B, s billing.Store) {
	err := s.EnsureOrganization(b.Context(), billing.Organization{ID: org, CreatedAt: noon})
	if err == nil {
		err = s.CreateKey(b.Context(), newKey(key, org, pointer(1_000_000_000*usd), billing.Monthly))
	}
	if err == nil {
		_, err = s.Append(b.Context(), purchase(1_000_000_000*usd, "purchase"))
	}
	if err == nil {
		_, err = s.Lease(b.Context(), node, []billing.Lease{
			credits(900_000_000 * usd), keySpend(key, billing.Monthly, 900_000_000*usd),
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	var serial int
	for _, size := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			batch := make([]billing.Settlement, size)
			for b.Loop() {
				for i := range batch {
					serial++
					batch[i] = settlement(serial, usd/1000)
					batch[i].Changes = nil
				}
				if _, err := s.Post(b.Context(), node, batch); err != nil {
					b.Fatal(err)
				}
			}
			perSettlement := b.Elapsed() / time.Duration(b.N*size)
			b.ReportMetric(float64(perSettlement.Nanoseconds())/1000, "µs/settlement")
		})
	}
}
