package journal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// segment is one file of the journal.
type segment struct {
	id      billing.Segment
	file    *os.File // nil if it was recovered
	memory  []byte   // the file, mapped; nil where records are written instead
	size    int64
	synced  int64
	pending int  // records whose settlement is not posted yet
	damaged bool // it was recovered, and has damage between its records
}

// createSegment makes the file, with room for its records where the system
// can reserve that.
func createSegment(path string, id billing.Segment, options Options) (*segment, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create journal segment: %w", err)
	}
	s := &segment{id: id, file: f}
	room := int64(len(header)) + options.SegmentSize + outcomeReserve
	if s.memory, err = options.disk.reserve(f, room); err == nil {
		err = s.append([]byte(header))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create journal segment: %w", err), s.close(), os.Remove(path))
	}
	return s, nil
}

// takes tells whether so many bytes fit without the reserve. An empty segment
// takes any record.
func (s *segment) takes(n int, limit int64) bool {
	empty := int64(len(header))
	return s.size == empty || s.size-empty+int64(n) <= limit
}

// append adds bytes at the end. After an error nothing of them remains.
func (s *segment) append(b []byte) error {
	if s.memory != nil {
		if len(b) > len(s.memory)-int(s.size) {
			return errors.New("journal segment is full")
		}
		copy(s.memory[s.size:], b)
		s.size += int64(len(b))
		return nil
	}
	n, err := s.file.Write(b)
	if err != nil && n > 0 {
		return errors.Join(err, s.rewind())
	}
	s.size += int64(n)
	return err
}

// overwrite replaces a record by another one of its size.
func (s *segment) overwrite(at int64, record []byte) error {
	if s.memory != nil {
		copy(s.memory[at:], record)
		return nil
	}
	_, err := s.file.WriteAt(record, at)
	return err
}

// clear empties the segment and keeps its room. Nothing of the old records
// may stay behind the new ones, where a reader would find it.
func (s *segment) clear() error {
	end := s.size
	s.size = int64(len(header))
	if s.memory != nil {
		clear(s.memory[s.size:end])
		return nil
	}
	return s.rewind()
}

// rewind cuts off what was written beyond size, so that the next record starts
// where a reader expects it.
func (s *segment) rewind() error {
	if err := s.file.Truncate(s.size); err != nil {
		return fmt.Errorf("cut off journal segment: %w", err)
	}
	_, err := s.file.Seek(s.size, io.SeekStart)
	return err
}

// close gives back what was reserved beyond the records.
func (s *segment) close() error {
	if s.file == nil {
		return nil
	}
	var err error
	if s.memory != nil {
		err = errors.Join(unmap(s.memory), s.file.Truncate(s.size))
		s.memory = nil
	}
	return errors.Join(err, s.file.Close())
}
