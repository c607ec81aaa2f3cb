package journal

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// syncTo returns when the segment is on disk up to end. Of those who wait at
// the same time, the first syncs for all.
func (j *Journal) syncTo(s *segment, end int64) error {
	if j.options.Sync == SyncOff {
		return nil
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	size, done := s.size, s.synced >= end
	j.mu.Unlock()
	if done {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	j.mu.Lock()
	s.synced = max(s.synced, size)
	j.mu.Unlock()
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
			j.mu.Lock()
			active := j.segments[len(j.segments)-1]
			end := active.size
			j.mu.Unlock()
			// A failing disk fails the next append too, which reports it.
			_ = j.syncTo(active, end)
		}
	}
}

func writeFileSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close(), syncDirectory(filepath.Dir(path)))
}

// syncDirectory makes the creation of a file in dir survive a power cut.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
