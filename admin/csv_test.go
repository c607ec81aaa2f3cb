package admin

import (
	"io"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Not parallel: allocations are counted for the whole process. Files have
// millions of rows, and each row many cells: what each of these allocated would
// be most of what a gateway does during an export.
func TestRowsOfCSVFilesLeaveLittleBehind(t *testing.T) {
	s := request("r00001", "key_a", day(1, 12), 1_500_000_001)
	s.MarketCost, s.UserAgent = s.Cost+1, "=OpenAI/Python 2.8.1"
	s.AttemptLog = []billing.Attempt{{Provider: "openai", Model: "gpt-4o", Credential: "default", Status: 200, Duration: time.Second}}
	encode := newCSVEncoder(io.Discard, auditColumns)
	var row AuditRow
	allocations := testing.AllocsPerRun(1000, func() {
		row = newAuditRow(s)
		if err := encode.add(&row); err != nil {
			t.Fatal(err)
		}
	})
	// The text of the record, the attempts as JSON, and what is null or not.
	if allocations > 10 {
		t.Errorf("%.0f allocations a row of %d cells", allocations, len(auditColumns))
	}
}
