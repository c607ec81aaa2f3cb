package billing_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/metering"
)

// heard is what an observer was told.
type heard struct {
	mu        sync.Mutex
	posted    []string
	failed    int
	conflicts []string
	rejected  []string
}

func (h *heard) Posted(batch []billing.Settlement) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch {
		h.posted = append(h.posted, batch[i].RequestID)
	}
}

func (h *heard) PostFailed(error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed++
}

func (h *heard) PostConflict(ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conflicts = append(h.conflicts, ids...)
}

func (h *heard) PostRejected(s *billing.Settlement, _ error, _ string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rejected = append(h.rejected, s.RequestID)
}

func (h *heard) failures() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// memory is a journal that keeps nothing.
type memory struct {
	mu     sync.Mutex
	posted int
	aside  []string
	full   bool
}

func (m *memory) Append(billing.RecordKind, *billing.Settlement) (billing.Segment, error) {
	return 1, nil
}

func (m *memory) Posted(segments ...billing.Segment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.posted += len(segments)
}

func (m *memory) SetAside(s *billing.Settlement, _ string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return "", errors.New("no space left on device")
	}
	m.aside = append(m.aside, s.RequestID)
	return "rejected.jsonl", nil
}

// letGo is how many segments are posted, and how many settlements set aside.
func (m *memory) letGo() (posted, aside int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.posted, len(m.aside)
}

// scripted is a ledger that answers as it is told.
type scripted struct {
	billing.Ledger
	mu   sync.Mutex
	err  error
	bad  map[string]bool // cannot be booked
	has  []string
	took int // posts
	work time.Duration
}

func (l *scripted) Post(_ context.Context, _ string, batch []billing.Settlement) ([]string, error) {
	time.Sleep(l.work)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.took++; l.err != nil {
		return nil, l.err
	}
	for i := range batch {
		if l.bad[batch[i].RequestID] {
			return nil, billing.ErrInvalid
		}
	}
	for i := range batch {
		l.has = append(l.has, batch[i].RequestID)
	}
	return nil, nil
}

func (l *scripted) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// posts is how often it was asked to post, and booked how much it has.
func (l *scripted) posts() (asked, booked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.took, len(l.has)
}

func TestRejectedSettlementBlocksNothingAndFreesItsHold(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	h := &heard{}
	b.poster = billing.NewPoster(b.store, b.journal, b.journal.Node(), h)
	b.lease(t, b.store, sole)
	b.buy(t, metering.USD)
	credits := billing.CreditsOf(org)
	var bad string
	for i := range 9 {
		s := settlement(10 * cent)
		hold, err := b.authorizer.Hold(t.Context(), billing.Claim{Allowances: []billing.Allowance{credits}, Amount: 10 * cent}, &s)
		if err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			bad = s.RequestID
			s.At = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		if err := hold.Settle(&s); err != nil {
			t.Fatal(err)
		}
	}
	b.check(t, 20*cent)
	b.checkLeases(t)
	if diff := cmp.Diff([]string{bad}, h.rejected); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
	line, err := os.ReadFile(filepath.Join(b.dir, "journal", "rejected.jsonl"))
	if err != nil || !bytes.Contains(line, []byte(bad)) {
		t.Errorf("%s is not in the file: %s (%v)", bad, line, err)
	}
	// What is left can be spent, all of it and no more.
	if err := b.spend(t.Context(), 20*cent+1, 0, "key_1", credits); !errors.Is(err, billing.ErrInsufficientCredits) {
		t.Errorf("holding more than is left: %v", err)
	}
	if err := b.spend(t.Context(), 20*cent, 20*cent, "key_1", credits); err != nil {
		t.Errorf("holding what is left: %v", err)
	}
	b.check(t, 0)
}

func TestErrorsThatMayPassAreTriedForever(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"away":                 errDown,
		"timeout":              context.DeadlineExceeded,
		"canceled by the pool": context.Canceled,
		"not this time":        billing.ErrConflict,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ledger, j, h := &scripted{err: err}, &memory{}, &heard{}
				poster := billing.NewPoster(ledger, j, "node", h)
				s := settlement(cent)
				poster.Post(s, 1)
				time.Sleep(time.Hour)
				if n := h.failures(); n < 2000 || n > 8000 {
					t.Errorf("%d attempts in an hour, want about one a second", n)
				}
				if posted, aside := j.letGo(); posted+aside > 0 {
					t.Errorf("set aside %d and let go %d segments", aside, posted)
				}
				ledger.fail(nil)
				if err := poster.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{s.RequestID}, ledger.has); diff != "" || j.posted != 1 {
					t.Errorf("%d segments let go, posted (-want +got):\n%s", j.posted, diff)
				}
			})
		})
	}
}

