package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	ours   = "db_00000000000000000000000000000001"
	theirs = "db_00000000000000000000000000000002"
)

// with are the options of a journal for a database.
func with(database string) Options { return Options{Database: database} }

// noted is the database that a directory says it belongs to.
func noted(t *testing.T, dir string) string {
	t.Helper()
	note, err := readNote(dir, databaseFile)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func TestJournalWithSettlementsStaysWithItsDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	node := j.Node()
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	j.Close()

	for range 2 { // being refused changes nothing
		_, _, err := Open(dir, with(theirs))
		if !errors.Is(err, ErrOtherDatabase) {
			t.Fatalf("error is %v, want %v", err, ErrOtherDatabase)
		}
		for _, want := range []string{ours, theirs, dir, "1 settlements", "point storage at", "move the directory away"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error is %q, want %q in it", err, want)
			}
		}
	}
	j, r := open(t, dir, with(ours))
	if len(r.Settlements) != 1 || j.Node() != node {
		t.Errorf("recovered %v as node %s, want req_1 as %s", ids(r.Settlements), j.Node(), node)
	}
}

func TestEmptyJournalGoesToAnotherDatabaseAsAnotherNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	node := j.Node()
	j.Posted(write(t, j, billing.RecordSettle, full(t, "req_1")))
	j.Close()

	j, r := open(t, dir, with(theirs))
	if moved := j.Node(); moved == node || len(r.Settlements) > 0 {
		t.Errorf("it is node %s as before, and recovered %v", moved, ids(r.Settlements))
	}
	if got := noted(t, dir); got != theirs {
		t.Errorf("it belongs to %s, want %s", got, theirs)
	}
	node = j.Node()
	j.Close()
	if j, _ = open(t, dir, with(theirs)); j.Node() != node {
		t.Errorf("node is %s after reopening, was %s", j.Node(), node)
	}
}

// A start that ends between its two notes must not leave the old name with the
// new database.
func TestMoveThatWasInterruptedBeginsAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	node := j.Node()
	j.Close()
	if err := os.Mkdir(filepath.Join(dir, databaseFile+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, with(theirs)); err == nil {
		t.Fatal("a note that cannot be written was not missed")
	}
	if got := noted(t, dir); got != ours {
		t.Errorf("it belongs to %s after half a move", got)
	}
	if err := os.Remove(filepath.Join(dir, databaseFile+".new")); err != nil {
		t.Fatal(err)
	}
	if j, _ = open(t, dir, with(theirs)); j.Node() == node {
		t.Errorf("it is still node %s", node)
	}
}

func TestJournalWithoutANoteBelongsToWhoeverOpensIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{}) // as before there were notes
	node := j.Node()
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	j.Close()

	j, r := open(t, dir, with(ours))
	if len(r.Settlements) != 1 || j.Node() != node {
		t.Errorf("recovered %v as node %s, want req_1 as %s", ids(r.Settlements), j.Node(), node)
	}
	j.Close()
	if _, _, err := Open(dir, with(theirs)); !errors.Is(err, ErrOtherDatabase) {
		t.Errorf("error is %v, want %v", err, ErrOtherDatabase)
	}
}

func TestDatabaseIsNotedBeforeTheFirstRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var early atomic.Bool
	options := with(ours)
	options.disk.reserve = func(*os.File, int64) ([]byte, error) {
		if noted(t, dir) != ours {
			early.Store(true)
		}
		return nil, nil
	}
	j, _ := open(t, dir, options)
	write(t, j, billing.RecordBegin, full(t, "req_1"))
	if early.Load() {
		t.Error("a segment was made before the note")
	}
}

// A disk without room for a note has none for records. It must not keep the
// caller from posting what is here.
func TestDatabaseIsNotedWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	j := &Journal{dir: t.TempDir(), options: with(ours)}
	j.options.disk.reserve = reserveNothing
	j.next = 1
	if err := os.Mkdir(filepath.Join(j.dir, databaseFile+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := j.rotate(); err == nil {
		t.Fatal("records were let in without a note")
	}
	if _, err := os.Stat(j.path(1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a segment is there: %v", err)
	}
	if err := os.Remove(filepath.Join(j.dir, databaseFile+".new")); err != nil {
		t.Fatal(err)
	}
	j.retryAt = j.retryAt.Add(-retryFull)
	if err := j.rotate(); err != nil || noted(t, j.dir) != ours {
		t.Errorf("with room: %v", err)
	}
	j.active.close()
}

func TestEachOpeningHasItsOwnIncarnation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seen := make(map[string]bool)
	for range 5 {
		j, _ := open(t, dir, with(ours))
		if id := j.Incarnation(); seen[id] || !strings.HasPrefix(id, "run_") {
			t.Errorf("incarnation is %q, after %v", id, seen)
		}
		seen[j.Incarnation()] = true
		j.Close()
	}
}
