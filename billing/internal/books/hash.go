package books

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// settlement adds all that a settlement says. Recovered is left out: it tells
// how the settlement came to be, not what it says.
func (d *digest) settlement(s *billing.Settlement, sheet []byte) {
	u := &s.Usage
	d.text(s.RequestID, s.OrganizationID, s.KeyID, s.KeyName)
	d.number(s.At.UnixMicro())
	d.text(s.Provider, s.Model, s.Endpoint)
	d.number(u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio,
		u.CacheWrite, u.CacheWriteLong, u.Output, u.OutputAudio, u.OutputImage,
		u.WebSearches, u.Reasoning)
	d.text(string(s.UsageSource), s.ServiceTier, s.PriceRuleID)
	d.flag(s.UsageMismatch, s.Streaming)
	d.number(int64(s.Cost), int64(s.MarketCost), int64(s.Latency), int64(s.TTFB),
		int64(s.Status), int64(s.Attempts))
	d.text(s.Error, s.ClientIP, s.UserAgent)
	d.number(int64(len(s.Changes)))
	d.text(s.Changes...)
	// What is newer than rows that are stored counts only where it says
	// something, so that theirs keep their hashes.
	if s.Project != "" {
		d.text("project", s.Project)
	}
	for _, a := range s.AttemptLog {
		d.text("attempt", a.Provider, a.Model, a.Credential, a.Error)
		d.number(int64(a.Status), int64(a.Duration))
	}
	if len(sheet) > 0 {
		d.text("price sheet", string(sheet))
	}
}

// EntryHash returns the hash of what the caller of Append said. Times, ids and
// balances are not part of it, so that a redelivered event is recognized.
func EntryHash(e billing.Entry) []byte {
	d := make(digest, 0, 256)
	d.text(e.OrganizationID, string(e.Type))
	d.number(int64(e.Amount))
	d.text(e.RequestID, e.PaymentID, e.Reason, e.Actor)
	return d.appendSum(nil)
}

// ContentHash returns the hash that the row of a settlement has, from the
// columns that are stored. Of the price sheet this is the hash.
func ContentHash(s *billing.Settlement, sheet []byte) []byte {
	d := make(digest, 0, 1024)
	d.settlement(s, sheet)
	return d.appendSum(nil)
}

// Chain returns the hash of an organization's ledger up to a line, from the
// hash up to the line before: it stands for all columns of all of them.
func Chain(before []byte, l *Line) []byte {
	d := make(digest, 0, 512)
	d.text(string(before), l.OrganizationID, string(l.Type), l.RequestID, l.PaymentID, l.Reason, l.Actor,
		l.IdempotencyKey, string(l.Hash))
	d.number(l.Seq, int64(l.Amount), int64(l.BalanceAfter), l.CreatedAt.UnixMicro())
	return d.appendSum(nil)
}

// digest collects fields so that no two different lists of them collide:
// numbers have a fixed width, texts are preceded by their length.
type digest []byte

func (d *digest) number(values ...int64) {
	for _, v := range values {
		*d = binary.BigEndian.AppendUint64(*d, uint64(v))
	}
}

func (d *digest) text(values ...string) {
	for _, v := range values {
		d.number(int64(len(v)))
		*d = append(*d, v...)
	}
}

func (d *digest) flag(values ...bool) {
	for _, v := range values {
		b := byte(0)
		if v {
			b = 1
		}
		*d = append(*d, b)
	}
}

// appendSum appends the hash of the fields.
func (d *digest) appendSum(to []byte) []byte {
	h := sha256.Sum256(*d)
	return append(to, h[:]...)
}
