package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// A segment is the header, then records: a 4-byte length and a 4-byte CRC-32C
// of the payload, both little-endian, and the payload: the record's kind and
// the settlement's fields in the order of visit. Numbers are varints, texts
// are length-prefixed and have no NUL, as no database text has. A length has
// one, so that no text of a client can hold what a reader that looks for the
// next record would take for one. Fields are only ever added at the end; a record that
// ends early leaves the rest zero.
const (
	magic         = "LLMGWJ"
	version       = '1'
	header        = magic + string(version) + "\n"
	recordHeader  = 8
	maxRecordSize = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// voided is the kind of a record that was taken back: it says nothing.
const voided billing.RecordKind = 0

// errDamaged: a record's bytes are not what was written.
var errDamaged = errors.New("damaged record")

func appendRecord(b []byte, kind billing.RecordKind, s *billing.Settlement) []byte {
	start := len(b)
	e := codec{b: append(b, 0, 0, 0, 0, 0, 0, 0, 0, byte(kind))}
	visit(&e, s)
	payload := e.b[start+recordHeader:]
	binary.LittleEndian.PutUint32(e.b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(e.b[start+4:], crc32.Checksum(payload, castagnoli))
	return e.b
}

// nextRecord reads the record at the start of b and returns its size.
func nextRecord(b []byte) (billing.RecordKind, billing.Settlement, int, error) {
	var none billing.Settlement
	if len(b) < recordHeader {
		return 0, none, 0, errDamaged
	}
	size := binary.LittleEndian.Uint32(b)
	if size > maxRecordSize || int(size) > len(b)-recordHeader {
		return 0, none, 0, errDamaged
	}
	payload := b[recordHeader : recordHeader+int(size)]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, none, 0, errDamaged
	}
	kind, s, err := decodeRecord(payload)
	return kind, s, recordHeader + int(size), err
}

func decodeRecord(payload []byte) (billing.RecordKind, billing.Settlement, error) {
	var s billing.Settlement
	if len(payload) == 0 {
		return 0, s, errDamaged
	}
	kind := billing.RecordKind(payload[0])
	if kind > billing.RecordSettle {
		return 0, s, fmt.Errorf("%w: record kind %d", ErrNewer, kind)
	}
	d := codec{b: payload[1:], reading: true}
	visit(&d, &s)
	if d.damaged {
		return 0, s, errDamaged
	}
	return kind, s, nil
}

// codec writes a settlement's fields to b, or reads them from it. It is one
// type rather than an interface with two, so that nothing escapes to the heap
// on the request path.
type codec struct {
	b       []byte
	reading bool
	damaged bool
}

// visit names a settlement's fields once, for both directions.
func visit(c *codec, s *billing.Settlement) {
	c.text(&s.RequestID)
	c.text(&s.OrganizationID)
	c.text(&s.KeyID)
	c.text(&s.KeyName)
	instant(c, &s.At)
	c.text(&s.Provider)
	c.text(&s.Model)
	c.text(&s.Endpoint)
	visitUsage(c, &s.Usage)
	text(c, &s.UsageSource)
	flag(c, &s.UsageMismatch)
	c.text(&s.ServiceTier)
	number(c, &s.Cost)
	number(c, &s.MarketCost)
	c.text(&s.PriceRuleID)
	number(c, &s.Latency)
	number(c, &s.TTFB)
	number(c, &s.Status)
	c.text(&s.Error)
	c.text(&s.ClientIP)
	c.text(&s.UserAgent)
	flag(c, &s.Streaming)
	number(c, &s.Attempts)
	flag(c, &s.Recovered)
	visitTexts(c, &s.Changes)
	c.text(&s.Project)
	visitAttempts(c, &s.AttemptLog)
	c.text(&s.PriceSheet)
}

func visitUsage(c *codec, u *metering.Usage) {
	for _, n := range []*int64{
		&u.Input, &u.InputAudio, &u.InputImage,
		&u.CacheRead, &u.CacheReadAudio, &u.CacheWrite, &u.CacheWriteLong,
		&u.Output, &u.OutputAudio, &u.OutputImage, &u.WebSearches, &u.Reasoning,
	} {
		c.number(n)
	}
}

func visitTexts(c *codec, list *[]string) {
	n := int64(len(*list))
	c.number(&n)
	for i := range n {
		if c.damaged || c.reading && len(c.b) == 0 {
			c.damaged = true // the count claims more than there is
			return
		}
		if i == int64(len(*list)) {
			*list = append(*list, "")
		}
		c.text(&(*list)[i])
	}
}

func visitAttempts(c *codec, list *[]billing.Attempt) {
	n := int64(len(*list))
	c.number(&n)
	for i := range n {
		if c.damaged || c.reading && len(c.b) == 0 {
			c.damaged = true // the count claims more than there is
			return
		}
		if i == int64(len(*list)) {
			*list = append(*list, billing.Attempt{})
		}
		a := &(*list)[i]
		c.text(&a.Provider)
		c.text(&a.Model)
		c.text(&a.Credential)
		number(c, &a.Status)
		c.text(&a.Error)
		number(c, &a.Duration)
	}
}

// instant keeps microseconds, as the stores do.
func instant(c *codec, t *time.Time) {
	us := t.UnixMicro()
	c.number(&us)
	*t = time.UnixMicro(us).UTC()
}

func flag(c *codec, f *bool) {
	var n int64
	if *f {
		n = 1
	}
	c.number(&n)
	*f = n != 0
}

func number[T ~int | ~int64](c *codec, v *T) {
	n := int64(*v)
	c.number(&n)
	*v = T(n)
}

func text[T ~string](c *codec, v *T) {
	s := string(*v)
	c.text(&s)
	*v = T(s)
}

// number and text write their argument, or read into it.
func (c *codec) number(n *int64) {
	if !c.reading {
		c.b = binary.AppendVarint(c.b, *n)
		return
	}
	if *n = 0; len(c.b) == 0 {
		return
	}
	v, size := binary.Varint(c.b)
	if size <= 0 {
		c.damaged, c.b = true, nil
		return
	}
	*n, c.b = v, c.b[size:]
}

func (c *codec) text(s *string) {
	if !c.reading {
		plain := strings.ReplaceAll(*s, "\x00", "\uFFFD")
		c.b = binary.AppendUvarint(c.b, uint64(len(plain)))
		c.b = append(c.b, plain...)
		return
	}
	if *s = ""; len(c.b) == 0 {
		return
	}
	n, size := binary.Uvarint(c.b)
	if size <= 0 || n > uint64(len(c.b)-size) {
		c.damaged, c.b = true, nil
		return
	}
	*s = string(c.b[size : size+int(n)])
	c.b = c.b[size+int(n):]
}
