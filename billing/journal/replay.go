package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func (j *Journal) path(id billing.Segment) string {
	return filepath.Join(j.dir, fmt.Sprintf("%016d%s", id, segmentSuffix))
}

// segmentIDs lists the segments in dir, oldest first.
func segmentIDs(dir string) ([]billing.Segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read journal directory: %w", err)
	}
	var ids []billing.Segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read journal directory: %s is not a segment of this journal", filepath.Join(dir, e.Name()))
		}
		ids = append(ids, billing.Segment(id))
	}
	slices.Sort(ids)
	return ids, nil
}

// replay reads the segments and returns each request's last word.
func replay(dir string, ids []billing.Segment) (*Recovered, error) {
	r := &Recovered{}
	last := make(map[string]int) // request id to index in r.Settlements
	for _, id := range ids {
		path := (&Journal{dir: dir}).path(id)
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read journal segment: %w", err)
		}
		rest, err := readSegment(b, func(_ billing.RecordKind, s billing.Settlement) {
			if i, seen := last[s.RequestID]; seen {
				r.Settlements[i] = s
				return
			}
			last[s.RequestID] = len(r.Settlements)
			r.Settlements = append(r.Settlements, s)
		})
		if errors.Is(err, ErrNewer) {
			return nil, fmt.Errorf("read journal segment %s: %w", path, err)
		}
		if err != nil {
			r.Torn = append(r.Torn, fmt.Sprintf("%s: %v: dropped the last %d bytes", path, err, rest))
		}
	}
	return r, nil
}

// readSegment calls record for each record in b up to the first damaged one,
// and returns how many bytes it did not understand.
func readSegment(b []byte, record func(billing.RecordKind, billing.Settlement)) (rest int, err error) {
	if len(b) < len(header) {
		return len(b), errDamaged // the process ended while creating it
	}
	if string(b[:len(magic)]) != magic {
		return len(b), errDamaged
	}
	if v := b[len(magic)]; v != version {
		return len(b), fmt.Errorf("%w: format %q", ErrNewer, v)
	}
	if b[len(header)-1] != '\n' {
		return len(b), errDamaged
	}
	b = b[len(header):]
	for len(b) > 0 {
		if b[0] == 0 && len(bytes.TrimLeft(b, "\x00")) == 0 {
			return 0, nil // the rest was reserved and never used
		}
		if len(b) < recordHeader {
			return len(b), errDamaged
		}
		size := binary.LittleEndian.Uint32(b)
		if size > maxRecordSize || int(size) > len(b)-recordHeader {
			return len(b), errDamaged
		}
		payload := b[recordHeader : recordHeader+int(size)]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
			return len(b), errDamaged
		}
		kind, s, err := decodeRecord(payload)
		if err != nil {
			return len(b), err
		}
		record(kind, s)
		b = b[recordHeader+int(size):]
	}
	return 0, nil
}
