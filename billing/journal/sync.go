package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// syncTo returns when the segment is on disk up to end. Of those who wait at
// the same time, the first syncs for all.
func (j *Journal) syncTo(s *segment, end int64) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	done := s.synced >= end
	j.mu.Unlock()
	if done {
		return nil
	}
	return j.syncAll()
}

// sync puts on disk what has been appended, as far as the options ask for it.
func (j *Journal) sync() error {
	if j.options.Sync == SyncOff {
		return nil
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	return j.syncAll()
}

// unsynced is a segment and where its records ended when that was looked at.
type unsynced struct {
	*segment
	end int64
}

// syncAll syncs what has been appended to any segment, the oldest first, and
// the names of new ones. The caller holds syncing but not mu: requests go on
// appending. After a failure it does not try again, since the system may have
// dropped what it could not write, and would report success.
func (j *Journal) syncAll() error {
	j.mu.Lock()
	failed, unnamed := j.failed, j.unnamed
	j.unnamed = false // unless there is another one meanwhile
	var todo []unsynced
	for _, s := range j.segments {
		if s.synced < s.size {
			todo = append(todo, unsynced{s, s.size})
		}
	}
	j.mu.Unlock()
	if failed != nil {
		return failed
	}
	err := j.syncFiles(todo, unnamed)

	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.failed = fmt.Errorf("journal has failed, restart the gateway when its disk is well: %w", err)
		return j.failed
	}
	for _, s := range todo {
		s.synced = s.end
	}
	return nil
}

func (j *Journal) syncFiles(todo []unsynced, unnamed bool) error {
	for _, s := range todo {
		// A file that is closed meanwhile has been posted, or synced by Close.
		if err := j.options.disk.sync(s.file); err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("sync journal segment: %w", err)
		}
	}
	if !unnamed {
		return nil
	}
	if err := j.options.disk.sync(j.directory); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	return nil
}

// syncLoop is the owner of SyncInterval. It ends with Close.
func (j *Journal) syncLoop() {
	defer close(j.stopped)
	if j.options.Sync != SyncInterval {
		<-j.stop
		return
	}
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
			_ = j.sync() // a failure is the answer to the next begin record
		}
	}
}

// writeFileSynced replaces the file at path whole, or not at all.
func writeFileSynced(path string, b []byte) error {
	draft := path + ".new"
	f, err := os.OpenFile(draft, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes the creation of a file in dir survive a power cut.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
