package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// full returns a settlement in which no field is zero, so that a field that
// the format forgets shows.
func full(t *testing.T, id string) billing.Settlement {
	t.Helper()
	s := billing.Settlement{
		RequestID: id, OrganizationID: "org", KeyID: "key_1", KeyName: "näme",
		At:       time.UnixMicro(1_795_430_100_123_456).UTC(),
		Provider: "openai", Model: "gpt-4o", Endpoint: "chat/completions",
		Usage: metering.Usage{
			Input: 1, InputAudio: 2, InputImage: 3, CacheRead: 4, CacheReadAudio: 5, CacheWrite: 6,
			CacheWriteLong: 7, Output: 8, OutputAudio: 9, OutputImage: 10, WebSearches: 11, Reasoning: 12,
		},
		UsageSource: metering.SourceProvider, UsageMismatch: true, ServiceTier: "flex",
		Cost: 123_456_789, MarketCost: 1 << 60, PriceRuleID: "openai/gpt-4o", PriceSheet: `{"parts":[]}`,
		Latency: time.Second, TTFB: time.Millisecond, Status: 200, Error: "none really",
		ClientIP: "::1", UserAgent: "test/1.0", Streaming: true, Attempts: 2, Project: "search",
		AttemptLog: []billing.Attempt{
			{Provider: "mistral", Model: "large", Credential: "second", Status: 500, Error: "timed out", Duration: time.Second},
			{Provider: "openai", Duration: 1},
		},
		Changes: []string{"temperature", "top_k"}, Recovered: true,
	}
	for v, i := reflect.ValueOf(s), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("settlement field %s is zero: give it a value here", v.Type().Field(i).Name)
		}
	}
	return s
}

func open(t *testing.T, dir string, options Options) (*Journal, *Recovered) {
	t.Helper()
	j, r, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, r
}

func write(t *testing.T, j *Journal, kind billing.RecordKind, s billing.Settlement) billing.Segment {
	t.Helper()
	segment, err := j.Append(kind, &s)
	if err != nil {
		t.Fatal(err)
	}
	return segment
}

func TestEveryFieldSurvivesAReopen(t *testing.T) {
	t.Parallel()
	for _, sync := range []Sync{SyncInterval, SyncAlways, SyncOff} {
		t.Run(string(sync), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j, _ := open(t, dir, Options{Sync: sync})
			want := full(t, "req_1")
			write(t, j, billing.RecordSettle, want)
			node := j.Node()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j, r := open(t, dir, Options{Sync: sync})
			if diff := cmp.Diff([]billing.Settlement{want}, r.Settlements); diff != "" {
				t.Errorf("recovered (-want +got):\n%s", diff)
			}
			if j.Node() != node {
				t.Errorf("node is %s after reopening, was %s", j.Node(), node)
			}
		})
	}
}

func TestRecordsSurviveTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{Sync: SyncOff})
	want := full(t, "req_1")
	write(t, j, billing.RecordSettle, want)
	killed := filepath.Join(t.TempDir(), "killed") // what the kernel has, without Close
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	_, r := open(t, killed, Options{})
	if diff := cmp.Diff([]billing.Settlement{want}, r.Settlements); diff != "" || len(r.Torn) > 0 {
		t.Errorf("recovered (-want +got), torn %v:\n%s", r.Torn, diff)
	}
}

func TestSegmentsWithoutReservedMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SegmentSize: 600, disk: disk{reserve: reserveNothing}})
	for i := range 5 {
		write(t, j, billing.RecordSettle, full(t, fmt.Sprint(i)))
	}
	j.Close()
	_, r := open(t, dir, Options{})
	if got := ids(r.Settlements); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("recovered %v", got)
	}
}

func TestClosedJournalTakesNoMoreSpaceThanItsRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	path := j.path(j.segments[0].id)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 1000 {
		t.Errorf("%v, %v: want a small file", info, err)
	}
}

func TestLastRecordOfARequestWins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SegmentSize: 600}) // a segment for every few records
	var want []billing.Settlement
	for i := range 20 {
		begin := full(t, fmt.Sprintf("req_%02d", i))
		begin.Cost = 1
		write(t, j, billing.RecordBegin, begin)
		want = append(want, begin)
	}
	for i := range want {
		if i%3 == 0 {
			want[i].Cost, want[i].Recovered = 77, false
			write(t, j, billing.RecordSettle, want[i])
		}
	}
	j.Close()
	_, r := open(t, dir, Options{})
	if diff := cmp.Diff(want, r.Settlements); diff != "" {
		t.Errorf("recovered (-want +got):\n%s", diff)
	}
}

