package metering

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Money is an amount in nano-USD: 1 USD = 1_000_000_000. Its range is about
// ±9.2 billion USD. Nothing near money is ever a float.
type Money int64

// USD is one dollar.
const USD Money = 1_000_000_000

// ErrInvalidAmount is returned for a text that is not a decimal dollar amount
// with at most nine decimals within Money's range.
var ErrInvalidAmount = errors.New("invalid dollar amount")

// ParseUSD reads a decimal dollar amount such as "2.50" exactly. Exponents,
// signs other than a leading minus, and more than nine decimals are refused
// rather than rounded.
func ParseUSD(s string) (Money, error) {
	n, err := parseDecimal(s, 9)
	if err != nil {
		return 0, fmt.Errorf("%w: %q: %w", ErrInvalidAmount, s, err)
	}
	return Money(n), nil
}

// String formats the amount in dollars with at least two decimals and no
// trailing zeros beyond them: "2.50", "-0.000123".
func (m Money) String() string { return string(m.AppendTo(nil)) }

// AppendTo appends the amount as String has it.
func (m Money) AppendTo(b []byte) []byte {
	u := uint64(m)
	if m < 0 {
		b, u = append(b, '-'), -u
	}
	b = strconv.AppendUint(b, u/uint64(USD), 10)
	point := len(b)
	// The one in front keeps the zeros that follow it; the point takes its place.
	b = strconv.AppendUint(b, uint64(USD)+u%uint64(USD), 10)
	b[point] = '.'
	for len(b) > point+len(".00") && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// parseDecimal reads a plain decimal number and returns it scaled by
// 10^decimals.
func parseDecimal(s string, decimals int) (int64, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, frac, dotted := strings.Cut(digits, ".")
	if whole == "" || (dotted && frac == "") {
		return 0, errors.New("not a decimal number")
	}
	if frac = strings.TrimRight(frac, "0"); len(frac) > decimals {
		return 0, fmt.Errorf("more than %d decimals", decimals)
	}
	var n uint64
	for _, c := range whole + frac + strings.Repeat("0", decimals-len(frac)) {
		if c < '0' || c > '9' {
			return 0, errors.New("not a decimal number")
		}
		if n > (math.MaxInt64-uint64(c-'0'))/10 {
			return 0, errors.New("out of range")
		}
		n = n*10 + uint64(c-'0')
	}
	if negative {
		return -int64(n), nil
	}
	return int64(n), nil
}
