package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func (j *Journal) path(id billing.Segment) string { return filepath.Join(j.dir, segmentName(id)) }

func segmentName(id billing.Segment) string { return fmt.Sprintf("%016d%s", id, segmentSuffix) }

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
		digits, ok := strings.CutSuffix(name, segmentSuffix)
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || segmentName(billing.Segment(id)) != name {
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
	words := lastWords{index: make(map[request]int)}
	for i, id := range ids {
		// They are removed from the oldest on, so none is missing in between.
		if i > 0 && id != ids[i-1]+1 {
			r.Torn = append(r.Torn, fmt.Sprintf("%s: %d segments before this one are missing", filepath.Join(dir, segmentName(id)), id-ids[i-1]-1))
		}
		path := filepath.Join(dir, segmentName(id))
		gaps, err := readFile(path, words.add)
		if err != nil {
			return nil, fmt.Errorf("read journal segment %s: %w", path, err)
		}
		for _, g := range gaps {
			r.Torn = append(r.Torn, fmt.Sprintf("%s: %v", path, g))
			r.damaged[id] = r.damaged[id] || !g.tail
		}
	}
	r.Settlements = words.settlements
	return r, nil
}

func readFile(path string, record func(billing.RecordKind, billing.Settlement)) ([]gap, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would block the start for good
		return nil, errors.New("it is not a file; move it away")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return readSegment(b, record)
}

// request names a request: ids are unique in their organization.
type request struct{ organization, id string }

// lastWords collects what records say of each request. A settle record wins over
// others wherever it stands, so that segments in disorder cannot bring back an
// estimate.
type lastWords struct {
	settlements []billing.Settlement
	kinds       []billing.RecordKind
	index       map[request]int
}

func (w *lastWords) add(kind billing.RecordKind, s billing.Settlement) {
	r := request{s.OrganizationID, s.RequestID}
	i, seen := w.index[r]
	if !seen {
		w.index[r] = len(w.settlements)
		w.settlements = append(w.settlements, s)
		w.kinds = append(w.kinds, kind)
		return
	}
	if kind == billing.RecordSettle || w.kinds[i] != billing.RecordSettle {
		w.settlements[i], w.kinds[i] = s, kind
	}
}

// gap is a part of a segment that does not hold what was written.
type gap struct {
	offset, size int
	tail         bool // the last record's end was not written
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
		if damage >= 0 && !mayBeRecord(b[at:]) {
			at++
			continue
		}
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
		g := gap{offset: damage, size: used - damage}
		g.tail = damage >= len(header) && isTorn(b[damage:used]) || bytes.HasPrefix([]byte(header), b[:used])
		gaps = append(gaps, g)
	}
	return gaps, nil
}

// mayBeRecord tells whether a record may start here, by its request's id. In
// damage each byte is tried, and most would cost the checksum of a megabyte.
func mayBeRecord(b []byte) bool {
	if len(b) <= recordHeader {
		return false
	}
	id := b[recordHeader+1:] // behind the kind
	n, size := binary.Uvarint(id)
	if size <= 0 || n == 0 || n > uint64(len(id)-size) {
		return false
	}
	for _, c := range id[size : size+int(n)] {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isTorn tells whether b, up to which all is well and after which there is
// nothing, looks like a record whose end was not written. Else more than that
// has happened to it, and more records than that may be lost.
func isTorn(b []byte) bool {
	if len(b) < recordHeader {
		return true
	}
	size := binary.LittleEndian.Uint32(b)
	return 0 < size && size <= maxRecordSize && len(b) < recordHeader+int(size)
}