func TestSegmentsAreDeletedOldestFirstWhenPosted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SegmentSize: 1}) // each record has its own segment
	var segments []billing.Segment
	for i := range 5 {
		segments = append(segments, write(t, j, billing.RecordSettle, full(t, fmt.Sprint(i))))
	}
	count := func() int {
		ids, _, err := segmentIDs(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(ids)
	}
	for _, step := range []struct {
		posted int
		left   int
	}{{2, 5}, {1, 5}, {0, 2}, {3, 1}} { // the newest stays: it is appended to
		j.Posted(segments[step.posted])
		if got := count(); got != step.left {
			t.Errorf("after posting segment %d: %d segments left, want %d", step.posted, got, step.left)
		}
	}
	j.Close()
	_, r := open(t, dir, Options{})
	if got := ids(r.Settlements); !slices.Equal(got, []string{"4"}) {
		t.Errorf("recovered %v, want only the one that was not posted", got)
	}
}

func TestForgottenRecoveryIsDeleted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	j.Close()
	j, r := open(t, dir, Options{})
	j.Forget(r)
	j.Close()
	if _, r = open(t, dir, Options{}); len(r.Settlements) != 0 {
		t.Errorf("recovered %v after they were posted", ids(r.Settlements))
	}
}

func TestOpenRefusesWhatItCannotKeepSafe(t *testing.T) {
	t.Parallel()
	t.Run("a directory in use", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		open(t, dir, Options{})
		if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
			t.Errorf("second open: %v, want %v", err, ErrInUse)
		}
	})
	t.Run("a newer format", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "0000000000000001"+segmentSuffix), []byte(magic+"2\n"), 0o600)
		if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrNewer) {
			t.Errorf("open: %v, want %v", err, ErrNewer)
		}
	})
	t.Run("a path that is a file", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "file")
		os.WriteFile(file, nil, 0o600)
		if _, _, err := Open(filepath.Join(file, "journal"), Options{}); err == nil {
			t.Error("open succeeded")
		}
	})
}

func TestConcurrentAppendsAreAllRecovered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{Sync: SyncAlways, SegmentSize: 4 << 10})
	var group sync.WaitGroup
	const writers, each = 16, 25
	for w := range writers {
		group.Go(func() {
			for i := range each {
				s := billing.Settlement{RequestID: fmt.Sprintf("req_%d_%d", w, i)}
				if _, err := j.Append(billing.RecordSettle, &s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	j.Close()
	_, r := open(t, dir, Options{})
	seen := make(map[string]bool)
	for _, id := range ids(r.Settlements) {
		seen[id] = true
	}
	if len(seen) != writers*each {
		t.Errorf("recovered %d of %d", len(seen), writers*each)
	}
}

func ids(list []billing.Settlement) []string {
	var ids []string
	for _, s := range list {
		ids = append(ids, s.RequestID)
	}
	return ids
}

// FuzzDecodeRecord reaches the codec, which the checksum hides from
// FuzzReadSegment.
func FuzzDecodeRecord(f *testing.F) {
	s := billing.Settlement{RequestID: "req_1", Cost: 5, Changes: []string{"a"}}
	f.Add(appendRecord(nil, billing.RecordBegin, &s)[recordHeader:])
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, s, err := decodeRecord(payload)
		if err == nil && len(s.Changes) > len(payload) {
			t.Errorf("%d changes out of %d bytes", len(s.Changes), len(payload))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, sync := range []Sync{SyncInterval, SyncOff} {
		b.Run(string(sync), func(b *testing.B) {
			j, _, err := Open(b.TempDir(), Options{Sync: sync})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			s := billing.Settlement{
				RequestID: "req_01jd0000000000000000000000", OrganizationID: "default",
				KeyID: "key_01jd0000000000000000000000", KeyName: "production", At: time.Now(),
				Provider: "openai", Model: "gpt-4o-2024-08-06", Endpoint: "chat/completions",
				UserAgent: "OpenAI/JS 7.57.0", ClientIP: "127.0.0.1",
			}
			b.ReportAllocs()
			for b.Loop() {
				segment, err := j.Append(billing.RecordSettle, &s)
				if err != nil {
					b.Fatal(err)
				}
				j.Posted(segment)
			}
		})
	}
}
