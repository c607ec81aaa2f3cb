package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// reserveNothing is a system on which records are written.
func reserveNothing(*os.File, int64) ([]byte, error) { return nil, nil }

// faultyDisk is full, or fails to sync, while it is told to.
type faultyDisk struct {
	full, broken atomic.Bool
	attempts     atomic.Int32 // at reserving room
}

var errBroken = errors.New("input/output error")

func (d *faultyDisk) disk(reserve func(*os.File, int64) ([]byte, error)) disk {
	return disk{
		reserve: func(f *os.File, size int64) ([]byte, error) {
			d.attempts.Add(1)
			if d.full.Load() {
				return nil, fmt.Errorf("reserve: %w", syscall.ENOSPC)
			}
			return reserve(f, size)
		},
		sync: func(f *os.File) error {
			if d.broken.Load() {
				return errBroken
			}
			return f.Sync()
		},
	}
}

// eachDisk runs a test with mapped and with written segments.
func eachDisk(t *testing.T, test func(t *testing.T, d *faultyDisk, options Options)) {
	for name, reserve := range map[string]func(*os.File, int64) ([]byte, error){
		"mapped": reserve, "written": reserveNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &faultyDisk{}
			test(t, d, Options{SegmentSize: 4 << 10, disk: d.disk(reserve)})
		})
	}
}

// begin appends begin records until one is refused, and returns the requests
// that were begun and their segments.
func begin(t *testing.T, j *Journal) (begun []string, segments []billing.Segment) {
	t.Helper()
	for i := range 1000 {
		s := full(t, fmt.Sprintf("req_%03d", i))
		s.Cost = 1
		segment, err := j.Append(billing.RecordBegin, &s)
		if err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("begin %d: %v", i, err)
			}
			return begun, segments
		}
		begun, segments = append(begun, s.RequestID), append(segments, segment)
	}
	t.Fatal("a full disk refused nothing")
	return nil, nil
}

func TestFullDiskTakesTheOutcomesOfWhatWasBegun(t *testing.T) {
	t.Parallel()
	eachDisk(t, func(t *testing.T, d *faultyDisk, options Options) {
		dir := t.TempDir()
		j, _ := open(t, dir, options)
		d.full.Store(true)
		begun, _ := begin(t, j)
		if len(begun) < 5 {
			t.Fatalf("only %d requests fit into a segment", len(begun))
		}
		for _, id := range begun {
			s := full(t, id)
			write(t, j, billing.RecordProgress, s)
			write(t, j, billing.RecordSettle, s)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		_, r := open(t, dir, Options{})
		if got := ids(r.Settlements); !slices.Equal(got, begun) || len(r.Torn) > 0 {
			t.Errorf("recovered %v, torn %v, want %v", got, r.Torn, begun)
		}
		for _, s := range r.Settlements {
			if s.Cost == 1 {
				t.Errorf("%s was recovered as it began", s.RequestID)
			}
		}
	})
}

func TestFullSegmentIsReusedWhenAllOfItIsPosted(t *testing.T) {
	t.Parallel()
	eachDisk(t, func(t *testing.T, d *faultyDisk, options Options) {
		dir := t.TempDir()
		j, _ := open(t, dir, options)
		d.full.Store(true)
		begun, segments := begin(t, j)
		j.Posted(segments[1:]...)
		if _, again := begin(t, j); len(again) > 0 {
			t.Fatal("a segment was reused while one of its records was needed")
		}
		j.Posted(segments[0])
		for range 3 { // again and again
			again, segments := begin(t, j)
			if len(again) != len(begun) {
				t.Fatalf("%d requests fit into a segment that took %d before", len(again), len(begun))
			}
			j.Posted(segments...)
		}
		want := full(t, "last")
		write(t, j, billing.RecordSettle, want)
		killed := filepath.Join(t.TempDir(), "killed") // without Close, which cuts off what is reserved
		if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		_, r := open(t, killed, Options{})
		if got := ids(r.Settlements); !slices.Equal(got, []string{"last"}) || len(r.Torn) > 0 {
			t.Errorf("recovered %v, torn %v: want only what is not posted", got, r.Torn)
		}
	})
}

func TestJournalGoesOnWhenThereIsSpaceAgain(t *testing.T) {
	t.Parallel()
	d := &faultyDisk{}
	j, _ := open(t, t.TempDir(), Options{SegmentSize: 4 << 10, disk: d.disk(reserve)})
	d.full.Store(true)
	_, segments := begin(t, j)
	d.full.Store(false)
	s := full(t, "later")
	segment, err := j.Append(billing.RecordBegin, &s)
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		time.Sleep(retryFull / 10)
		segment, err = j.Append(billing.RecordBegin, &s)
	}
	if err != nil || segment == segments[0] {
		t.Errorf("appended to segment %d, %v: want the one after %d", segment, err, segments[0])
	}
}

