package books

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
)

// Sheet is a price sheet as it is stored: once, under the hash of its text.
type Sheet struct {
	Hash []byte
	Text string
}

// sheetHashes are those of a batch, most of which has few sheets.
type sheetHashes map[string][]byte

func (h sheetHashes) of(text string) []byte {
	hash, ok := h[text]
	if !ok {
		sum := sha256.Sum256([]byte(text))
		hash = sum[:]
		h[text] = hash
	}
	return hash
}

// CheckSheet tells whether a stored sheet is the one that a row refers to.
func CheckSheet(text string, hash []byte) error {
	if sum := sha256.Sum256([]byte(text)); len(hash) > 0 && !bytes.Equal(sum[:], hash) {
		return errors.New("the price sheet is not the one of the row")
	}
	return nil
}

// Sheets are those that a store is known to have. The zero value knows none.
type Sheets struct {
	mu    sync.Mutex
	known map[string]bool
}

// maxKnownSheets bounds them: requests that ran on several models have sheets of
// their own.
const maxKnownSheets = 10_000

// Missing returns the sheets of the rows that may not be stored yet, each once,
// in an order that is always the same.
func (s *Sheets) Missing(rows []Row) []Sheet {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []Sheet
	for i := range rows {
		r := &rows[i]
		if len(r.Sheet) == 0 || s.known[string(r.Sheet)] {
			continue
		}
		at, found := slices.BinarySearchFunc(missing, r.Sheet, func(m Sheet, hash []byte) int { return bytes.Compare(m.Hash, hash) })
		if !found {
			missing = slices.Insert(missing, at, Sheet{Hash: r.Sheet, Text: r.PriceSheet})
		}
	}
	return missing
}

// Stored is told of sheets after the commit that has stored them.
func (s *Sheets) Stored(sheets []Sheet) {
	if len(sheets) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known)+len(sheets) > maxKnownSheets {
		s.known = make(map[string]bool)
	}
	for _, sheet := range sheets {
		s.known[string(sheet.Hash)] = true
	}
}
