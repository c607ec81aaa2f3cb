package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

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

// Noise of numbers looks like the lengths of large records. To check them all
// would take minutes.
func TestNoiseOfNumbersIsReadInNoTime(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 3, 1)
	for _, number := range [][]byte{{0, 0, 0x0f, 0}, {1, 0, 0x0f, 0}, {0xff, 0xff, 0x0f, 0, 1, 1, 1, 1, 1, 1}} {
		noisy := slices.Concat([]byte(header), bytes.Repeat(number, 8<<20/len(number)), h.segments[0][len(header):])
		began := time.Now()
		got, err := readAll([][]byte{noisy})
		if took := time.Since(began); err != nil || took > 20*time.Second {
			t.Errorf("noise of %v took %s (%v)", number, took, err)
		}
		h.prove(t, got, func(int, int, int) bool { return false })
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
