package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// rejectedFile has the settlements that the store cannot book, for a human.
const rejectedFile = "rejected.jsonl"

// rejection is a line of that file. Amounts are nano-USD, durations nanoseconds.
type rejection struct {
	RejectedAt time.Time       `json:"rejected_at"`
	Reason     string          `json:"reason"`
	Node       string          `json:"node"`
	Database   string          `json:"database"`
	Settlement json.RawMessage `json:"settlement"`
}

// aside is the state of the file.
type aside struct {
	mu sync.Mutex
	// known are the settlements that the file has; nil before it was read.
	known map[string]bool
}

// SetAside writes a settlement that cannot be booked to a file in the journal's
// directory and returns the file's name. When it returns without an error, the
// line is on disk, whatever the options say of syncing, and the settlement's
// records are no longer needed. One that is there already is not written again.
func (j *Journal) SetAside(s *billing.Settlement, reason string) (file string, err error) {
	file = filepath.Join(j.dir, rejectedFile)
	settlement, err := encodeRejected(s)
	if err != nil {
		return file, fmt.Errorf("set aside %q: %w", s.RequestID, err)
	}
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return file, ErrClosed
	}
	j.aside.mu.Lock()
	defer j.aside.mu.Unlock()
	if j.aside.known == nil {
		if j.aside.known, err = readRejected(file); err != nil {
			return file, fmt.Errorf("set aside %q: %w", s.RequestID, err)
		}
	}
	if j.aside.known[string(settlement)] {
		return file, nil
	}
	line, err := json.Marshal(rejection{
		RejectedAt: time.Now().UTC(), Reason: reason,
		Node: j.identity.node, Database: j.options.Database, Settlement: settlement,
	})
	if err == nil {
		err = appendLine(file, line)
	}
	if err != nil {
		return file, fmt.Errorf("set aside %q: %w", s.RequestID, err)
	}
	j.aside.known[string(settlement)] = true
	return file, nil
}

// encodeRejected writes all fields. Its time may be one that JSON's own format
// has no form for.
func encodeRejected(s *billing.Settlement) ([]byte, error) {
	return json.Marshal(struct {
		*billing.Settlement
		At string
	}{s, s.At.UTC().Format(time.RFC3339Nano)})
}

// readRejected returns the settlements in the file. A line whose end was not
// written has none.
func readRejected(path string) (map[string]bool, error) {
	known := make(map[string]bool)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(b) {
		var r rejection
		if err := json.Unmarshal(line, &r); err == nil {
			known[string(r.Settlement)] = true
		}
	}
	return known, nil
}

// appendLine adds a line to the file. After an error nothing of it remains.
func appendLine(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	size := info.Size()
	line = append(line, '\n')
	if last := make([]byte, 1); size > 0 {
		if _, err := f.ReadAt(last, size-1); err != nil {
			return errors.Join(err, f.Close())
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err = f.WriteAt(line, size); err == nil {
		err = f.Sync()
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(size))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}
