package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// history is what was appended to a journal, and how it lies in its files.
type history struct {
	segments [][]byte
	// words of each request, in order.
	words map[string][]word
}

type word struct {
	kind       billing.RecordKind
	settlement billing.Settlement
	segment    int
	from, to   int
}

// newHistory writes requests with a begin, some with progress, some with an
// outcome, over several segments.
func newHistory(tb testing.TB, requests, segments int) *history {
	tb.Helper()
	h := &history{words: make(map[string][]word)}
	for range segments {
		h.segments = append(h.segments, []byte(header))
	}
	say := func(n, round int, kind billing.RecordKind) {
		s := billing.Settlement{
			RequestID: fmt.Sprintf("req_%03d", n), OrganizationID: "org", KeyID: "key", Provider: "openai",
			Model: "gpt-4o", Cost: billing.Money(1000*n + round + 1), Usage: metering.Usage{Output: int64(n), Input: 7},
			Recovered: kind != billing.RecordSettle, Changes: []string{"top_k"},
		}
		in := min((n+round*requests/2)*segments/(2*requests), segments-1)
		from := len(h.segments[in])
		h.segments[in] = appendRecord(h.segments[in], kind, &s)
		s.At = s.At.UTC()
		_, read, _, err := nextRecord(h.segments[in][from:])
		if err != nil {
			tb.Fatal(err)
		}
		h.words[s.RequestID] = append(h.words[s.RequestID], word{kind, read, in, from, len(h.segments[in])})
	}
	for n := range requests {
		say(n, 0, billing.RecordBegin)
	}
	for n := range requests {
		if n%2 == 0 {
			say(n, 1, billing.RecordProgress)
		}
	}
	for n := range requests {
		if n%3 != 0 {
			say(n, 2, billing.RecordSettle)
		}
	}
	return h
}

// prove checks what was read of damaged segments: each settlement is one that
// was appended, whole; no request comes twice; and one whose outcome is not
// damaged comes with that. damaged says whether bytes of a segment were touched;
// nil if nothing is known of that.
func (h *history) prove(t *testing.T, got []billing.Settlement, damaged func(segment, from, to int) bool) {
	t.Helper()
	seen := make(map[string]bool)
	for _, s := range got {
		if seen[s.RequestID] {
			t.Fatalf("%s was recovered twice", s.RequestID)
		}
		seen[s.RequestID] = true
		if !slices.ContainsFunc(h.words[s.RequestID], func(w word) bool { return reflect.DeepEqual(w.settlement, s) }) {
			t.Fatalf("recovered what was never appended: %+v", s)
		}
	}
	if damaged == nil {
		return
	}
	for id, words := range h.words {
		var want *billing.Settlement
		for i, w := range words {
			if !damaged(w.segment, w.from, w.to) {
				want = &words[i].settlement
			}
		}
		i := slices.IndexFunc(got, func(s billing.Settlement) bool { return s.RequestID == id })
		switch {
		case want == nil && i < 0:
		case want == nil:
			t.Fatalf("%s was recovered from damage: %+v", id, got[i])
		case i < 0:
			t.Fatalf("%s is lost, of which a record is whole", id)
		case !reflect.DeepEqual(got[i], *want):
			t.Fatalf("recovered (-last whole word +got):\n%s", cmp.Diff(*want, got[i]))
		}
	}
}

// readAll reads segments as they lie in a directory.
func readAll(segments [][]byte) ([]billing.Settlement, error) {
	words := lastWords{index: make(map[request]int)}
	for _, b := range segments {
		if _, err := readSegment(b, words.add); err != nil {
			return nil, err
		}
	}
	return words.settlements, nil
}

func TestCutAtEveryByteLosesOnlyWhatIsBehind(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 6, 2)
	for segment, whole := range h.segments {
		for cut := range whole {
			for _, reserved := range []int{0, 64} {
				cutOff := slices.Clone(h.segments)
				cutOff[segment] = append(slices.Clone(whole[:cut]), make([]byte, reserved)...)
				got, err := readAll(cutOff)
				if err != nil {
					t.Fatalf("segment %d cut at %d: %v", segment, cut, err)
				}
				h.prove(t, got, func(in, _, to int) bool {
					// Zeros at its end are there without having been written.
					written := cut >= to || reserved > 0 && to-cut <= reserved && len(bytes.Trim(whole[cut:to], "\x00")) == 0
					return in == segment && !written
				})
			}
		}
	}
}

