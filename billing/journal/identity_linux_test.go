package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestFullDiskAtTheStartIsNoReasonToStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	write(t, j, billing.RecordSettle, full(t, "req_1"))
	j.Close()
	// The first attempt at the note finds no space, the next one does.
	if err := os.Symlink("/dev/full", filepath.Join(dir, databaseFile+".new")); err != nil {
		t.Fatal(err)
	}
	_, r := open(t, dir, with(ours))
	if len(r.Settlements) != 1 || noted(t, dir) != ours {
		t.Errorf("recovered %v of database %q", ids(r.Settlements), noted(t, dir))
	}
}
