package journal

import (
	"bytes"
	"errors"
	"fmt"
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

// segmentIDs lists the segments in dir, oldest first, and the id that the next
// one gets. Segments that were kept for their damage have ids, too.
func segmentIDs(dir string) (ids []billing.Segment, next billing.Segment, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, fmt.Errorf("read journal directory: %w", err)
	}
	next = 1
	for _, e := range entries {
		name, damaged := strings.CutSuffix(e.Name(), damagedSuffix)
		name, ok := strings.CutSuffix(name, segmentSuffix)
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("read journal directory: %s is not a segment of this journal", filepath.Join(dir, e.Name()))
		}
		next = max(next, billing.Segment(id)+1)
		if !damaged {
			ids = append(ids, billing.Segment(id))
		}
	}
	slices.Sort(ids)
	return ids, next, nil
}

// replay reads the segments and returns each request's last word.
func replay(dir string, ids []billing.Segment) (*Recovered, error) {
	r := &Recovered{segments: ids, damaged: make(map[billing.Segment]bool)}
	last := make(map[string]int) // request id to index in r.Settlements
	for _, id := range ids {
		path := (&Journal{dir: dir}).path(id)
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read journal segment: %w", err)
		}
		gaps, err := readSegment(b, func(_ billing.RecordKind, s billing.Settlement) {
			if i, seen := last[s.RequestID]; seen {
				r.Settlements[i] = s
				return
			}
			last[s.RequestID] = len(r.Settlements)
			r.Settlements = append(r.Settlements, s)
		})
		if err != nil {
			return nil, fmt.Errorf("read journal segment %s: %w", path, err)
		}
		for _, g := range gaps {
			r.Torn = append(r.Torn, fmt.Sprintf("%s: %v", path, g))
			r.damaged[id] = r.damaged[id] || !g.tail
		}
	}
	return r, nil
}

// gap is a part of a segment that does not hold what was written.
type gap struct {
	offset, size int
	tail         bool // no record follows
}

func (g gap) String() string {
	if g.tail {
		return fmt.Sprintf("cut off the last %d bytes, an incomplete record at offset %d", g.size, g.offset)
	}
	return fmt.Sprintf("skipped %d damaged bytes at offset %d", g.size, g.offset)
}

// readSegment calls record for each record in b and returns what lies between
// them. Where there is damage it goes on with the next record that is whole.
// The error is ErrNewer.
func readSegment(b []byte, record func(billing.RecordKind, billing.Settlement)) ([]gap, error) {
	if bytes.HasPrefix(b, []byte(magic)) && len(b) > len(magic) && b[len(magic)] > version {
		return nil, fmt.Errorf("%w: format %q", ErrNewer, b[len(magic)])
	}
	// The rest was reserved and never used. The last record may end in zeros,
	// but none can begin there.
	used := len(bytes.TrimRight(b, "\x00"))
	var gaps []gap
	at, damage := len(header), -1 // where the damage began that at is in
	if used > 0 && !bytes.HasPrefix(b, []byte(header)) {
		at, damage = min(at, used), 0
	}
	for at < used {
		kind, s, size, err := nextRecord(b[at:])
		if errors.Is(err, ErrNewer) {
			return nil, err
		}
		if err != nil {
			if damage < 0 {
				damage = at
			}
			at++
			continue
		}
		if damage >= 0 {
			gaps = append(gaps, gap{offset: damage, size: at - damage})
			damage = -1
		}
		if kind != voided {
			record(kind, s)
		}
		at += size
	}
	if damage >= 0 {
		gaps = append(gaps, gap{offset: damage, size: used - damage, tail: true})
	}
	return gaps, nil
}
