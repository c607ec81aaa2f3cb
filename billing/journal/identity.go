package journal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Files beside the segments that say whose they are.
const (
	nodeFile     = "node"
	databaseFile = "database"
)

// identity is what a journal knows of itself.
type identity struct {
	node        string
	incarnation string
	// noted is the database that the directory says it belongs to, "" if it
	// does not say.
	noted string
}

// Node names this journal in the store: it stays the same for as long as the
// directory belongs to the same database, so that a restarted node finds its own
// leases again.
func (j *Journal) Node() string { return j.identity.node }

// Incarnation names this opening of the journal, and is never the same again.
// The lock keeps two processes of one machine apart. A copy of the directory on
// another machine has the same node, and each of the two would take the other's
// leases for its own: by their incarnations they can be told apart in the store.
func (j *Journal) Incarnation() string { return j.identity.incarnation }

// identify reads whose journal this is, and makes sure that the settlements it
// holds are this database's.
//
// A directory that holds none may go to another database. It becomes another
// node there: its name may be taken already, by a copy of the directory that
// went there before, and two nodes of one name share their leases. What the old
// name has leased in the old database stays with it until it is released there.
// A directory from before there were notes belongs to whoever opens it.
func (j *Journal) identify(held int) error {
	var err error
	id := identity{incarnation: newID("run_")}
	if id.node, err = readNote(j.dir, nodeFile); err != nil {
		return err
	}
	if id.noted, err = readNote(j.dir, databaseFile); err != nil {
		return err
	}
	moved := id.noted != "" && j.options.Database != "" && id.noted != j.options.Database
	if moved && held > 0 {
		return fmt.Errorf("%w: %s holds %d settlements that may not be posted yet to database %s, but storage is database %s; "+
			"point storage at the database that the journal belongs to, or move the directory away",
			ErrOtherDatabase, j.dir, held, id.noted, j.options.Database)
	}
	if id.node == "" || moved {
		id.node = newID("node_")
		// Before the database is noted: what ends in between begins again.
		if err := writeNote(j.dir, nodeFile, id.node); err != nil {
			return err
		}
	}
	j.identity = id
	if err := j.noteDatabase(); err != nil && !isFull(err) { // then it is noted when there is room for records
		return err
	}
	return nil
}

// noteDatabase writes down which database the directory belongs to.
func (j *Journal) noteDatabase() error {
	database := j.options.Database
	if database == "" || j.identity.noted == database {
		return nil
	}
	if err := writeNote(j.dir, databaseFile, database); err != nil {
		return err
	}
	j.identity.noted = database
	return nil
}

// readNote returns what a file says in one line, "" if there is no such file.
func readNote(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s of journal: %w", name, err)
	}
	note := strings.TrimSpace(string(b))
	if note == "" || strings.ContainsAny(note, "\x00\n") {
		return "", fmt.Errorf("read %s of journal: %s is damaged; restore it, or delete it to have it written anew", name, path)
	}
	return note, nil
}

func writeNote(dir, name, note string) error {
	if err := writeFileSynced(filepath.Join(dir, name), []byte(note+"\n")); err != nil {
		return fmt.Errorf("write %s of journal: %w", name, err)
	}
	return nil
}

func newID(prefix string) string {
	var id [8]byte
	rand.Read(id[:])
	return prefix + hex.EncodeToString(id[:])
}
