package admin

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestSavingsAreExactToTwoDecimals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cost, market billing.Money
		want         string
	}{
		{0, 0, "0"},
		{5, 0, "0"},
		{100, 100, "0"},
		{80, 100, "20"},
		{0, 100, "100"},
		{2, 3, "33.33"},
		{1, 3, "66.67"},
		{875, 1000, "12.5"},
		{99_995, 100_000, "0.01"},   // 0.005 % is rounded up
		{199_991, 200_000, "0"},     // 0.0045 % is rounded down
		{110, 100, "-10"},           // dearer than the market
		{100_005, 100_000, "-0.01"}, // -0.005 % is rounded away from zero
		{0, math.MaxInt64, "100"},   // beyond 64 bits on the way
		{math.MaxInt64, 1, "-922337203685477580600"},
	} {
		got, err := json.Marshal(savings(c.cost, c.market))
		if err != nil || string(got) != c.want {
			t.Errorf("savings(%d, %d) = %s, %v, want %s", c.cost, c.market, got, err, c.want)
		}
	}
}

func TestDollarTextIsTakenExactly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want billing.Money
	}{
		{`0`, 0}, {`-0`, 0}, {`0.0`, 0}, {`0e0`, 0}, {`0.1`, 100_000_000},
		{`1e-9`, 1}, {`1E-9`, 1}, {`0.000000001`, 1}, {`"0.000000001"`, 1}, {`10e-10`, 1},
		{`123456789.123456789`, 123_456_789_123_456_789},
		{`"123456789.123456789"`, 123_456_789_123_456_789},
		{`1.5e3`, 1_500_000_000_000}, {`1.5e+3`, 1_500_000_000_000}, {`1500e-3`, 1_500_000_000}, {`1.234e1`, 12_340_000_000},
		{`0.1000000000000`, 100_000_000},
		{`9223372036.854775807`, math.MaxInt64},
	} {
		got, err := dollarText(c.text).amount()
		if err != nil || got != c.want {
			t.Errorf("%s is %d, %v, want %d", c.text, got, err, c.want)
		}
	}
}

func TestDollarTextIsRefusedRatherThanRounded(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`0.0000000001`, `1e-10`, `"0.0000000001"`, `1.5e-9`, `123456789.1234567891`,
		`9223372036.854775808`, `1e10`, `1e400`, `1e999999999999999999999`, `1e-400`, `1e-999999999`,
		`-1`, `"-0.01"`, `-1e-9`, `"1e2"`, `"1,50"`, `" 1"`, `"$5"`, `""`, `"NaN"`, `"Infinity"`, `"."`, `"1."`, `".5"`,
		`"\u0661"`, `true`, `{}`, `[1]`,
	} {
		if got, err := dollarText(text).amount(); err == nil {
			t.Errorf("%s is %d, want an error", text, got)
		}
	}
}

func TestDollarsAreWrittenWithAllDecimals(t *testing.T) {
	t.Parallel()
	for amount, want := range map[dollars]string{
		0: "0", 1: "0.000000001", 100_000_000: "0.1", 12_500_000_000: "12.5", 100_000_000_000: "100",
		123_456_789_123_456_789: "123456789.123456789",
	} {
		if got, err := json.Marshal(amount); err != nil || string(got) != want {
			t.Errorf("%d is written as %s, %v, want %s", int64(amount), got, err, want)
		}
	}
}
