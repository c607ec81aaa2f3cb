// Package journal is a node's write-ahead journal: a local, append-only,
// checksummed record of what open and finished requests owe, ahead of the
// database. It is what makes a settlement survive a crash of the gateway and
// an outage of the database.
//
// A journal is a directory of numbered segment files. Each record is a
// settlement: the one to post if nothing more becomes known about its
// request. A begin record holds an estimate, a progress record a better one, a
// settle record the outcome. Of a request's records the outcome wins, else the
// last one that is whole.
//
// # Damage
//
// What is read back is what was appended, record by record, or nothing: each
// record has a checksum, and none is put together from parts. So no damage
// makes a debit that was not written here. What damage can do is this:
//
//   - A request's outcome is lost and its estimate is not: the estimate is
//     posted, marked as recovered. It is what the request would have cost at
//     least, as far as was known before.
//   - All records of a request are lost: it is not debited. The segment is kept
//     under another name, for a human to look at.
//   - Records come back that were posted before, as from a segment whose removal
//     was undone, or one that was copied or renamed: the store knows their
//     requests and leaves them alone. It keeps an outcome that it has when a
//     recovered estimate comes back. Outcomes win over estimates here too,
//     wherever they are found, so the order of segments decides nothing.
//
// The reader reports what it did not understand and goes on behind it.
package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Sync says when appended records are forced to the disk. Whatever it is, a
// record is handed to the operating system before Append returns, so that
// only a crash of the machine, not of the gateway, can lose one. After a
// failed sync, what the disk holds is unknown and does not get better by
// trying again: begin records are refused until the journal is opened anew.
type Sync string

const (
	// SyncInterval forces records to disk every 50 milliseconds.
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
	syncEvery          = 50 * time.Millisecond
	segmentSuffix      = ".journal"
	damagedSuffix      = ".damaged"
)

var (
	// ErrInUse: another process has the directory open.
	ErrInUse = errors.New("journal directory is in use by another process")
	// ErrNewer: a segment was written by a newer version.
	ErrNewer = errors.New("journal was written by a newer version of the gateway")
	// ErrOtherDatabase: it holds settlements of another database.
	ErrOtherDatabase = errors.New("journal belongs to another database")
	// ErrClosed: the journal has been closed.
	ErrClosed = errors.New("journal is closed")
)

// Options configure a journal. The zero value is the default.
type Options struct {
	// Database is the identity of the store that the settlements are posted
	// to. A journal that holds settlements of another one is not opened. If it
	// is empty, nothing is checked.
	Database    string
	Sync        Sync
	SegmentSize int64

	disk disk
}

// disk is what may be full or failing. Tests bring their own.
type disk struct {
	reserve func(*os.File, int64) ([]byte, error)
	sync    func(*os.File) error
}

// Journal is open for appending. Its methods may be called concurrently.
type Journal struct {
	dir       string
	options   Options
	identity  identity
	lock      *os.File
	directory *os.File // dir itself, to sync the names in it

	mu       sync.Mutex
	segments []*segment // oldest first
	active   *segment   // the newest, appended to; nil while the disk has no room for one
	next     billing.Segment
	unnamed  bool      // the name of a segment may not be on disk yet
	full     error     // why the last attempt at a new segment failed
	retryAt  time.Time // when to try again
	failed   error     // why a sync failed
	aside    aside
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
	// Torn lists what was not understood: the ends of segments that were cut
	// off in the middle of a record, and damage between records.
	Torn []string

	segments []billing.Segment
	damaged  map[billing.Segment]bool // between records
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
	if options.disk.reserve == nil {
		options.disk.reserve = reserve
	}
	if options.disk.sync == nil {
		options.disk.sync = (*os.File).Sync
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create journal directory %s: %w", dir, err)
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("lock journal directory %s: %w", dir, err)
	}
	directory, err := os.Open(dir)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open journal directory: %w", err), lock.Close())
	}
	j := &Journal{
		dir: dir, options: options, lock: lock, directory: directory,
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	recovered, err := j.load()
	if err != nil {
		return nil, nil, errors.Join(err, directory.Close(), lock.Close())
	}
	go j.syncLoop()
	return j, recovered, nil
}