func TestReadyIsWhatTheNextRequestWouldFind(t *testing.T) {
	t.Parallel()
	eachDisk(t, func(t *testing.T, d *faultyDisk, options Options) {
		j, _ := open(t, t.TempDir(), options)
		before := d.attempts.Load()
		if err := j.Ready(); err != nil || d.attempts.Load() != before {
			t.Fatalf("an empty journal: %v, asked the disk %d times", err, d.attempts.Load()-before)
		}
		d.full.Store(true)
		_, segments := begin(t, j)
		if err := j.Ready(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("with a full disk: %v", err)
		}
		j.Posted(segments...)
		if err := j.Ready(); err != nil {
			t.Errorf("when all is posted: %v", err)
		}
		begin(t, j)
		if err := j.Ready(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("with a full disk again: %v", err)
		}
		d.full.Store(false)
		err := j.Ready()
		for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); err = j.Ready() {
			time.Sleep(retryFull / 10)
		}
		if err != nil {
			t.Errorf("with space again, and no request that asks for it: %v", err)
		}
		d.broken.Store(true)
		write(t, j, billing.RecordBegin, full(t, "unsynced"))
		for deadline := time.Now().Add(time.Minute); !errors.Is(err, errBroken) && time.Now().Before(deadline); err = j.Ready() {
			time.Sleep(syncEvery / 10)
		}
		if !errors.Is(err, errBroken) {
			t.Errorf("with a disk that does not sync: %v", err)
		}
	})
	j, _ := open(t, t.TempDir(), Options{})
	j.Close()
	if err := j.Ready(); !errors.Is(err, ErrClosed) {
		t.Errorf("after it was closed: %v", err)
	}
}

func TestFullDiskIsNotAskedForEachRequest(t *testing.T) {
	t.Parallel()
	d := &faultyDisk{}
	j, _ := open(t, t.TempDir(), Options{SegmentSize: 4 << 10, disk: d.disk(reserve)})
	d.full.Store(true)
	begin(t, j)
	before, start := d.attempts.Load(), time.Now()
	for range 1000 {
		begin(t, j)
	}
	asked, most := d.attempts.Load()-before, int32(time.Since(start)/retryFull)+1
	if asked > most {
		t.Errorf("asked %d times for room in %s, want at most %d", asked, time.Since(start), most)
	}
}

func TestFullDiskDoesNotKeepRecoveryFromMakingRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	j.Close()

	d := &faultyDisk{}
	d.full.Store(true)
	j, r := open(t, dir, Options{disk: d.disk(reserve)})
	if got := ids(r.Settlements); !slices.Equal(got, []string{"req_1"}) {
		t.Errorf("recovered %v", got)
	}
	s := full(t, "req_2")
	if _, err := j.Append(billing.RecordBegin, &s); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("begin on a full disk: %v", err)
	}
	j.Forget(r)
	if left, _, _ := segmentIDs(dir); len(left) > 0 {
		t.Errorf("segments %v are left after they were forgotten", left)
	}
	d.full.Store(false)
	time.Sleep(2 * retryFull)
	write(t, j, billing.RecordBegin, s)
}

