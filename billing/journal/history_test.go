package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
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
		if got, err = readAll(slices.Concat(damaged, damaged[:1])); err != nil {
			t.Fatal(err)
		}
		h.prove(t, got, nil)
	})
}