func TestWhatCannotBeSetAsideIsKeptInTheJournal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := settlement(cent)
		ledger, j, h := &scripted{bad: map[string]bool{s.RequestID: true}}, &memory{full: true}, &heard{}
		poster := billing.NewPoster(ledger, j, "node", h)
		poster.Post(s, 1)
		time.Sleep(time.Minute)
		if posted, aside := j.letGo(); posted+aside > 0 || h.failures() < 10 {
			t.Errorf("let go %d segments and set aside %d, after %d failures", posted, aside, h.failures())
		}
		j.mu.Lock()
		j.full = false
		j.mu.Unlock()
		if err := poster.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{s.RequestID}, j.aside); diff != "" || j.posted != 1 {
			t.Errorf("%d segments let go, set aside (-want +got):\n%s", j.posted, diff)
		}
	})
}

func TestWrongSettlementsAreFoundInAnyPlace(t *testing.T) {
	t.Parallel()
	for size := range 9 {
		for bad := range 1 << size {
			synctest.Test(t, func(t *testing.T) {
				ledger, j := &scripted{bad: make(map[string]bool)}, &memory{}
				poster := billing.NewPoster(ledger, j, "node", silent{})
				var good, wrong []string
				for i := range size {
					s := settlement(cent)
					if bad>>i&1 == 1 {
						ledger.bad[s.RequestID] = true
						wrong = append(wrong, s.RequestID)
					} else {
						good = append(good, s.RequestID)
					}
					poster.Post(s, billing.Segment(i))
				}
				if err := poster.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(good, ledger.has) + cmp.Diff(wrong, j.aside); diff != "" || j.posted != size {
					t.Errorf("%d of %d segments let go (-want +got):\n%s", j.posted, size, diff)
				}
			})
		}
	}
}

func TestConflictsAreReported(t *testing.T) {
	t.Parallel()
	b := openBooks(t, t.TempDir())
	h := &heard{}
	b.poster = billing.NewPoster(b.store, b.journal, b.journal.Node(), h)
	s := settlement(cent)
	changed := s
	changed.Cost++
	b.poster.Post(s)
	b.poster.Post(changed)
	b.check(t, -cent)
	if diff := cmp.Diff([]string{s.RequestID}, h.conflicts); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
}

// A journal in which a settlement cannot be booked must not keep the node from
// starting, nor may it be written down anew at each start.
func TestRecoveryGetsPastWhatCannotBeBooked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	openJournal := func() (*journal.Journal, *journal.Recovered) {
		j, r, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return j, r
	}
	j, _ := openJournal()
	var want []string
	for i := range 600 {
		s := settlement(cent)
		if i%250 == 3 {
			s.Cost = -cent
			want = append(want, s.RequestID)
		}
		if _, err := j.Append(billing.RecordSettle, &s); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	for range 2 { // the first start ends before it forgets what it has posted
		j, r := openJournal()
		h := &heard{}
		recovery := billing.Recovery{Store: store, Journal: j, Node: j.Node(), Observer: h}
		if err := recovery.Post(t.Context(), r.Settlements); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, h.rejected); diff != "" || len(r.Settlements) != 600 {
			t.Errorf("rejected of %d (-want +got):\n%s", len(r.Settlements), diff)
		}
		j.Close()
	}
	lines, err := os.ReadFile(filepath.Join(dir, "journal", "rejected.jsonl"))
	if err != nil || bytes.Count(lines, []byte("\n")) != len(want) {
		t.Errorf("the file is (%v)\n%s", err, lines)
	}
	totals, err := store.Usage(t.Context(), org, billing.Filter{}, billing.Grouping{})
	if err != nil || totals.Requests != 597 || totals.Cost != 597*cent {
		t.Errorf("booked %+v (%v)", totals, err)
	}
}

func TestRecoveryStopsAtErrorsThatMayPass(t *testing.T) {
	t.Parallel()
	s := settlement(cent)
	for name, test := range map[string]struct {
		ledger *scripted
		full   bool
	}{
		"the store is away":          {ledger: &scripted{err: errDown}},
		"it cannot be set aside now": {ledger: &scripted{bad: map[string]bool{s.RequestID: true}}, full: true},
	} {
		j := &memory{full: test.full}
		recovery := billing.Recovery{Store: test.ledger, Journal: j, Node: "node", Observer: silent{}}
		if err := recovery.Post(t.Context(), []billing.Settlement{s}); err == nil || len(j.aside) > 0 {
			t.Errorf("%s: error %v, set aside %v", name, err, j.aside)
		}
	}
}