func (j *Journal) load() (*Recovered, error) {
	ids, next, err := segmentIDs(j.dir)
	if err != nil {
		return nil, err
	}
	recovered, err := replay(j.dir, ids)
	if err != nil {
		return nil, err
	}
	if err := j.identify(len(recovered.Settlements)); err != nil {
		return nil, err
	}
	for _, id := range ids { // pending until Forget
		j.segments = append(j.segments, &segment{id: id, pending: 1, damaged: recovered.damaged[id]})
	}
	recovered.segments = ids
	j.next = next
	// A full disk must not keep the caller from posting what is here already,
	// which then makes room.
	if err := j.rotate(); err != nil && !isFull(err) {
		return nil, err
	}
	return recovered, nil
}

// Append writes a record and returns the segment that holds it. The caller
// passes that segment to Posted when the settlement that came of it is in the
// store.
//
// A begin record is refused while the disk is full or failing, and after an
// error nothing of it remains: the request must not be sent. A full disk does
// not refuse the other kinds, for which there is a reserve. Where they could
// not be forced to the disk they remain all the same, since they are true.
// What announces nothing, such as the outcome of a request that was refused,
// is best appended as a begin record: it must not use up the reserve.
func (j *Journal) Append(kind billing.RecordKind, s *billing.Settlement) (billing.Segment, error) {
	j.mu.Lock()
	in, err := j.place(kind, s)
	if err != nil {
		j.mu.Unlock()
		return 0, err
	}
	end := in.size
	j.mu.Unlock()
	if j.options.Sync != SyncAlways {
		return in.id, nil
	}
	if err := j.syncTo(in, end); err != nil {
		if kind == billing.RecordBegin {
			err = errors.Join(err, j.takeBack(in, end, s))
		}
		return 0, err
	}
	return in.id, nil
}

// place puts a record where there is room. The caller holds mu.
func (j *Journal) place(kind billing.RecordKind, s *billing.Settlement) (*segment, error) {
	if j.closed {
		return nil, ErrClosed
	}
	if kind == billing.RecordBegin && j.failed != nil {
		return nil, j.failed
	}
	j.scratch = appendRecord(j.scratch[:0], kind, s)
	if len(j.scratch) > maxRecordSize {
		return nil, fmt.Errorf("append to journal: record of %d bytes", len(j.scratch))
	}
	in, err := j.room(kind, len(j.scratch))
	if err != nil {
		return nil, fmt.Errorf("append to journal: %w", err)
	}
	if err := in.append(j.scratch); err != nil {
		return nil, fmt.Errorf("append to journal: %w", err)
	}
	in.pending++
	return in, nil
}

// takeBack voids the record that ends there, so that a request that was
// refused for it is not replayed as a debit. Others may follow it already.
func (j *Journal) takeBack(in *segment, end int64, s *billing.Settlement) error {
	record := appendRecord(nil, voided, s)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := in.overwrite(end-int64(len(record)), record); err != nil {
		return fmt.Errorf("take back journal record: %w", err)
	}
	in.pending--
	return nil
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
	for len(j.segments) > 0 && j.segments[0] != j.active && j.segments[0].pending <= 0 {
		if err := j.discard(j.segments[0]); err != nil {
			return // tried again with the next batch
		}
		j.segments = j.segments[1:]
	}
}

// discard deletes a segment. One with damage between its records is kept
// under another name, for a human to look at.
func (j *Journal) discard(s *segment) error {
	_ = s.close() // all that it holds is in the store; its room must not stay mapped
	path := j.path(s.id)
	var err error
	if s.damaged {
		err = os.Rename(path, path+damagedSuffix)
	} else {
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Forget drops what was recovered, once it has been posted.
func (j *Journal) Forget(r *Recovered) { j.Posted(r.segments...) }

// Close syncs and closes the journal. Records that are not posted stay.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.stopped
	err := j.sync()

	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		err = errors.Join(err, s.close())
	}
	if j.active != nil && j.active.pending <= 0 && len(j.segments) == 1 {
		err = errors.Join(err, os.Remove(j.path(j.active.id)))
	}
	return errors.Join(err, j.directory.Close(), j.lock.Close())
}
