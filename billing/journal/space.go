package journal

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	// outcomeReserve is the room behind the end of each segment that only
	// progress and settle records may use, when the disk has none for the next
	// segment: for the outcomes of some 10,000 requests that were begun before.
	outcomeReserve = 4 << 20
	// retryFull is how long no other segment is tried after one failed: making
	// room on a full disk is slow, and each request that is refused would ask.
	retryFull = 100 * time.Millisecond
)

// room returns the segment that takes a record of so many bytes. The caller
// holds mu.
func (j *Journal) room(kind billing.RecordKind, n int) (*segment, error) {
	if j.active != nil && j.active.takes(n, j.options.SegmentSize) {
		return j.active, nil
	}
	err := j.rotate()
	switch {
	case err == nil:
		return j.active, nil
	case j.active == nil:
		return nil, err
	case len(j.segments) == 1 && j.active.pending <= 0:
		// Not while older ones are there: what began in one of those would be
		// left without its outcome.
		return j.active, j.reuse()
	case kind != billing.RecordBegin:
		return j.active, nil // into its reserve
	default:
		return nil, err
	}
}

// ordinaryRecord is more than most begin records have, in bytes.
const ordinaryRecord = 1 << 10

// Ready returns why begin records are refused at present, if they are. It
// writes nothing while there is room. When there is none it does what the next
// begin record would do to make some: so a disk that is full no more is noticed
// without any requests.
func (j *Journal) Ready() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if j.failed != nil {
		return j.failed
	}
	if _, err := j.room(billing.RecordBegin, ordinaryRecord); err != nil {
		return fmt.Errorf("journal has no room: %w", err)
	}
	return nil
}

// rotate starts a new segment. The one that is full is synced by those who
// appended to it, or by the sync loop. The caller holds mu, or nobody else
// has j yet.
func (j *Journal) rotate() error {
	now := time.Now()
	if now.Before(j.retryAt) {
		return j.full
	}
	next, err := j.createSegment()
	if err != nil {
		j.full, j.retryAt = err, now.Add(retryFull)
		return err
	}
	j.next++
	j.segments = append(j.segments, next)
	j.active = next
	j.unnamed = true
	return nil
}

// createSegment makes the next segment. No record may come before the note of
// the database that it belongs to.
func (j *Journal) createSegment() (*segment, error) {
	if err := j.noteDatabase(); err != nil {
		return nil, err
	}
	return createSegment(j.path(j.next), j.next, j.options)
}

// reuse empties the only segment, all of which is posted. The caller holds mu.
func (j *Journal) reuse() error {
	if err := j.active.clear(); err != nil {
		return err
	}
	// A sync that is under way is about what was there before.
	fresh := *j.active
	fresh.synced = 0
	j.active, j.segments[0] = &fresh, &fresh
	return nil
}

// isFull tells whether there was no room, or no more of it for this user.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