func TestEveryFlippedBitLosesItsRecordAlone(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 5, 2)
	for segment, whole := range h.segments {
		for bit := range 8 * len(whole) {
			flipped := slices.Clone(h.segments)
			flipped[segment] = slices.Clone(whole)
			flipped[segment][bit/8] ^= 1 << (bit % 8)
			got, err := readAll(flipped)
			if errors.Is(err, ErrNewer) && bit/8 == len(magic) {
				continue // its version is a later one: refused
			}
			if err != nil {
				t.Fatalf("bit %d of segment %d: %v", bit, segment, err)
			}
			h.prove(t, got, func(in, from, to int) bool { return in == segment && from <= bit/8 && bit/8 < to })
		}
	}
}

func TestSegmentsInAnyOrderAndNumberSayTheSame(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 20, 5)
	random := rand.New(rand.NewPCG(1, 1))
	outcomes := make(map[string]billing.Money)
	for id, words := range h.words {
		if last := words[len(words)-1]; last.kind == billing.RecordSettle {
			outcomes[id] = last.settlement.Cost
		}
	}
	for range 200 {
		shuffled := slices.Clone(h.segments)
		for range random.IntN(4) {
			shuffled = append(shuffled, h.segments[random.IntN(len(h.segments))])
		}
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got, err := readAll(shuffled)
		if err != nil {
			t.Fatal(err)
		}
		h.prove(t, got, nil)
		if len(got) != len(h.words) {
			t.Fatalf("recovered %d of %d", len(got), len(h.words))
		}
		for _, s := range got {
			if want, settled := outcomes[s.RequestID]; settled && s.Cost != want {
				t.Fatalf("%s was settled at %d and recovered as %d", s.RequestID, want, s.Cost)
			}
		}
	}
}

func TestRequestsOfTwoOrganizationsAreApart(t *testing.T) {
	t.Parallel()
	a, b := full(t, "req_1"), full(t, "req_1")
	b.OrganizationID, b.Cost = "another", 7
	segment := appendRecord(appendRecord([]byte(header), billing.RecordSettle, &a), billing.RecordSettle, &b)
	got, err := readAll([][]byte{segment})
	if diff := cmp.Diff([]billing.Settlement{a, b}, got); diff != "" || err != nil {
		t.Errorf("recovered, error %v (-want +got):\n%s", err, diff)
	}
}

// put writes segments of a history as files, under the given numbers.
func (h *history) put(t *testing.T, dir string, numbers ...int) {
	t.Helper()
	for i, n := range numbers {
		name := filepath.Join(dir, segmentName(billing.Segment(n)))
		if err := os.WriteFile(name, h.segments[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenReadsWhatIsLeftOfADirectory(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 9, 3)
	for name, test := range map[string]struct {
		numbers []int
		change  func(t *testing.T, dir string)
		lost    []int // segments
		torn    string
	}{
		"all of it":                    {numbers: []int{1, 2, 3}},
		"a segment is missing":         {numbers: []int{1, 5, 6}, torn: "0000000000000005.journal: 3 segments before this one are missing"},
		"an empty file in the middle":  {[]int{1, 2, 3}, fill(2, nil), []int{1}, ""},
		"a file of zeros":              {[]int{1, 2, 3}, fill(2, make([]byte, 1<<20)), []int{1}, ""},
		"a file of noise":              {[]int{1, 2, 3}, fill(2, bytes.Repeat([]byte("noise"), 1<<10)), []int{1}, "skipped 5120 damaged bytes"},
		"half a header":                {[]int{1, 2, 3}, fill(2, []byte(header[:3])), []int{1}, "cut off the last 3 bytes"},
		"other files beside":           {[]int{1, 2, 3}, fillName("notes.txt", []byte("hello")), nil, ""},
		"a draft that was not renamed": {[]int{1, 2, 3}, fillName("node.new", []byte("node_")), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			h.put(t, dir, test.numbers...)
			if test.change != nil {
				test.change(t, dir)
			}
			_, r := open(t, dir, Options{})
			h.prove(t, r.Settlements, func(segment, _, _ int) bool { return slices.Contains(test.lost, segment) })
			if torn := strings.Join(r.Torn, "\n"); (test.torn == "") != (torn == "") || !strings.Contains(torn, test.torn) {
				t.Errorf("torn: %q, want %q", torn, test.torn)
			}
		})
	}
}

func fill(number int, b []byte) func(*testing.T, string) {
	return fillName(segmentName(billing.Segment(number)), b)
}

func fillName(name string, b []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be read is refused, with its name, and left as it is: it may hold
// what is owed.
func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	first := segmentName(1)
	must := func(t *testing.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   []string
	}{
		"a directory in place of a segment": {
			func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, first), 0o700)) },
			[]string{first, "not a file; move it away"},
		},
		"a link that leads nowhere": {
			func(t *testing.T, dir string) { must(t, os.Symlink(first, filepath.Join(dir, first))) },
			[]string{first, "too many levels of symbolic links"},
		},
		"a segment with another's name": {fillName("1.journal", nil), []string{"1.journal is not a segment of this journal"}},
		"a number that is none":         {fillName("x.journal", nil), []string{"x.journal is not a segment of this journal"}},
		"a number beyond all":           {fillName("18446744073709551615.journal", nil), []string{"is not a segment of this journal"}},
		"a segment of a newer version":  {fill(1, []byte(magic+"2\n")), []string{ErrNewer.Error(), first}},
		"a node without a name":         {fillName(nodeFile, nil), []string{nodeFile, "is damaged; restore it, or delete it"}},
		"a database of zeros":           {fillName(databaseFile, make([]byte, 20)), []string{databaseFile, "is damaged; restore it, or delete it"}},
		"a directory in place of the lock": {
			func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, "lock"), 0o700)) },
			[]string{"lock journal directory", "is a directory"},
		},
		"a directory in place of the node": {
			func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, nodeFile), 0o700)) },
			[]string{"read node of journal", "is a directory"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			test.damage(t, dir)
			before := listing(t, dir)
			_, _, err := Open(dir, Options{})
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is %q, want %q in it", err, want)
				}
			}
			if diff := cmp.Diff(before, slices.DeleteFunc(listing(t, dir), func(name string) bool {
				return name == "lock" && !slices.Contains(before, name) || name == nodeFile && !slices.Contains(before, name)
			})); diff != "" {
				t.Errorf("the directory changed (-before +after):\n%s", diff)
			}
		})
	}
}

