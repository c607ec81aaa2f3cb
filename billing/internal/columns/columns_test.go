package columns_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

func TestTimesOfBothStoresAreAlike(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 8, 0, 0, 1000, time.UTC)
	for name, test := range map[string]struct {
		stored any
		want   time.Time
	}{
		"microseconds": {at.UnixMicro(), at},
		"another zone": {at.In(time.FixedZone("", 3600)), at},
		"none":         {nil, time.Time{}},
	} {
		got := time.Now()
		if err := (columns.Time{To: &got}).Scan(test.stored); err != nil || got != test.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestWhatIsNotOfTheColumnIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		column sql.Scanner
		stored any
	}{
		"a text as a time":   {columns.Time{To: new(time.Time)}, "2026-11-01"},
		"a short hash":       {columns.Hash{To: new(billing.KeyHash)}, []byte("short")},
		"a text as a hash":   {columns.Hash{To: new(billing.KeyHash)}, "text"},
		"NULL as a list":     {columns.List{To: new([]string)}, nil},
		"an object as lists": {columns.List{To: new([]string)}, `{}`},
	} {
		if err := test.column.Scan(test.stored); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	for _, stored := range []any{`["a","b"]`, []byte(`["a","b"]`)} {
		var got []string
		if err := (columns.List{To: &got}).Scan(stored); err != nil || !cmp.Equal(got, []string{"a", "b"}) {
			t.Errorf("%T: %q, %v", stored, got, err)
		}
	}
}
