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
	pending int // records whose settlement is not posted yet
}

// createSegment makes the file, with room for so many bytes of records.
func createSegment(path string, id billing.Segment, room int64) (*segment, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create journal segment: %w", err)
	}
	s := &segment{id: id, file: f}
	if s.memory, err = reserve(f, int64(len(header))+room); err == nil {
		err = s.append([]byte(header))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create journal segment: %w", err), s.close(), os.Remove(path))
	}
	return s, nil
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

// rewind cuts off a record that was written in part, so that the next one
// starts where a reader expects it.
func (s *segment) rewind() error {
	if err := s.file.Truncate(s.size); err != nil {
		return fmt.Errorf("cut off incomplete record: %w", err)
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
