package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"
)

func TestReadersKeepFewPages(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	proof, err := sql.Open("sqlite", readOnlyDSN(s.path))
	if err != nil {
		t.Fatal(err)
	}
	defer proof.Close()
	for name, db := range map[string]*sql.DB{"reader": s.reader, "proof": proof} {
		var size int
		if err := db.QueryRowContext(t.Context(), "PRAGMA cache_size").Scan(&size); err != nil {
			t.Fatal(err)
		}
		if size != -512 { // in KiB where it is negative
			t.Errorf("a %s has a cache of %d", name, size)
		}
	}
}
