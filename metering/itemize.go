package metering

import (
	"math/big"
	"strconv"
	"strings"
)

// Calculation is how the price of one request came to be. Its sums are those of
// its lines, exactly; only Money rounds, once.
type Calculation struct {
	Lines []Line
	// Market is the sum of the lines, Discount what is taken off it, and Yours
	// what remains.
	Market, Discount, Yours Exact
}

// Line is what one model did of one kind.
type Line struct {
	RuleID string
	// Model is "" for the one that answered.
	Model    string
	Bucket   string
	Quantity int64
	// Unit is tokens or searches.
	Unit string
	// Rate is for a million units.
	Rate        Money
	LongContext bool
	// Factors apply to tokens only.
	Factors []Factor
	Amount  Exact
	// Text is the line for people: "1,204 input tokens x $2.50/M".
	Text string
}

// Exact is an amount without any rounding, in units of 10^-30 USD: a rate is in
// 10^-9 for a million, three multipliers in thousandths, and a discount in
// millionths.
type Exact struct{ units *big.Int }

const exactDecimals = 30

var nanoUSD = new(big.Int).Exp(big.NewInt(10), big.NewInt(exactDecimals-9), nil)

// Money rounds half up.
func (e Exact) Money() Money {
	half := new(big.Int).Rsh(nanoUSD, 1)
	return Money(half.Add(half, e.units).Quo(half, nanoUSD).Int64())
}

// String is a decimal number of dollars, with all its decimals.
func (e Exact) String() string {
	digits := new(big.Int).Abs(e.units).String()
	if missing := exactDecimals + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - exactDecimals
	text := strings.TrimSuffix(strings.TrimRight(digits[:point]+"."+digits[point:], "0"), ".")
	if e.units.Sign() < 0 {
		return "-" + text
	}
	return text
}

// Itemize calculates the price of a request again, from its usage as a whole.
func (s Sheet) Itemize(total Usage) Calculation {
	rest := total.counts()
	for _, p := range s.Parts {
		for i := range rest {
			if p.Usage != nil {
				rest[i] -= p.Usage[i]
			}
		}
	}
	c := Calculation{Market: Exact{new(big.Int)}}
	for _, p := range s.Parts {
		usage := rest
		if p.Usage != nil {
			usage = *p.Usage
		}
		for i, quantity := range usage {
			if quantity <= 0 {
				continue // as Price takes it
			}
			line := p.line(i, quantity)
			c.Market.units.Add(c.Market.units, line.Amount.units)
			c.Lines = append(c.Lines, line)
		}
	}
	// Market is a multiple of the millionths that a discount is in.
	off := new(big.Int).Mul(c.Market.units, big.NewInt(-int64(s.Discount)))
	c.Discount = Exact{off.Quo(off, big.NewInt(int64(fullDiscount)))}
	c.Yours = Exact{new(big.Int).Add(c.Market.units, c.Discount.units)}
	return c
}

func (p *SheetPart) line(bucket int, quantity int64) Line {
	b := &bucketNames[bucket]
	l := Line{
		RuleID: p.RuleID, Model: p.Model, Bucket: b.name, Quantity: quantity, Unit: "tokens",
		Rate: Money(p.Rates[bucket]), LongContext: p.LongContext,
	}
	scale := big.NewInt(unity)
	text := grouped(quantity) + " " + b.words
	if bucket == tokenBuckets {
		l.Unit = "searches"
		text += " x $" + l.Rate.String() + "/M"
	} else {
		l.Factors = p.Factors
		text += " tokens x $" + l.Rate.String() + "/M"
		for _, f := range p.Factors {
			scale.Mul(scale, big.NewInt(f.PerMille)).Quo(scale, big.NewInt(1000))
			text += " x " + f.String() + " (" + string(f.Dimension) + " " + f.Value + ")"
		}
	}
	if p.LongContext {
		text += ", long context"
	}
	amount := new(big.Int).Mul(big.NewInt(quantity), big.NewInt(p.Rates[bucket]))
	// Units of 10^-9 * 10^-6 * 10^-9, and the millionths of a discount.
	l.Amount = Exact{amount.Mul(amount, scale).Mul(amount, big.NewInt(int64(fullDiscount)))}
	l.Text = text
	return l
}

// String is the factor as a decimal number.
func (f Factor) String() string {
	return Money(f.PerMille * int64(USD) / 1000).String()
}

var bucketNames = [buckets]struct{ name, words string }{
	{"input", "input"}, {"input_audio", "audio input"}, {"input_image", "image input"},
	{"cache_read", "cached input"}, {"cache_read_audio", "cached audio input"},
	{"cache_write", "cache write"}, {"cache_write_long", "long cache write"},
	{"output", "output"}, {"output_audio", "audio output"}, {"output_image", "image output"},
	{"web_search", "web searches"},
}

// grouped writes a positive number with commas between thousands.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
