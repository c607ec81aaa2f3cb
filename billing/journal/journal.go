// Package journal is a node's write-ahead journal: a local, append-only,
// checksummed record of what open and finished requests owe, ahead of the
// database. It is what makes a settlement survive a crash of the gateway and
// an outage of the database.
//
// A journal is a directory of numbered segment files. Each record is a
// settlement: the one to post if nothing more becomes known about its
// request. A begin record holds an estimate, a settle record the outcome. The
// last record of a request wins.
package journal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Sync says when appended records are forced to the disk. Whatever it is, a
// record is handed to the operating system before Append returns, so that
// only a crash of the machine, not of the gateway, can lose one.
type Sync string

const (
	// SyncInterval forces records to disk every few milliseconds.
	SyncInterval Sync = "interval"
	// SyncAlways forces each record to disk before Append returns; appends
	// that wait at the same time share one sync.
	SyncAlways Sync = "always"
	// SyncOff leaves it to the operating system.
	SyncOff Sync = "off"
)

const (
	// DefaultSegmentSize is where a segment ends and the next one starts.
	DefaultSegmentSize = 16 << 20
	syncEvery          = 20 * time.Millisecond
	segmentSuffix      = ".journal"
	nodeFile           = "node"
)

var (
	// ErrInUse: another process has the directory open.
	ErrInUse = errors.New("journal directory is in use by another process")
	// ErrNewer: a segment was written by a newer version.
	ErrNewer = errors.New("journal was written by a newer version of the gateway")
	// ErrClosed: the journal has been closed.
	ErrClosed = errors.New("journal is closed")
)

// Options configure a journal. The zero value is the default.
type Options struct {
	Sync        Sync
	SegmentSize int64
}

// Journal is open for appending. Its methods may be called concurrently.
type Journal struct {
	dir     string
	options Options
	node    string
	lock    *os.File

	mu       sync.Mutex
	segments []*segment // oldest first; the last one is appended to
	scratch  []byte
	closed   bool

	syncing sync.Mutex // held while a sync runs; taken before mu
	stop    chan struct{}
	stopped chan struct{}
}

// Recovered is what a journal held when it was opened.
type Recovered struct {
	// Settlements to post, in order of their requests' first record.
	Settlements []billing.Settlement
	// Torn lists segments that ended in an incomplete or damaged record,
	// with what was cut off.
	Torn []string

	segments []billing.Segment
}

// Open opens or creates the journal in dir and reads what is in it. The
// caller posts the recovered settlements and then calls Forget.
func Open(dir string, options Options) (*Journal, *Recovered, error) {
	if options.Sync == "" {
		options.Sync = SyncInterval
	}
	if options.SegmentSize == 0 {
		options.SegmentSize = DefaultSegmentSize
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create journal directory: %w", err)
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("lock journal directory %s: %w", dir, err)
	}
	j := &Journal{dir: dir, options: options, lock: lock, stop: make(chan struct{}), stopped: make(chan struct{})}
	recovered, err := j.load()
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	go j.syncLoop()
	return j, recovered, nil
}

func (j *Journal) load() (*Recovered, error) {
	if err := j.loadNode(); err != nil {
		return nil, err
	}
	ids, err := segmentIDs(j.dir)
	if err != nil {
		return nil, err
	}
	recovered, err := replay(j.dir, ids)
	if err != nil {
		return nil, err
	}
	next := billing.Segment(1)
	for _, id := range ids {
		j.segments = append(j.segments, &segment{id: id, pending: 1}) // until Forget
		recovered.segments = append(recovered.segments, id)
		next = id + 1
	}
	return recovered, j.rotate(next)
}

// Node is this journal's identity: it stays the same for as long as the
// directory does, so that a restarted node finds its own leases again.
func (j *Journal) Node() string { return j.node }

