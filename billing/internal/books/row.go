// Package books is the bookkeeping that both stores share: what a settlement
// looks like once stored, what a batch of them adds up to, how much of an
// allowance is left. It does no I/O.
package books

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// Row is a settlement in the form that it is stored in.
type Row struct {
	// The settlement of the batch, if it has that form already but for its
	// time. It is long, and must not be changed.
	*billing.Settlement
	// At is the settlement's time as it is stored.
	At time.Time
	// Hash of the content, by which a replay is told from a conflict.
	Hash []byte
	// Sheet is the hash of the price sheet; empty, but not nil, without one.
	Sheet []byte
}

// NewRows returns the settlements of a batch as rows. It refuses the batch with
// billing.ErrInvalid if one of them cannot be booked at all.
func NewRows(batch []billing.Settlement) ([]Row, error) {
	rows := make([]Row, len(batch))
	hashes := make([]byte, 0, len(batch)*sha256.Size)
	var (
		cost, marketCost billing.Money
		d                digest
		sheets           = sheetHashes{"": {}}
	)
	for i := range batch {
		s := &batch[i]
		if err := check(s); err != nil {
			return nil, Invalid(s.RequestID, err)
		}
		if overflows(cost, s.Cost) || overflows(marketCost, s.MarketCost) {
			return nil, Invalid(s.RequestID, errors.New("costs of the batch overflow"))
		}
		cost, marketCost = cost+s.Cost, marketCost+s.MarketCost
		s = canonical(s)
		sheet := sheets.of(s.PriceSheet)
		d = d[:0]
		d.settlement(s, sheet)
		hashes = d.appendSum(hashes)
		rows[i] = Row{Settlement: s, At: Time(s.At), Hash: hashes[len(hashes)-sha256.Size:], Sheet: sheet}
	}
	return rows, nil
}

// ConflictsWith tells whether the row is at odds with the stored row of the
// same id. A recovered row never is: the stored one is the better witness.
func (r *Row) ConflictsWith(storedHash []byte) bool {
	return !r.Recovered && !bytes.Equal(r.Hash, storedHash)
}

// ID names a row: ids of requests are unique in their organization.
type ID struct{ OrganizationID, RequestID string }

// ID returns the row's name.
func (r *Row) ID() ID { return ID{r.OrganizationID, r.RequestID} }

// Split returns the first row of each inserted id, and all other rows.
func Split(rows []Row, inserted map[ID]bool) (fresh, known []Row) {
	if len(inserted) == len(rows) {
		return rows, nil
	}
	fresh = make([]Row, 0, len(inserted))
	for i := range rows {
		if id := rows[i].ID(); inserted[id] {
			fresh = append(fresh, rows[i])
			delete(inserted, id)
			continue
		}
		known = append(known, rows[i])
	}
	return fresh, known
}

// Invalid says that a settlement cannot be booked, and why.
func Invalid(requestID string, reason error) error {
	return fmt.Errorf("%w: request %q: %w", billing.ErrInvalid, requestID, reason)
}

// Blame says so of a batch, after what the database has said of it. Which of its
// settlements it is may not be known.
func Blame(rows []Row, reason error) error {
	if len(rows) == 1 {
		return Invalid(rows[0].RequestID, reason)
	}
	return fmt.Errorf("%w: one of %d: %w", billing.ErrInvalid, len(rows), reason)
}

// maxTokens bounds each count, so that no sum over a batch overflows. No model
// has a context within many orders of magnitude.
const maxTokens = 1 << 48

func check(s *billing.Settlement) error {
	switch {
	case s.RequestID == "":
		return errors.New("no request id")
	case s.OrganizationID == "":
		return errors.New("no organization")
	case !Always.contains(s.At):
		return fmt.Errorf("time %s out of range", s.At)
	case s.Cost < 0:
		return fmt.Errorf("negative cost %d", s.Cost)
	case s.MarketCost < 0:
		return fmt.Errorf("negative market cost %d", s.MarketCost)
	}
	u := &s.Usage
	for _, n := range [...]int64{
		u.Input, u.InputAudio, u.InputImage, u.CacheRead, u.CacheReadAudio, u.CacheWrite, u.CacheWriteLong,
		u.Output, u.OutputAudio, u.OutputImage, u.WebSearches, u.Reasoning,
	} {
		if n > maxTokens || n < -maxTokens {
			return fmt.Errorf("usage of %d tokens", n)
		}
	}
	return nil
}

// canonical returns the settlement, or one in its place whose text is valid in
// both stores. Headers may hold any bytes; one that a database refuses would
// block its whole batch forever.
func canonical(s *billing.Settlement) *billing.Settlement {
	if isCanonical(s) {
		return s
	}
	valid := *s
	for _, text := range textsOf(&valid) {
		*text = Text(*text)
	}
	valid.UsageSource = metering.Source(Text(string(s.UsageSource)))
	valid.Changes = texts(s.Changes)
	valid.AttemptLog = slices.Clone(s.AttemptLog)
	for i := range valid.AttemptLog {
		a := &valid.AttemptLog[i]
		a.Provider, a.Model = Text(a.Provider), Text(a.Model)
		a.Credential, a.Error = Text(a.Credential), Text(a.Error)
	}
	return &valid
}

// isCanonical is false for some texts that are valid.
func isCanonical(s *billing.Settlement) bool {
	for _, text := range textsOf(s) {
		if !isASCII(*text) {
			return false
		}
	}
	for _, change := range s.Changes {
		if !isASCII(change) {
			return false
		}
	}
	for _, a := range s.AttemptLog {
		if !isASCII(a.Provider) || !isASCII(a.Model) || !isASCII(a.Credential) || !isASCII(a.Error) {
			return false
		}
	}
	return isASCII(string(s.UsageSource))
}

func textsOf(s *billing.Settlement) [14]*string {
	return [...]*string{
		&s.RequestID, &s.OrganizationID, &s.KeyID, &s.KeyName, &s.Project, &s.Provider, &s.Model,
		&s.Endpoint, &s.ServiceTier, &s.PriceRuleID, &s.PriceSheet, &s.Error, &s.ClientIP, &s.UserAgent,
	}
}

// Time returns t as stores keep it: UTC, in whole microseconds.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Text returns s without what a database text cannot hold: bytes that are not
// UTF-8, and NUL.
func Text(s string) string {
	const replacement = "\uFFFD"
	if isASCII(s) {
		return s
	}
	s = strings.ToValidUTF8(s, replacement)
	return strings.ReplaceAll(s, "\x00", replacement)
}

// isASCII tells whether s is ASCII without NUL, as nearly all texts are.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i]-1 >= utf8.RuneSelf-1 {
			return false
		}
	}
	return true
}

func texts(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	valid := make([]string, len(list))
	for i, s := range list {
		valid[i] = Text(s)
	}
	return valid
}