func TestFailedSyncTakesABeginRecordBack(t *testing.T) {
	t.Parallel()
	eachDisk(t, func(t *testing.T, d *faultyDisk, options Options) {
		dir := t.TempDir()
		options.Sync = SyncAlways
		j, _ := open(t, dir, options)
		write(t, j, billing.RecordBegin, full(t, "before"))
		d.broken.Store(true)
		var group sync.WaitGroup
		for i := range 5 { // some of them between others
			group.Go(func() {
				begin, settle := full(t, fmt.Sprintf("refused_%d", i)), full(t, fmt.Sprintf("settled_%d", i))
				if _, err := j.Append(billing.RecordBegin, &begin); !errors.Is(err, errBroken) {
					t.Errorf("begin with a broken disk: %v", err)
				}
				if _, err := j.Append(billing.RecordSettle, &settle); !errors.Is(err, errBroken) {
					t.Errorf("settle with a broken disk: %v", err)
				}
			})
		}
		group.Wait()
		d.broken.Store(false)
		s := full(t, "after")
		if _, err := j.Append(billing.RecordBegin, &s); !errors.Is(err, errBroken) {
			t.Errorf("begin after a failed sync: %v, want %v until it is opened anew", err, errBroken)
		}
		if err := j.Close(); !errors.Is(err, errBroken) {
			t.Errorf("close: %v, want %v", err, errBroken)
		}
		j, r := open(t, dir, Options{})
		got := ids(r.Settlements)
		slices.Sort(got)
		want := []string{"before", "settled_0", "settled_1", "settled_2", "settled_3", "settled_4"}
		if !slices.Equal(got, want) || len(r.Torn) > 0 {
			t.Errorf("recovered %v, torn %v, want %v", got, r.Torn, want)
		}
		write(t, j, billing.RecordBegin, s)
	})
}

func TestFailedSyncInTheBackgroundRefusesTheNextRequest(t *testing.T) {
	t.Parallel()
	d := &faultyDisk{}
	j, _ := open(t, t.TempDir(), Options{disk: d.disk(reserve)})
	d.broken.Store(true)
	s := full(t, "req_1")
	refused := func() bool {
		_, err := j.Append(billing.RecordBegin, &s)
		return errors.Is(err, errBroken)
	}
	for deadline := time.Now().Add(time.Minute); !refused(); time.Sleep(syncEvery) {
		if time.Now().After(deadline) {
			t.Fatal("requests are begun on a disk that does not sync")
		}
	}
	write(t, j, billing.RecordSettle, s) // in memory that outlives the process
}

func TestAppendsGoOnWhileAFullSegmentIsSynced(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	synced := make(map[string]int64) // bytes of each file that a sync saw
	release := make(chan struct{})
	var once sync.Once
	unblock := func() { once.Do(func() { close(release) }) }
	defer unblock()
	slow := disk{reserve: reserveNothing, sync: func(f *os.File) error {
		info, err := f.Stat()
		<-release
		if err == nil {
			mu.Lock()
			synced[info.Name()] = max(synced[info.Name()], info.Size())
			mu.Unlock()
		}
		return err
	}}
	j, _ := open(t, t.TempDir(), Options{SegmentSize: 1, disk: slow})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 5 {
			s := billing.Settlement{RequestID: fmt.Sprint(i)}
			if _, err := j.Append(billing.RecordSettle, &s); err != nil {
				t.Error(err)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("an append waits for a sync")
	}
	unblock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if len(j.segments) != 5 {
		t.Fatalf("%d segments, want one for each record", len(j.segments))
	}
	for _, s := range j.segments {
		if got := synced[filepath.Base(j.path(s.id))]; got < s.size {
			t.Errorf("segment %d: %d of %d bytes were synced", s.id, got, s.size)
		}
	}
}

func TestNamesOfSegmentsAreSyncedWithTheirRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var named atomic.Int32
	j, _ := open(t, dir, Options{Sync: SyncAlways, SegmentSize: 1, disk: disk{sync: func(f *os.File) error {
		if f.Name() == dir {
			named.Add(1)
		}
		return f.Sync()
	}}})
	for i := range int32(3) { // each record has its own segment
		write(t, j, billing.RecordSettle, full(t, fmt.Sprint(i)))
		if got := named.Load(); got != i+1 {
			t.Errorf("the directory was synced %d times for %d segments", got, i+1)
		}
	}
}
