package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// rejectedLines reads the file as another program would.
func rejectedLines(t *testing.T, dir string) (lines []map[string]any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, rejectedFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			continue // cut off
		}
		lines = append(lines, v)
	}
	return lines
}

func setAside(t *testing.T, j *Journal, s billing.Settlement) {
	t.Helper()
	file, err := j.SetAside(&s, "negative cost -1")
	if err != nil || file != filepath.Join(j.dir, rejectedFile) {
		t.Fatalf("set aside in %s: %v", file, err)
	}
}

func TestRejectedSettlementIsKeptWithAllFields(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	s := full(t, "req_1")
	setAside(t, j, s)
	lines := rejectedLines(t, dir)
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	line := lines[0]
	for field, want := range map[string]any{"reason": "negative cost -1", "node": j.Node(), "database": ours} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	if _, err := time.Parse(time.RFC3339, line["rejected_at"].(string)); err != nil {
		t.Error(err)
	}
	fields := line["settlement"].(map[string]any)
	for f := range reflect.TypeFor[billing.Settlement]().Fields() {
		if _, ok := fields[f.Name]; !ok {
			t.Errorf("no %s in %v", f.Name, fields)
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	var got billing.Settlement
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	s.MarketCost, got.MarketCost = 0, 0 // more digits than a JavaScript number has
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("settlement (-want +got):\n%s", diff)
	}
}

func TestSettlementIsSetAsideOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	setAside(t, j, full(t, "req_1"))
	setAside(t, j, full(t, "req_1"))
	j.Close()
	j, _ = open(t, dir, with(ours))
	setAside(t, j, full(t, "req_1"))
	changed := full(t, "req_1")
	changed.Cost++
	setAside(t, j, changed)
	if lines := rejectedLines(t, dir); len(lines) != 2 {
		t.Errorf("%d lines, want one for each content", len(lines))
	}
}

func TestSettlementsThatJSONHasNoFormForAreSetAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	late, garbled := full(t, "req_1"), full(t, "req_2")
	late.At = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
	garbled.UserAgent = "\xff\x00\n<>"
	setAside(t, j, late)
	setAside(t, j, garbled)
	setAside(t, j, garbled)
	lines := rejectedLines(t, dir)
	if len(lines) != 2 || lines[0]["settlement"].(map[string]any)["At"] != "20000-01-01T00:00:00Z" {
		t.Errorf("lines are %v", lines)
	}
}

func TestLineThatWasCutOffDoesNotSpoilTheNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	setAside(t, j, full(t, "req_1"))
	j.Close()
	path := filepath.Join(dir, rejectedFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, _ := open(t, dir, with(ours))
		setAside(t, j, full(t, "req_1"))
		setAside(t, j, full(t, "req_2"))
		j.Close()
		var got []string
		for _, line := range rejectedLines(t, dir) {
			got = append(got, line["settlement"].(map[string]any)["RequestID"].(string))
		}
		if want := []string{"req_1", "req_2"}; !slices.Equal(got, want) {
			t.Errorf("cut at %d of %d: lines of %v, want %v", cut, len(whole), got, want)
		}
	}
}

func TestWhatCannotBeSetAsideIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, _ := open(t, dir, with(ours))
	if err := os.Mkdir(filepath.Join(dir, rejectedFile), 0o700); err != nil {
		t.Fatal(err)
	}
	s := full(t, "req_1")
	for range 2 {
		if _, err := j.SetAside(&s, "negative cost"); err == nil {
			t.Error("a settlement was set aside in a directory")
		}
	}
	if err := os.Remove(filepath.Join(dir, rejectedFile)); err != nil {
		t.Fatal(err)
	}
	setAside(t, j, s)
	j.Close()
	if _, err := j.SetAside(&s, "negative cost"); !errors.Is(err, ErrClosed) {
		t.Errorf("error of a closed journal is %v", err)
	}
}
