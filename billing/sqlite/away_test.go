package sqlite

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// A file that SQLite makes in the place of one that is away is empty, and has
// the same log and locks.
func TestNoFileIsMadeInThePlaceOfOneThatIsAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fillBooks(t, s)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	var open []*sql.Conn
	for range readers { // of which one at most was open before
		if conn, err := s.reader.Conn(t.Context()); err == nil {
			open = append(open, conn)
		}
	}
	for _, conn := range open {
		conn.Close()
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file in the place of the database: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	conflicts, err := s.Post(t.Context(), "node_1", []billing.Settlement{{
		RequestID: billing.NewID(billing.RequestIDPrefix, time.Now()), OrganizationID: "org",
		KeyID: "key_1", At: time.Now(), Cost: 7,
	}})
	if err != nil || len(conflicts) > 0 {
		t.Errorf("post to the database that is back: %v", err)
	}
	if a, err := s.Account(t.Context(), "org"); err != nil || a.Balance != 500-5-7 {
		t.Errorf("balance %s, %v", a.Balance, err)
	}
}
