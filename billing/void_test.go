package billing_test

import (
	"errors"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// TestVoidedHoldsCostNothing voids a hold whose estimate would be charged if a
// replay found it alone.
func TestVoidedHoldsCostNothing(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	b.buy(t, metering.USD)
	estimate, outcome := settlement(5*cent), settlement(0)
	outcome.RequestID, outcome.UsageSource = estimate.RequestID, metering.SourceNone
	h, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{billing.CreditsOf(org)}, Amount: 10 * cent}, &estimate)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Void(&outcome); err != nil {
		t.Fatal(err)
	}
	if h.Void(&outcome) == nil || h.Settle(&estimate) == nil {
		t.Error("a hold could end twice")
	}
	if held := b.authorizer.Held(org); held != 0 {
		t.Errorf("held %s after voiding, want 0", held)
	}
	b.check(t, metering.USD)
	if _, err := b.store.Request(t.Context(), org, estimate.RequestID); !errors.Is(err, billing.ErrNotFound) {
		t.Errorf("the store has a row: %v", err)
	}
	b.crash(t)
	b = openBooks(t, b.dir)
	b.check(t, metering.USD)
}
