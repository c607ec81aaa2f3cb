package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
	"github.com/danielgtaylor/huma/v2"
)

// dollars is an amount in answers: a JSON number with all its decimals.
type dollars billing.Money

func (d dollars) MarshalJSON() ([]byte, error) {
	return []byte(trimDecimal(billing.Money(d).String())), nil
}

// Schema is that of a field that may be null, which is a nil pointer.
func (dollars) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Nullable: true}
}

// dollarText is an amount in requests, as it was written: a JSON number or a
// string with a decimal number. A float would round it.
type dollarText json.RawMessage

func (d *dollarText) UnmarshalJSON(b []byte) error {
	*d = append((*d)[:0], b...)
	return nil
}

// Schema leaves the checks to amount, which says more of what is wrong. Its
// type is an extension because huma's schemas have one type only.
func (dollarText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Extensions: map[string]any{
		"type":    []string{"number", "string", "null"},
		"minimum": 0,
		"pattern": `^[0-9]+(\.[0-9]+)?$`,
	}}
}

// amount reads the text exactly.
func (d dollarText) amount() (billing.Money, error) {
	m, err := d.signed()
	if err == nil && m < 0 {
		return 0, errors.New("expected an amount of at least 0")
	}
	return m, err
}

// signed reads an amount that may be negative.
func (d dollarText) signed() (billing.Money, error) {
	text := string(d)
	switch c := text[0]; {
	case c == '"':
		if err := json.Unmarshal(d, &text); err != nil {
			return 0, fmt.Errorf("reading a string: %w", err)
		}
	case c == '-' || (c >= '0' && c <= '9'):
		text = plainDecimal(text)
	default:
		return 0, errors.New("expected a number or a decimal string")
	}
	m, err := metering.ParseUSD(text)
	if err != nil {
		return 0, errors.New("expected a decimal amount with at most 9 decimals, below 9.2 billion")
	}
	return m, nil
}

// signedDollarText is an amount in requests that must be there and may be
// negative.
type signedDollarText struct{ dollarText }

// Schema leaves the checks to signed.
func (signedDollarText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Extensions: map[string]any{
		"type":    []string{"number", "string"},
		"pattern": `^-?[0-9]+(\.[0-9]+)?$`,
	}}
}

// maxShift is beyond any exponent that a representable amount is written with.
const maxShift = 400

// plainDecimal writes a JSON number without its exponent: 1.5e-3 as 0.0015.
// An exponent beyond maxShift is left there, so that the number is refused,
// instead of a page of zeros being written.
func plainDecimal(number string) string {
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(number), "e")
	if !scientific {
		return number
	}
	shift, err := strconv.Atoi(exponent)
	if err != nil || shift < -maxShift || shift > maxShift {
		return number
	}
	digits, negative := strings.CutPrefix(mantissa, "-")
	whole, frac, _ := strings.Cut(digits, ".")
	if shift < 0 {
		whole = strings.Repeat("0", -shift) + whole
	} else {
		frac += strings.Repeat("0", shift)
	}
	point := len(whole) + shift
	all := whole + frac
	plain := all[:point] + "." + all[point:] + "0"
	if negative {
		return "-" + plain
	}
	return plain
}

// trimDecimal drops the zeros that end a number with a decimal point.
func trimDecimal(number string) string {
	return strings.TrimSuffix(strings.TrimRight(number, "0"), ".")
}
