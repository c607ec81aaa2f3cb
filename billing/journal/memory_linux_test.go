package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestPostedSegmentsGiveTheirRoomBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SegmentSize: 1})
	for i := range 5 {
		j.Posted(write(t, j, billing.RecordSettle, full(t, fmt.Sprint(i))))
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(maps), filepath.Join(dir, "0")); n != 1 {
		t.Errorf("%d segments are mapped, want only the one that is appended to", n)
	}
}
