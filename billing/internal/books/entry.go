package books

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	entryPrefix = "ent_"
	// debitPrefix starts the idempotency keys of usage debits. Append refuses
	// it: another entry with such a key would block the request's debit.
	debitPrefix = "req:"
)

// EntryID returns the id of an organization's entry by its number. Ids of the
// same organization sort as their numbers do.
func EntryID(seq int64) string { return fmt.Sprintf("%s%016d", entryPrefix, seq) }

// EntrySeq returns the number that an entry's id stands for, or ErrNotFound.
func EntrySeq(id string) (int64, error) {
	digits, ok := strings.CutPrefix(id, entryPrefix)
	seq, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || EntryID(seq) != id {
		return 0, fmt.Errorf("entry %q: %w", id, billing.ErrNotFound)
	}
	return seq, nil
}

// NewLine returns an entry that a caller wants to append, without a number and
// a balance.
func NewLine(e billing.Entry) (Line, error) {
	switch e.Type {
	case billing.Purchase, billing.Adjustment, billing.Refund, billing.Dispute:
	default:
		return Line{}, fmt.Errorf("entry of type %q cannot be appended", e.Type)
	}
	switch {
	case e.OrganizationID == "":
		return Line{}, errors.New("entry has no organization")
	case e.Amount == 0:
		return Line{}, errors.New("entry has no amount")
	case e.IdempotencyKey == "":
		return Line{}, errors.New("entry has no idempotency key")
	case strings.HasPrefix(e.IdempotencyKey, debitPrefix):
		return Line{}, fmt.Errorf("idempotency keys that start with %q are reserved", debitPrefix)
	}
	for _, text := range []*string{
		&e.OrganizationID, &e.RequestID, &e.PaymentID, &e.Reason, &e.Actor, &e.IdempotencyKey,
	} {
		*text = Text(*text)
	}
	if e.CreatedAt.IsZero() {
		e.CreatedAt = time.Now()
	}
	e.CreatedAt = Time(e.CreatedAt)
	return Line{Entry: e, Hash: EntryHash(e)}, nil
}

// DebitKey returns the idempotency key of a request's debit.
func DebitKey(requestID string) string { return debitPrefix + requestID }

// Append gives the line its place at the end of an account's ledger.
func (l Line) Append(a Account) (Line, error) {
	a, err := a.add(l.Amount)
	if err != nil {
		return Line{}, err
	}
	l.Seq, l.ID, l.BalanceAfter = a.Entries, EntryID(a.Entries), a.Balance
	return l, nil
}

// Repeats returns nil if the line says what the first one with its idempotency
// key said, else ErrConflict.
func (l Line) Repeats(first Line) error {
	if bytes.Equal(l.Hash, first.Hash) {
		return nil
	}
	return fmt.Errorf("%w: %q", billing.ErrConflict, l.IdempotencyKey)
}

func (a Account) add(amount billing.Money) (Account, error) {
	if overflows(a.Balance, amount) {
		return Account{}, fmt.Errorf("%w: %d and %d more", billing.ErrBalanceRange, a.Balance, amount)
	}
	return Account{Balance: a.Balance + amount, Entries: a.Entries + 1}, nil
}

func overflows(a, b billing.Money) bool {
	if b > 0 {
		return a > math.MaxInt64-b
	}
	return a < math.MinInt64-b
}

// EncodeList returns a list as a JSON array.
func EncodeList[T string | billing.Attempt](list []T) string {
	if len(list) == 0 {
		return "[]"
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic("encode list: " + err.Error()) // strings and numbers always encode
	}
	return string(b)
}

// DecodeList reads what EncodeList wrote. An empty list is nil.
func DecodeList[T string | billing.Attempt](s string) ([]T, error) {
	if s == "[]" {
		return nil, nil
	}
	var list []T
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, fmt.Errorf("decode list %q: %w", s, err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list, nil
}