func (j *Journal) loadNode() error {
	path := filepath.Join(j.dir, nodeFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if j.node = strings.TrimSpace(string(b)); j.node == "" {
			return fmt.Errorf("read node id: %s is empty; delete it to get a new one", path)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read node id: %w", err)
	}
	var id [8]byte
	rand.Read(id[:])
	j.node = "node_" + hex.EncodeToString(id[:])
	if err := writeFileSynced(path, []byte(j.node+"\n")); err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	return nil
}

// Append writes a record and returns the segment that holds it. The caller
// passes that segment to Posted when the settlement that came of it is in the
// store. After an error nothing of the record remains.
func (j *Journal) Append(kind billing.RecordKind, s *billing.Settlement) (billing.Segment, error) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return 0, ErrClosed
	}
	active := j.segments[len(j.segments)-1]
	if active.size >= j.options.SegmentSize {
		if err := j.rotate(active.id + 1); err != nil {
			j.mu.Unlock()
			return 0, err
		}
		active = j.segments[len(j.segments)-1]
	}
	j.scratch = appendRecord(j.scratch[:0], kind, s)
	if len(j.scratch) > maxRecordSize {
		j.mu.Unlock()
		return 0, fmt.Errorf("append to journal: record of %d bytes", len(j.scratch))
	}
	if err := active.append(j.scratch); err != nil {
		j.mu.Unlock()
		return 0, fmt.Errorf("append to journal: %w", err)
	}
	active.pending++
	end := active.size
	j.mu.Unlock()
	if j.options.Sync == SyncAlways {
		return active.id, j.syncTo(active, end)
	}
	return active.id, nil
}

// Posted says that records in these segments are no longer needed. Segments
// that nobody needs are deleted, oldest first.
func (j *Journal) Posted(segments ...billing.Segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range segments {
		i, found := slices.BinarySearchFunc(j.segments, id, func(s *segment, id billing.Segment) int {
			return int(s.id) - int(id)
		})
		if found {
			j.segments[i].pending--
		}
	}
	// A segment may go only after all older ones: it may hold the outcome of
	// a request that began in one of those.
	for len(j.segments) > 1 && j.segments[0].pending <= 0 {
		old := j.segments[0]
		if old.file != nil {
			_ = old.file.Close() // all that it holds is in the store
		}
		if err := os.Remove(j.path(old.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return // tried again with the next batch
		}
		j.segments = j.segments[1:]
	}
}

// Forget drops what was recovered, once it has been posted.
func (j *Journal) Forget(r *Recovered) { j.Posted(r.segments...) }

// Size is the number of bytes in the journal's segments since it was opened.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var n int64
	for _, s := range j.segments {
		n += s.size
	}
	return n
}

// Close syncs and closes the journal. Records that are not posted stay.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	active := j.segments[len(j.segments)-1]
	end := active.size
	j.mu.Unlock()
	close(j.stop)
	<-j.stopped
	err := j.syncTo(active, end)
	for _, s := range j.segments {
		err = errors.Join(err, s.close())
	}
	if active.pending <= 0 && len(j.segments) == 1 {
		err = errors.Join(err, os.Remove(j.path(active.id)))
	}
	return errors.Join(err, j.lock.Close())
}

// rotate starts a new segment. The caller holds mu, or nobody else has j yet.
func (j *Journal) rotate(id billing.Segment) error {
	next, err := createSegment(j.path(id), id, j.options.SegmentSize+maxRecordSize)
	if err != nil {
		return err
	}
	if err := j.retire(); err != nil {
		return errors.Join(err, next.close(), os.Remove(j.path(id)))
	}
	j.segments = append(j.segments, next)
	return nil
}

// retire puts the segment that is full, and the name of the next one, on disk.
func (j *Journal) retire() error {
	if j.options.Sync == SyncOff {
		return nil
	}
	if err := syncDirectory(j.dir); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	if len(j.segments) == 0 {
		return nil
	}
	full := j.segments[len(j.segments)-1]
	if full.file == nil {
		return nil
	}
	if err := full.file.Sync(); err != nil {
		return fmt.Errorf("sync journal segment: %w", err)
	}
	full.synced = full.size
	return nil
}