func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestOpenSaysWhichDirectoryIsInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, Options{})
	_, _, err := Open(dir, Options{})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "give this one a directory of its own") {
		t.Errorf("error is %v", err)
	}
}

// Neither /proc nor a file takes new files, even from root.
func TestOpenRefusesDirectoriesThatTakeNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	fillName("file", nil)(t, filepath.Dir(file))
	dirs := []string{file, filepath.Join(file, "journal")}
	if runtime.GOOS == "linux" {
		dirs = append(dirs, "/proc/self", "/proc/self/journal")
	}
	for _, dir := range dirs {
		if _, _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "journal directory") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: error is %v, want one that names it", dir, err)
		}
	}
}

// FuzzReplay damages a journal in many places, and puts its segments in another
// order: nothing comes back that was not appended, and of all requests that were
// not hit their last words do.
func FuzzReplay(f *testing.F) {
	h := newHistory(f, 8, 3)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 20, 4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 0, 9, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 1, 7})
	f.Add([]byte{0, 0, 0, 6, 'L', 'L', 'M', 'G', 'W', 'J', 1, 0, 100, 3, 1, 2, 3, 2, 0, 50, 2, 9, 9})
	f.Add([]byte{0, 0, 8, 4, 0, 0, 0, 1, 0, 0, 12, 4, 1, 1, 1, 1, 0, 1, 0, 200})
	f.Fuzz(func(t *testing.T, edits []byte) {
		type span struct{ segment, from, to int }
		var hits []span
		damaged := make([][]byte, len(h.segments))
		for i, b := range h.segments {
			damaged[i] = slices.Clone(b)
		}
		for len(edits) >= 4 { // segment, offset, length, bytes
			in, at, n := int(edits[0])%len(damaged), int(edits[1])<<8+int(edits[2]), int(edits[3])
			edits = edits[4:]
			n = min(n, len(edits))
			if b := damaged[in]; at < len(b) {
				n = copy(b[at:], edits[:n])
				hits = append(hits, span{in, at, at + n})
			}
			edits = edits[n:]
		}
		got, err := readAll(damaged)
		if err != nil {
			if !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		h.prove(t, got, func(in, from, to int) bool {
			for _, hit := range hits {
				same := bytes.Equal(damaged[in][from:to], h.segments[in][from:to])
				if hit.segment == in && hit.from < to && from < hit.to && !same {
					return true
				}
			}
			return false
		})
		slices.Reverse(damaged)
		if got, err = readAll(append(damaged, damaged[0])); err != nil {
			t.Fatal(err)
		}
		h.prove(t, got, nil)
	})
}
