package metering_test

import (
	"math"
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestMoneyReadsAsItIsWritten(t *testing.T) {
	t.Parallel()
	for amount, want := range map[metering.Money]string{
		0: "0.00", 1: "0.000000001", 10: "0.00000001", -123_000: "-0.000123", 100_000_000: "0.10", 990_000_000: "0.99",
		2_500_000_000: "2.50", -1_250_000_001: "-1.250000001", 10_000_000_000: "10.00", 1_001_000_000_000: "1001.00",
		math.MaxInt64: "9223372036.854775807", math.MinInt64 + 1: "-9223372036.854775807",
	} {
		if got := amount.String(); got != want {
			t.Errorf("%d nano-USD read %q, want %q", int64(amount), got, want)
		}
		if got := string(amount.AppendTo([]byte("USD "))); got != "USD "+want {
			t.Errorf("%d nano-USD are appended as %q, want %q", int64(amount), got, "USD "+want)
		}
		if got, err := metering.ParseUSD(want); err != nil || got != amount {
			t.Errorf("ParseUSD(%q) = %d, %v", want, got, err)
		}
	}
}
