package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// segmentOf returns a segment with these requests, and where each record ends.
func segmentOf(t *testing.T, requests ...string) (b []byte, ends []int) {
	t.Helper()
	b = []byte(header)
	for _, id := range requests {
		s := full(t, id)
		b = appendRecord(b, billing.RecordSettle, &s)
		ends = append(ends, len(b))
	}
	return b, ends
}

func read(b []byte) (requests []string, gaps []gap, err error) {
	gaps, err = readSegment(b, func(_ billing.RecordKind, s billing.Settlement) {
		requests = append(requests, s.RequestID)
	})
	return requests, gaps, err
}

func TestTornTailIsCutAtTheLastGoodRecord(t *testing.T) {
	t.Parallel()
	whole, ends := segmentOf(t, "0", "1", "2")
	boundaries := append([]int{0, len(header)}, ends...)
	for cut := range whole {
		for _, reserved := range []int{0, 100} {
			got, gaps, err := read(append(slices.Clone(whole[:cut]), make([]byte, reserved)...))
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			complete := 0
			for _, end := range ends {
				// A record may end in zeros, which are there without being written.
				if cut >= end || reserved > 0 && len(bytes.TrimRight(whole[cut:end], "\x00")) == 0 {
					complete++
				}
			}
			torn := complete < len(ends) && !slices.Contains(boundaries, cut) && (complete == 0 || cut > ends[complete-1])
			if len(got) != complete || (len(gaps) == 1) != torn || torn && !gaps[0].tail {
				t.Fatalf("cut at %d, %d bytes reserved: records %v and gaps %v, want %d records and torn %t", cut, reserved, got, gaps, complete, torn)
			}
		}
	}
}

func TestTornTailIsReportedAndNotKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole, ends := segmentOf(t, "0", "1")
	path := (&Journal{dir: dir}).path(1)
	if err := os.WriteFile(path, whole[:len(whole)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	j, r := open(t, dir, Options{})
	want := fmt.Sprintf("%s: cut off the last %d bytes, an incomplete record at offset %d", path, len(whole)-20-ends[0], ends[0])
	if diff := cmp.Diff([]string{want}, r.Torn); diff != "" || !slices.Equal(ids(r.Settlements), []string{"0"}) {
		t.Errorf("recovered %v, torn (-want +got):\n%s", ids(r.Settlements), diff)
	}
	j.Forget(r)
	if _, err := os.Stat(path + damagedSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a torn segment was kept: %v", err)
	}
}

func TestFlippedBitsLoseOneRecordAtMost(t *testing.T) {
	t.Parallel()
	whole, ends := segmentOf(t, "0", "1", "2")
	for bit := range 8 * len(whole) {
		damaged := slices.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		got, gaps, err := read(damaged)
		if damaged[len(magic)] > version {
			if !errors.Is(err, ErrNewer) {
				t.Errorf("bit %d, of the version: %v", bit, err)
			}
			continue
		}
		want, offset := []string{"0", "1", "2"}, 0
		for i, start := range append([]int{len(header)}, ends...) {
			if bit/8 >= start && bit/8 < ends[i] {
				want, offset = slices.Delete([]string{"0", "1", "2"}, i, i+1), start
			}
		}
		if err != nil || !slices.Equal(got, want) || len(gaps) != 1 || gaps[0].offset != offset {
			t.Errorf("bit %d: records %v, gaps %v, error %v, want %v and a gap at %d", bit, got, gaps, err, want, offset)
		}
	}
}

func TestDamageLosesOnlyWhatItHit(t *testing.T) {
	t.Parallel()
	whole, ends := segmentOf(t, "0", "1", "2", "3")
	for name, test := range map[string]struct {
		from, to int
		fill     byte
		want     []string
		gaps     []gap
	}{
		"zeros in place of a record":   {ends[0], ends[1], 0, []string{"0", "2", "3"}, []gap{{offset: ends[0], size: ends[1] - ends[0]}}},
		"noise across two records":     {ends[0] + 3, ends[1] + 3, 0xff, []string{"0", "3"}, []gap{{offset: ends[0], size: ends[2] - ends[0]}}},
		"no header":                    {0, len(header), 0, []string{"0", "1", "2", "3"}, []gap{{offset: 0, size: len(header)}}},
		"noise from a record on":       {ends[2] + 1, ends[3], 0xff, []string{"0", "1", "2"}, []gap{{offset: ends[2], size: ends[3] - ends[2]}}},
		"nothing but noise":            {0, ends[3], 0xff, nil, []gap{{offset: 0, size: ends[3]}}},
		"zeros from within a record":   {ends[2] + 20, ends[3], 0, []string{"0", "1", "2"}, []gap{{offset: ends[2], size: 20, tail: true}}},
		"nothing but what is reserved": {0, ends[3], 0, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := slices.Clone(whole)
			for i := test.from; i < test.to; i++ {
				b[i] = test.fill
			}
			got, gaps, err := read(b)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("records %v, error %v, want %v", got, err, test.want)
			}
			if diff := cmp.Diff(test.gaps, gaps, cmp.AllowUnexported(gap{})); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDamagedSegmentIsKeptForAHuman(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole, ends := segmentOf(t, "0", "1", "2")
	whole[ends[0]+20] ^= 1
	path := (&Journal{dir: dir}).path(7)
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	j, r := open(t, dir, Options{})
	if got := ids(r.Settlements); !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("recovered %v", got)
	}
	want := fmt.Sprintf("%s: skipped %d damaged bytes at offset %d", path, ends[1]-ends[0], ends[0])
	if diff := cmp.Diff([]string{want}, r.Torn); diff != "" {
		t.Errorf("torn (-want +got):\n%s", diff)
	}
	j.Forget(r)
	j.Close()
	kept, err := os.ReadFile(path + damagedSuffix)
	if err != nil || !bytes.Equal(kept, whole) {
		t.Errorf("the damaged segment was not kept: %v", err)
	}
	j, r = open(t, dir, Options{})
	if len(r.Settlements)+len(r.Torn) > 0 {
		t.Errorf("recovered %v, torn %v out of what was kept", ids(r.Settlements), r.Torn)
	}
	if id := write(t, j, billing.RecordSettle, full(t, "3")); id <= 7 {
		t.Errorf("segment %d may come to have the name of the one that was kept", id)
	}
}

func TestRecordOfUnknownKindIsNewer(t *testing.T) {
	t.Parallel()
	b, _ := segmentOf(t, "0")
	s := full(t, "1")
	if _, _, err := read(appendRecord(b, billing.RecordSettle+1, &s)); !errors.Is(err, ErrNewer) {
		t.Errorf("error is %v, want %v", err, ErrNewer)
	}
}

// A client decides what some texts are. None of them may pass for a record of
// another organization, should the record that holds it be damaged.
func TestTextsCannotPassForRecords(t *testing.T) {
	t.Parallel()
	s := full(t, "forged")
	forged := string(appendRecord(nil, billing.RecordSettle, &s))
	s = full(t, "req_1")
	s.Model, s.UserAgent, s.Changes = forged, forged, []string{forged}
	b := appendRecord([]byte(header), billing.RecordSettle, &s)
	b[len(header)+4]++ // its checksum
	if got, gaps, err := read(b); len(got) > 0 || err != nil || len(gaps) != 1 {
		t.Errorf("records %v, gaps %v, error %v, want only a gap", got, gaps, err)
	}
}

// FuzzReadSegment checks that the records and gaps of any bytes are apart and
// in order, that only what ends a segment is a tail, and that what is not in a
// gap is a record or reserved room.
func FuzzReadSegment(f *testing.F) {
	s := billing.Settlement{RequestID: "req_1", Cost: 5, Changes: []string{"a"}}
	one := appendRecord([]byte(header), billing.RecordBegin, &s)
	f.Add(one)
	f.Add([]byte(header))
	f.Add(one[len(header):])
	f.Add(slices.Concat(one, []byte("noise"), one[len(header):], make([]byte, 9)))
	f.Add(slices.Concat(one, one[len(header):len(one)-3]))
	f.Fuzz(func(t *testing.T, b []byte) {
		gaps, err := readSegment(b, func(billing.RecordKind, billing.Settlement) {})
		if err != nil {
			if !errors.Is(err, ErrNewer) || len(gaps) > 0 {
				t.Fatalf("gaps %v, error %v", gaps, err)
			}
			return
		}
		at := 0
		if bytes.HasPrefix(b, []byte(header)) {
			at = len(header)
		}
		for i, g := range gaps {
			at = skipRecords(t, b, at, g.offset)
			if g.size <= 0 || g.offset+g.size > len(b) || g.tail && i < len(gaps)-1 {
				t.Fatalf("gap %d of %+v", i, gaps)
			}
			if at += g.size; g.tail {
				return
			}
		}
		if used := len(bytes.TrimRight(b, "\x00")); used > 0 {
			skipRecords(t, b, at, used)
		}
	})
}

// skipRecords follows the records that lie between two offsets without a gap.
// Zeros at the end of the last one may lie behind to.
func skipRecords(t *testing.T, b []byte, at, to int) int {
	t.Helper()
	for at < to {
		_, _, size, err := nextRecord(b[at:])
		if err != nil {
			t.Fatalf("neither a record nor in a gap: offset %d", at)
		}
		at += size
	}
	return at
}

// FuzzDamage replaces a part of a segment by other bytes: all records before
// and behind it must be found.
func FuzzDamage(f *testing.F) {
	f.Add(uint16(30), []byte{0})
	f.Add(uint16(100), []byte(strings.Repeat("\xff", 200)))
	f.Add(uint16(8), make([]byte, 300))
	f.Fuzz(func(t *testing.T, at uint16, noise []byte) {
		requests := []string{"0", "1", "2", "3"}
		whole, ends := segmentOf(t, requests...)
		first := max(len(header), int(at)) // the header has tests of its own
		if first >= len(whole) {
			return
		}
		hit := copy(whole[first:], noise)
		got, _, err := read(whole)
		if err != nil && !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		for i, start := range append([]int{len(header)}, ends[:len(ends)-1]...) {
			if untouched := first >= ends[i] || first+hit <= start; untouched && err == nil && !slices.Contains(got, requests[i]) {
				t.Errorf("record %d of %v is lost to %d bytes at %d: %v", i, ends, hit, first, got)
			}
		}
	})
}
